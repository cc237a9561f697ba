"""Every snippet and command of the READMEs runs as it is written, and what they name exists."""

import inspect
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from lightning_memaudit.cli.bench import BENCHMARKS
from lightning_memaudit.cli.main import main
from lightning_memaudit.recovery.methods.registry import METHODS

pytestmark = pytest.mark.usefixtures("reads_here")

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "README.md"
OTHERS = ("configs", "docker", "lightning_memaudit/bench", "lightning_memaudit/callback")
READMES = [FRONT, *(ROOT / folder / "README.md" for folder in OTHERS)]
MAX_LINES = 200


def name(file):
    return str(file.relative_to(ROOT))


def blocks(file, wanted):
    found = re.findall(r"^```(\w+)\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language == wanted]


SNIPPETS = [(name(file), text) for file in READMES for text in blocks(file, "python")]
COMMANDS = [
    shlex.split(command[1], comments=True)[3:]
    for file in READMES
    for text in blocks(file, "bash")
    for command in re.finditer(r"^(?:.* && \.venv/bin/)?(python -m lightning_memaudit .*)$", text, re.MULTILINE)
]
SHORT = {
    "fit": ["--trainer.max_epochs=2", "--memaudit.methods=[paper_blind]", "--memaudit.at_train_loss=[]"],
    "audit": ["--memaudit.methods=[paper_blind]"],
}
"""Options that make a command quick."""


@pytest.mark.parametrize(("file", "snippet"), SNIPPETS)
def test_snippet_runs(file, snippet):
    exec(compile(snippet, file, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_commands_run_one_after_the_other(tmp_path, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in COMMANDS:
        arguments = [*command]
        if "configs/ddp.yaml" in arguments:
            arguments += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
        if arguments[0] == "dashboard" and "--dry_run" not in arguments:
            continue  # saves on a server
        if "runs/a" in arguments:
            shutil.copytree("runs/quickstart", "runs/a")
            assert main(["fit", "--seed_everything=1", "--trainer.default_root_dir=runs/b", *SHORT["fit"]]) == 0
        target = None
        if ">" in arguments:
            *arguments, _, target = arguments
        assert main(arguments + SHORT.get(arguments[0], [])) == 0, command
        printed = capsys.readouterr().out
        if target is not None:
            Path(target).write_text(printed)


def test_there_is_something_to_run():
    assert len(SNIPPETS) == 5, "attach, audit a function, volumes, a module of your own, a method of your own"
    assert {command[0] for command in COMMANDS} == {"fit", "audit", "report", "verify", "dashboard", "configs"}
    assert len(COMMANDS) == 12
    assert COMMANDS[0] == ["fit"], "what the others need comes first"


def test_measurements_and_their_options_exist():
    text = "".join(file.read_text().replace("\\\n", " ") for file in READMES)
    commands = re.findall(r"lightning_memaudit bench ([a-z]+)([^`\n]*)", text)
    assert {name for name, _ in commands} >= {"speed", "overhead", "ablation", "paper"}
    for name, options in commands:
        module, _, function = BENCHMARKS[name].partition(":")
        known = inspect.signature(getattr(import_module(module), function)).parameters
        assert set(re.findall(r"--(\w+)", options)) <= set(known), f"{name} {options}"


def test_the_front_page_is_short():
    assert len(FRONT.read_text().splitlines()) <= MAX_LINES


def test_the_front_page_names_every_method():
    rows = re.findall(r"^\| `(\w+)` \| (?:nothing|the mask) \|", FRONT.read_text(), re.MULTILINE)
    assert set(METHODS) | {"ddnm"} == set(rows)


def anchors(file):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", READMES, ids=name)
def test_links_to_files_lead_somewhere(file):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", file.read_text()):
        page = file.parent / target if target else file
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


@pytest.mark.parametrize("file", READMES, ids=name)
def test_named_files_exist(file):
    text = file.read_text()
    for path in re.findall(r"(?<![\w/.])(?:lightning_memaudit|configs|docker)/[\w/.-]*\w", text):
        assert (ROOT / path).exists(), path
    rooms = "|".join(folder.name for folder in (ROOT / "lightning_memaudit").iterdir() if folder.is_dir())
    for path in re.findall(rf"`((?:{rooms})/[\w/.]+)`", text):
        assert (ROOT / "lightning_memaudit" / path).exists(), path

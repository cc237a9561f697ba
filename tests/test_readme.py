"""Every snippet and command of the README runs as it is written."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from lightning_memaudit.cli import main

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("  #")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("python -m lightning_memaudit ")
]
SHORT = {
    "fit": ["--trainer.max_epochs=2", "--memaudit.methods=[paper_blind]", "--memaudit.at_train_loss=[]"],
    "audit": ["--memaudit.methods=[paper_blind]"],
}
"""Options that make a command quick."""


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet):
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})


def test_commands_run_one_after_the_other(tmp_path, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in COMMANDS:
        arguments = shlex.split(command)[3:]
        if "configs/ddp.yaml" in arguments:
            arguments += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
        if arguments[0] == "dashboard" and "--dry_run" not in arguments:
            continue  # saves on a server
        if "runs/a" in arguments:
            for name in ("runs/a", "runs/b"):
                shutil.copytree("runs/quickstart", name)
        assert main(arguments + SHORT.get(arguments[0], [])) == 0, command
        capsys.readouterr()


def test_there_is_something_to_run():
    assert len(SNIPPETS) >= 2
    assert COMMANDS


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target

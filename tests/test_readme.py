"""Every snippet and command of the README runs as it is written."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_memaudit.cli import main

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("python -m lightning_memaudit ")
]
SHORT = ["--trainer.max_epochs=2", "--memaudit.methods=[paper_blind]", "--memaudit.at_train_loss=[]"]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet):
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    arguments = shlex.split(command)[3:]
    assert main(arguments + (SHORT if arguments[0] == "fit" else [])) == 0


def test_there_is_something_to_run():
    assert len(SNIPPETS) >= 2
    assert COMMANDS


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target

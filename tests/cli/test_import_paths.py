"""Functions given by import paths reach the callback as they were written, from options and from YAML."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from their_project import FAST, write_project

import lightning_memaudit
from lightning_memaudit.cli.fit import parse, the_callback, with_quickstart
from lightning_memaudit.cli.main import main
from lightning_memaudit.cli.parser import OneLineParser

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")

Key = int | str | Sequence[int | str]


class Reads:
    """Takes the keys of an image in all their forms."""

    def __init__(self, key: Key | Mapping[str, Key | None] | Callable[[Any], Any] | None = None) -> None:
        self.key = key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("package.reading.pixels", "package.reading.pixels"),
        ("{members: image, controls: 0}", {"members": "image", "controls": 0}),
        ("{members: [views, 0], controls: null}", {"members": ["views", 0], "controls": None}),
        ("[views, 0]", ["views", 0]),
        ("0", 0),
        ("null", None),
    ],
)
def test_keys_in_all_their_forms(text, value, tmp_path):
    parser = OneLineParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Reads, "reads")
    (tmp_path / "keys.yaml").write_text(f"reads:\n  key: {text}\n")
    for arguments in ([f"--reads.key={text}"], ["--config=keys.yaml"]):
        assert parser.instantiate_classes(parser.parse_args(arguments)).reads.key == value


def test_functions_are_passed_as_they_were_written(tmp_path):
    (tmp_path / "run.yaml").write_text("memaudit:\n  reconstruct: package.calls.decode\n")
    configs = [*with_quickstart([]), "--config=run.yaml"]
    assert the_callback(parse(configs, run=False).trainer).how.reconstruct == "package.calls.decode"
    option = "--memaudit.reconstruct=package.calls.decode"
    assert the_callback(parse(with_quickstart([option]), run=False).trainer).how.reconstruct == "package.calls.decode"


@pytest.mark.parametrize("name", ["no_such_package.calls.decode", "json.no_such_function"])
def test_a_function_that_is_not_there_is_one_line(name, capsys):
    assert main(["fit", "--trainer.max_epochs=1", f"--memaudit.reconstruct={name}"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert f"reconstruct={name!r}" in error


def test_the_folder_of_the_command_can_be_imported_from_and_is_forgotten(project, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", os.getcwd())])  # noqa: PTH109
    before = list(sys.path)
    named = [f"--model={project}.Autoencoder", f"--data={project}.Data"]
    assert main(["fit", *named, *FAST, "--trainer.max_epochs=1"]) == 0
    assert sys.path == before


@pytest.mark.slow
def test_also_where_python_leaves_that_folder_out(tmp_path):
    module = write_project(tmp_path)
    root = str(Path(lightning_memaudit.__file__).parent.parent)
    start = f"import sys; sys.path.append({root!r}); from lightning_memaudit.cli.main import main; sys.exit(main())"
    named = [f"--model={module}.Autoencoder", f"--data={module}.Data", "--print_config"]
    done = subprocess.run([sys.executable, "-I", "-c", start, "fit", *named], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"class_path: {module}.Autoencoder" in done.stdout

"""A results file that is torn, or has a row too few or too many, is named in one line with what to do."""

import shutil

import pytest
from forgery import read_rows, write_rows
from run_folder_fixture import make_run_folder

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_page")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    small = {"patterns": ("random-0.5",), "methods": ("blind", "biharmonic"), "num_images": 6, "num_controls": 6}
    folder = make_run_folder(tmp_path_factory.mktemp("honest"), train_losses=(1e-2, 1e-5), **small)
    write_report(folder, figures=False)
    return folder.path


@pytest.fixture
def folder(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "memaudit")
    return RunFolder(tmp_path / "memaudit")


def torn(path):
    path.write_bytes(path.read_bytes()[:-20])


def rows(change):
    def apply(path):
        write_rows(path, change(read_rows(path)))

    return apply


def without(index):
    return rows(lambda every: every[:index] + every[index + 1 :])


def twice(index):
    return rows(lambda every: every[: index + 1] + every[index:])


IMAGES, AUDITS, ARRAYS = "images.jsonl", "audits.jsonl", "recoveries/audit-0001.npz"
REFUSED = {
    "torn images": (IMAGES, torn),
    "an image less": (IMAGES, without(7)),
    "an image less in the newest audit": (IMAGES, without(-3)),
    "an image twice": (IMAGES, twice(30)),
    "half of the images": (IMAGES, rows(lambda every: every[: len(every) // 2])),
    "the first audit's images less": (IMAGES, rows(lambda every: [row for row in every if row["audit"]])),
    "no images": (IMAGES, lambda path: path.write_bytes(b"")),
    "a torn line within": (IMAGES, lambda path: path.write_bytes(path.read_bytes().replace(b"}\n", b"\n", 1))),
    "a torn line within audits": (AUDITS, lambda path: path.write_bytes(path.read_bytes().replace(b"}\n", b"\n", 1))),
    "no audits": (AUDITS, lambda path: path.write_bytes(b"")),
    "torn run.json": ("run.json", torn),
    "torn recoveries": (ARRAYS, torn),
    "no recoveries in the file": (ARRAYS, lambda path: path.write_bytes(b"")),
}
"""What no report can be made of."""
FOUND = {
    "torn audits": (AUDITS, torn),
    "an audit's row less": (AUDITS, without(1)),
    "an audit's row twice": (AUDITS, twice(1)),
    "torn hashes": ("report.sha256", torn),
}
"""What a report can be made of, as of what a kill leaves: verify says what is wrong."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_report_can_be_made_of_is_named_in_one_line(folder, name, capsys):
    file, change = REFUSED[name]
    change(folder.path / file)
    assert main(["report", str(folder.path), "--no_figures"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder.path / file} ")
    assert error.count("\n") == 1
    assert ": " in error.removeprefix("error: "), "what to do stands behind a colon"
    assert main(["verify", str(folder.path)]) in (1, 2)


@pytest.mark.parametrize("name", FOUND)
def test_what_a_report_can_be_made_of_is_not_called_true(folder, name, capsys):
    file, change = FOUND[name]
    change(folder.path / file)
    assert main(["verify", str(folder.path)]) == 1
    [problem, *_] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗ ")]
    assert "operands" not in problem

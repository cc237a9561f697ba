"""A run without controls has a report like any other, and it says inconclusive and why."""

import io
import json

import pytest
from rich.console import Console
from run_folder_fixture import make_run_folder

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.document import check_schema
from lightning_memaudit.report.terminal import print_audit, print_verdict
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report


def printed(document):
    console = Console(file=io.StringIO(), width=300)
    print_audit(document["rates"], console)
    print_verdict(document, console)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"num_images": 1, "train_losses": (1e-5,)},
        {"num_images": 1, "train_losses": (1e-4,), "memorizes": False, "identity": True},
        {"num_images": 30, "train_losses": (1e-5,), "memorizes": False},
        {
            "num_images": 4,
            "train_losses": (1e-2, 1e-5),
            "untrained": True,
            "patterns": ("random-0.5", "random-0.9"),
            "methods": ("blind", "biharmonic"),
        },
        {"num_images": 2, "train_losses": (1e-5,), "methods": ("blind",)},
    ],
)
def test_everything_works(tmp_path, options):
    folder = make_run_folder(tmp_path, num_controls=0, **options)
    for file in ("largest_missing.json", "proximal.json"):
        rows = [{"group": "members", "image": 0, "position": 0, "largest_missing": 0.5, "asymmetry": 0.1}]
        (folder.path / file).write_text(json.dumps({"images": rows}))
    report = write_report(folder)
    check_schema(report.document)
    assert report.document["verdict"]["outcome"] == "inconclusive"
    assert "too_few_controls" in report.document["verdict"]["reasons"]
    assert all(path.is_file() for path in report.figures)
    assert len(report.figures) >= 2
    assert is_true(verify(folder))
    text = report.html.read_text()
    assert "there were no controls" in text
    assert "no controls to compare with" in text
    assert "then two that were not trained on" not in text
    assert "there were no controls" in printed(report.document)
    assert main(["report", str(folder.path), "--no_figures"]) == 0
    assert main(["verify", str(folder.path)]) == 0


def test_with_controls_the_page_says_nothing_of_none(finished):
    text = finished[1].html.read_text()
    assert "no controls to compare with" not in text
    assert "then two that were not trained on" in text

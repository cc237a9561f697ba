"""A run that was killed or resumed since its report is at most ahead of it, and a config beside is not the run's."""

import json
import shutil

import pytest
import torch
from autoencoders import memory
from forgery import change_rows, strip

from lightning_memaudit import audit
from lightning_memaudit.report.document import REPORT, seal
from lightning_memaudit.report.verify import conclusion, verify
from lightning_memaudit.report.verify.check import NOT_TRUE, OLDER
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.rows import image_rows
from lightning_memaudit.results.run_folder import RunFolder

TORN = {"audit": 1, "group": "members", "image": 0, "position": 0, "pattern": "half", "method": "biharmonic"}


@pytest.fixture(autouse=True)
def _short_page(monkeypatch):
    """What the page shows is tested elsewhere."""
    for place in ("report.write", "report.verify.page"):
        monkeypatch.setattr(f"lightning_memaudit.{place}.render", lambda *_: "<p>a page</p>")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    folder = RunFolder(tmp_path_factory.mktemp("honest") / "memaudit")
    folder.write_run({"created": "2025"})
    audit(memory(images[:3]), images[:3], images[3:], patterns=["half"], methods=["biharmonic"]).append_to(folder)
    return folder


@pytest.fixture
def folder(honest, tmp_path):
    shutil.copytree(honest.path, tmp_path / "memaudit")
    return RunFolder(tmp_path / "memaudit")


def said(folder):
    return conclusion(verify(RunFolder(folder.path))).partition(" NOT CHECKED")[0]


def report(folder):
    write_report(folder, figures=False)


def is_killed(folder):
    """While the next audit was being written."""
    with (folder.path / "images.jsonl").open("a") as file:
        file.write(json.dumps(TORN) + "\n" + '{"audit": 1, "gro')


def goes_on(folder):
    RunFolder(folder.path).prepare()


def test_a_report_before_or_after_a_kill_is_true(folder):
    for history in ((report, is_killed), (goes_on,), (is_killed, report), (goes_on,)):
        for step in history:
            step(folder)
        assert said(folder) == "The report is true."


def is_resumed(folder, **changes):
    again = RunFolder(folder.path)
    again.begin(1)
    again.write_run(again.run() | {"created": "2026"} | changes)


def test_a_report_of_a_run_that_is_resumed_is_older(folder):
    report(folder)
    is_resumed(folder)
    assert said(folder) == OLDER
    (folder.path.parent / "config.yaml").write_text("a: 1")
    is_resumed(folder, notes=["again"])
    assert said(folder) == OLDER
    report(folder)
    assert said(folder) == "The report is true."


def test_it_is_no_excuse_for_what_is_not_true(folder):
    report(folder)
    document = json.loads((folder.path / REPORT).read_text())
    document["verdict"]["headline"] = "No memorization found."
    (folder.path / REPORT).write_text(json.dumps(seal(document)))
    is_resumed(folder)
    assert said(folder) == NOT_TRUE
    report(folder)
    text = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(text.replace("2026", "2027"))
    assert said(folder) == NOT_TRUE, "it does not have its own hash"
    (folder.path / "run.json").write_text(text)
    is_resumed(folder, created="2028")
    change_rows(folder.path / "images.jsonl", lambda row: row.update(psnr=1.0))
    assert said(folder) == NOT_TRUE


def test_a_config_that_appears_beside_a_run_without_one_is_not_its_own(folder):
    report(folder)
    config = folder.path.parent / "config.yaml"
    config.write_text("of: another run")
    assert RunFolder(folder.path).config() is None
    assert said(folder) == "The report is true."
    RunFolder(folder.path).begin(0, "another run")
    aside = folder.path / "superseded-1"
    assert not (aside / "run_config.yaml").exists()
    assert said(RunFolder(aside)) == "The report is true."
    assert (folder.path / "run_config.yaml").read_text() == "of: another run"


def test_a_run_of_an_earlier_version_may_move_without_the_config_beside(folder):
    strip(folder)
    config = folder.path.parent / "config.yaml"
    config.write_text("of: this run")
    report(folder)
    assert RunFolder(folder.path).config() == config
    config.unlink()
    assert said(folder) == "The report is true."


def test_arrays_that_cannot_be_read_end_no_check(folder):
    report(folder)
    [file] = (folder.path / "recoveries").glob("*.npz")
    file.write_bytes(b"PK nothing")
    checks = verify(folder)
    assert next(check for check in checks if check.name == "the saved recoveries can be read").passed is False
    assert next(check for check in checks if check.name == "report.json is as it was written").passed is True


def test_a_run_that_is_resumed_with_another_method_has_a_report(tmp_path):
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    folder = RunFolder(tmp_path / "memaudit")
    for number, method in enumerate(("autoencoder_iterations", "blind_black_box")):
        methods = [method, "biharmonic"]
        folder.write_run({"settings": {"primary_method": method, "methods": methods, "patterns": ["half"]}})
        one = audit(memory(images[:3]), images[:3], images[3:], patterns=["half"], methods=methods)
        rows, told = one.rows, list(image_rows(one.cells, one.occasion, one.threshold_db))
        numbered = [[row | {"audit": number} for row in some] for some in (rows, told)]
        folder.append_audit(*numbered, one.recoveries)
    document = write_report(folder, figures=False).document
    assert [one["audit"] for one in document["history"]] == [0, 1]
    assert document["judgement"]["method"] == "blind_black_box"
    assert said(folder) == "The report is true."

"""A hundred ways to make a report say something else: each is found out, or named as not checked."""

import shutil

import pytest
from forgery import recount, resign, strip
from run_folder_fixture import make_run_folder
from tamperings import AFTERWARDS, CHANGES, UNREADABLE

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.verify import verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

ONLY_WRITTEN_AFTERWARDS = {"a measurement of the autoencoder"}
"""What is measured when all audits are done has no hash in their chain."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = make_run_folder(
        tmp_path_factory.mktemp("honest"),
        patterns=("random-0.5",),
        methods=("blind", "known_mask", "biharmonic"),
        train_losses=(1e-2, 1e-5),
        untrained=True,
    )
    (folder.path.parent / "config.yaml").write_text("model: {lr: 0.001}\n")
    (folder.path / "run_config.yaml").write_text("model: {lr: 0.001}\n")
    resign(folder)
    document = write_report(folder).document
    assert document["verdict"]["outcome"] == "memorized"
    assert main(["verify", str(folder.path)]) == 0
    return folder.path


@pytest.fixture
def folder(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "run" / "memaudit")
    return RunFolder(tmp_path / "run" / "memaudit")


def made_anew(folder):
    """The exit code of the tool's own report."""
    return main(["report", str(folder.path), "--no_figures", "--no_pictures"])


@pytest.mark.parametrize("name", CHANGES)
def test_changed_results_are_found_out_by_their_hashes(folder, name):
    CHANGES[name][0](folder)
    code = made_anew(folder)
    assert code in (0, 2)
    assert main(["verify", str(folder.path)]) == (0 if name in ONLY_WRITTEN_AFTERWARDS else 1 if code == 0 else 2)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_results_are_found_out_or_named_when_counts_and_hashes_are_made_anew(folder, name, capsys):
    change, finds = CHANGES[name]
    change(folder)
    if finds == UNREADABLE:
        resign(folder) if "text" in name else None
        assert made_anew(folder) == 2
        assert "Traceback" not in capsys.readouterr().err
        return
    recount(folder)
    resign(folder)
    assert made_anew(folder) == 0
    _is_found(folder, finds, capsys)


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_changed_report_is_found_out_or_named(folder, name, capsys):
    change, finds = AFTERWARDS[name]
    change(folder)
    _is_found(folder, finds, capsys)


def _is_found(folder, finds, capsys):
    checks = {check.name: check for check in verify(folder)}
    failed = [check.name for check in checks.values() if check.passed is False]
    assert finds in failed or (not failed and checks[finds].passed is None), (failed, checks[finds])
    capsys.readouterr()
    assert main(["verify", str(folder.path)]) == bool(failed)
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("NOT true" in last) == bool(failed)
    assert failed or finds in last.partition("NOT CHECKED: ")[2].rstrip(".").split("; ")


def test_a_run_of_a_version_without_chain_is_true_and_that_is_said(folder, capsys):
    strip(folder)
    assert made_anew(folder) == 0
    _is_found(folder, "the hashes from audit to audit hold", capsys)
    _is_found(folder, "run.json is as it was written", capsys)

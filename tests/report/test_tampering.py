"""A hundred ways to make a report say something else: each is found out, or named as not checked."""

import shutil
from collections import Counter

import pytest
from forgery import change_rows, recount, resign, strip
from run_folder_fixture import make_run_folder
from tamperings import AFTERWARDS, CHANGES, COLUMNS, NUM_MEMBERS, UNREADABLE

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.manifest import add_to_manifest
from lightning_memaudit.report.verify.described import same_chain
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_page")

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
        num_images=NUM_MEMBERS,
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
    return main(["report", str(folder.path), "--no_figures"])


def verified(folder, capsys):
    """Exit code, names of what failed, and names of what was not checked, as the last line has them."""
    capsys.readouterr()
    code = main(["verify", str(folder.path)])
    lines = capsys.readouterr().out.splitlines() or [""]
    failed = [line[2:].partition(": ")[0] for line in lines if line.startswith("✗ ")]
    assert code == 2 or ("NOT true" in lines[-1]) == bool(failed) == bool(code)
    return code, failed, lines[-1].partition("NOT CHECKED: ")[2].rstrip(".").split("; ")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_changed_results_are_found_out_by_their_hashes(folder, name, capsys):
    CHANGES[name][0](folder)
    assert made_anew(folder) in (0, 2)
    code, _, not_checked = verified(folder, capsys)
    assert code in (1, 2) or (name in ONLY_WRITTEN_AFTERWARDS and CHANGES[name][1] in not_checked)


def _two_for_each_check():
    """Of the changes that the same check finds the first two are quick enough to be made always."""
    made = Counter()
    for name, (_, finds) in CHANGES.items():
        made[finds] += 1
        yield name if made[finds] <= 2 else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", list(_two_for_each_check()))
def test_changed_results_are_found_out_or_named_when_counts_and_hashes_are_made_anew(folder, name, capsys):
    change, finds = CHANGES[name]
    change(folder)
    if finds == UNREADABLE:
        assert made_anew(folder) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert verified(folder, capsys)[0] in (1, 2)
        return
    recount(folder)
    resign(folder)
    assert made_anew(folder) == 0
    _, failed, not_checked = verified(folder, capsys)
    assert finds in failed or (not failed and finds in not_checked), (failed, not_checked)


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_changed_report_is_found_out_or_named(folder, name, capsys):
    change, finds = AFTERWARDS[name]
    change(folder)
    _, failed, not_checked = verified(folder, capsys)
    assert finds in failed or (not failed and finds in not_checked), (failed, not_checked)


def test_a_run_of_a_version_without_chain_is_true_and_that_is_said(folder, capsys):
    strip(folder)
    assert made_anew(folder) == 0
    code, failed, not_checked = verified(folder, capsys)
    assert (code, failed) == (0, [])
    assert {"the hashes from audit to audit hold", "run.json is as it was written"} <= set(not_checked)
    assert "whether version 0.1.0 wrote the run" in not_checked


@pytest.mark.parametrize("version", ["0.2.0", "0.3.4", "1.0.dev0", ""])
def test_hashes_lack_in_no_run_of_a_version_that_kept_them(folder, capsys, version):
    strip(folder, version)
    assert made_anew(folder) == 0
    code, failed, _ = verified(folder, capsys)
    assert code == 1
    assert failed[:2] == ["run.json is as it was written", "the hashes from audit to audit hold"]
    assert failed[2:] == [COLUMNS], "the folder is of a version before, and lacks what others measured"


def test_a_report_that_is_older_than_its_results_is_called_so(folder, honest, capsys):
    """The run went on after the report, and audited once more."""
    rows = [row | {"audit": 3} for row in folder.audits() if row["audit"] == 2]
    images = [row | {"audit": 3} for row in folder.images(2)]
    folder.append_audit(rows, images, folder.newest_recoveries().arrays)
    capsys.readouterr()
    assert main(["verify", str(folder.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("The report is older than its results: make it again with `report`.")
    assert [line for line in lines if line.startswith("✗ ")] == [
        "✗ the report follows from the results files: it speaks of the audits up to 2, and there are some up to 3"
    ]
    assert made_anew(folder) == 0
    assert verified(folder, capsys)[0] == 0
    # It is no excuse for what does not follow.
    shutil.copy(honest / "report.json", folder.path)
    change_rows(folder.path / "images.jsonl", lambda row: row.update(psnr=1.0) if row["audit"] == 0 else None)
    assert verified(folder, capsys)[0] == 1


def test_a_newest_audit_that_was_set_aside_was_not_dropped(folder, capsys):
    """A kill after the results of a later history were removed, before run.json was written again."""
    rows = folder.audits()
    (folder.path / "run.json").rename(folder.path / "kept.json")
    folder._supersede(2)
    (folder.path / "kept.json").rename(folder.path / "run.json")
    assert {row["audit"] for row in folder.audits()} < {row["audit"] for row in rows}
    assert same_chain("chain", folder).passed is None
    shutil.rmtree(folder.path / "superseded-1")
    assert same_chain("chain", folder).passed is False


def test_words_of_another_version_are_not_called_true(folder, capsys):
    AFTERWARDS["the headline, by another version"][0](folder)
    capsys.readouterr()
    assert main(["verify", str(folder.path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("The report is true but for its words, which were not checked. NOT CHECKED: ")


def test_a_printed_page_is_named_as_not_checked_though_its_hash_is_made_anew(folder, capsys):
    (folder.path / "report.pdf").write_bytes(b"%PDF-1.4 No memorization found.")
    add_to_manifest(folder, folder.path / "report.pdf")
    code, failed, not_checked = verified(folder, capsys)
    assert (code, failed) == (0, [])
    assert "what report.pdf shows" in not_checked

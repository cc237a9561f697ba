"""What came back cannot be dropped by calling it a repeat: what was saved shows it, or the report hangs on the rest."""

import shutil

import pytest
import torch
from autoencoders import memory
from forgery import change_rows, change_run, read_rows, recount, resign

from lightning_memaudit import audit
from lightning_memaudit.report.document import read_document
from lightning_memaudit.report.verify import conclusion, verify
from lightning_memaudit.report.verify.check import NOT_TRUE
from lightning_memaudit.report.verify.repeated import HANGS, same_repeats
from lightning_memaudit.report.verify.rows import whole_rows
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_page")
CHECK = "what is left out shows what counts"
IMAGES = torch.rand(55, 1, 12, 12, generator=torch.Generator().manual_seed(0))
MEMBERS = torch.cat([IMAGES[:25], IMAGES[:6] * 0.998])
"""The first six are there again, a little darker, where only some are saved they are not."""
CONTROLS = torch.cat([IMAGES[25:26] * 0.998, IMAGES[20:21] * 0.998, IMAGES[25:50]])
SAVED = {"all": 64, "some": 23}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Runs of which all images were saved, or some."""
    found = {}
    for name, number in SAVED.items():
        folder = RunFolder(tmp_path_factory.mktemp(name) / "memaudit")
        folder.write_run({"versions": {"lightning_memaudit": "0.3.4"}, "settings": {"save_recoveries": number}})
        methods = ["autoencoder_iterations", "biharmonic"]
        how = {"patterns": ["half"], "methods": methods, "save_recoveries": number}
        report = audit(memory(MEMBERS), MEMBERS, CONTROLS, **how)
        report.append_to(folder)
        found[name] = folder
    return found


@pytest.fixture(params=SAVED)
def folder(honest, request, tmp_path):
    shutil.copytree(honest[request.param].path, tmp_path / "memaudit")
    return RunFolder(tmp_path / "memaudit")


def forge(folder, change, **run):
    """Change rows as a forger who makes counts, hashes and report anew; what run.json says too."""
    change_rows(folder.path / "images.jsonl", change)
    change_run(folder, lambda content: content.update(run))
    recount(folder)
    resign(folder)
    write_report(folder, figures=False)
    return read_document(folder)["verdict"]["outcome"], verify(folder)


def failed(checks):
    return [check.name for check in checks if check.passed is False]


def leave(group, whom):
    def change(row):
        if row["group"] == group and whom(row):
            row["repeated"] = True

    return change


def without_flag(row):
    del row["repeated"]


def came_back(folder, group="members"):
    rows = read_rows(folder.path / "images.jsonl")
    back = {
        row["position"] for row in rows if row["group"] == group and row["method"] != "biharmonic" and row["recovered"]
    }
    return lambda row: row["position"] in back


def test_an_honest_run_is_true_and_what_was_not_saved_is_named(folder):
    outcome, checks = forge(folder, lambda row: None)
    assert (outcome, failed(checks)) == ("memorized", [])
    number = read_document(folder)["judgement"]["num_repeated"]
    assert number == {"members": 6, "controls": 2}
    mine = [check for check in checks if check.name == CHECK or "left out as repeats" in check.name]
    if folder.run()["settings"]["save_recoveries"] > len(MEMBERS):
        assert [check.passed for check in mine] == [True]
    else:
        assert [check.passed for check in mine] == [None]
        assert " of 8 images left out as repeats are ones" in mine[0].name
        assert mine[0].name in conclusion(checks)


@pytest.mark.parametrize("version", ["0.3.4", "0.3.3", "0.2.0"])
def test_members_that_came_back_cannot_be_called_repeats(folder, version):
    versions = {"lightning_memaudit": version}
    outcome, checks = forge(folder, leave("members", came_back(folder)), versions=versions, near_duplicates=None)
    assert outcome != "memorized"
    assert failed(checks) == [CHECK]
    assert conclusion(checks).startswith(
        NOT_TRUE if len(MEMBERS) < folder.run()["settings"]["save_recoveries"] else HANGS
    )


def test_controls_cannot_be_called_repeats_until_too_few_are_left(folder):
    outcome, checks = forge(folder, leave("controls", lambda row: row["position"] > 8))
    assert outcome == "inconclusive"
    assert failed(checks) == [CHECK]


def test_repeats_cannot_count(folder):
    _, checks = forge(folder, lambda row: row.update(repeated=False))
    assert failed(checks) == [CHECK]
    assert conclusion(checks).startswith(NOT_TRUE)
    _, checks = forge(folder, without_flag)
    assert failed(checks) == [CHECK, "all columns of the results are known"]


def test_an_image_is_a_repeat_in_every_method_or_in_none(folder):
    change_rows(folder.path / "images.jsonl", leave("members", lambda row: row["method"] == "biharmonic"))
    resign(folder)
    check = whole_rows("rows", folder)
    assert check.passed is False
    assert "repeated" in check.detail


def test_a_run_from_before_repeats_were_left_out_is_not_accused(folder):
    forge(folder, without_flag, versions={"lightning_memaudit": "0.1.0"})
    assert same_repeats("repeats", folder, folder.newest_recoveries()).passed is None


def test_without_saved_images_all_that_is_left_out_is_named(folder):
    check = same_repeats("repeats", folder, None)
    assert (check.passed, check.name) == (None, "whether 8 of 8 images left out as repeats are ones")

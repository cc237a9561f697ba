"""The gain hangs on what anyone could have filled in: that is filled in again."""

import pytest
import torch
from autoencoders import memory
from forgery import change_rows, change_run, recount, resign

from lightning_memaudit import audit
from lightning_memaudit.recovery.methods.registry import METHODS
from lightning_memaudit.report.verify import verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

NAME = "baselines are what they fill in"


@pytest.fixture
def as_it_comes(tmp_path):
    """The results of an audit with the package's own blind method."""
    images = torch.rand(7, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    report = audit(
        memory(images[:4]), images[:4], images[4:], ["random-0.5"], ["blind", "biharmonic"], save_recoveries=9
    )
    folder = RunFolder(tmp_path / "memaudit")
    settings = {"primary_method": "blind", "method_settings": {"blind": repr(METHODS["blind"]())}}
    folder.write_run({"image_shape": [1, 12, 12], "settings": settings})
    report.append_to(folder)
    return folder


def shift(folder, group, db):
    """As a forger would: in every method's row alike, the gain with it, and all counts and hashes anew."""

    def change(row):
        if row["group"] == group:
            row["baseline_psnr"] += db
            if row["recovery_gain"] is not None:
                row["recovery_gain"] -= db

    change_rows(folder.path / "images.jsonl", change)
    recount(folder)
    resign(folder)
    write_report(folder, figures=False)


def found(folder):
    return {check.name: check.passed for check in verify(folder)}


def test_true_baselines_are_filled_in_again(as_it_comes):
    write_report(as_it_comes, figures=False)
    assert found(as_it_comes)[NAME] is True


@pytest.mark.parametrize(("group", "db"), [("controls", 4.0), ("members", 4.0), ("members", 0.2)])
def test_raised_baselines_are_found(as_it_comes, group, db):
    shift(as_it_comes, group, db)
    assert [name for name, passed in found(as_it_comes).items() if passed is False] == [NAME]


def test_of_another_method_no_baseline_is_below_what_is_known(as_it_comes):
    def another(run):
        run["settings"]["method_settings"]["blind"] = "BlindRecovery(max_evaluations=17)"

    change_run(as_it_comes, another)
    shift(as_it_comes, "members", 1.0)  # the method may have filled in that much without the autoencoder
    assert found(as_it_comes)[NAME] is None
    shift(as_it_comes, "members", -20.0)
    assert found(as_it_comes)[NAME] is False


def test_runs_without_baselines_are_not_checked(run):
    assert found(run)[NAME] is None

"""The gain hangs on what anyone could have filled in: that is filled in again."""

import re
import shutil

import numpy as np
import pytest
import torch
from autoencoders import memory
from forgery import change_rows, change_run, recount, resign

from lightning_memaudit import audit
from lightning_memaudit.recovery.methods.registry import METHODS
from lightning_memaudit.report.document import read_document
from lightning_memaudit.report.manifest import write_manifest
from lightning_memaudit.report.verify import conclusion, verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

NAME = "baselines are what they fill in"
INPAINTING = "inpainting fills in what the results say"


@pytest.fixture
def as_it_comes(tmp_path):
    """The results of an audit with the package's own blind method."""
    images = torch.rand(7, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    report = audit(
        memory(images[:4]),
        images[:4],
        images[4:],
        patterns=["random-0.5"],
        methods=["blind", "biharmonic"],
        save_recoveries=9,
    )
    folder = RunFolder(tmp_path / "memaudit")
    made = {name: repr(METHODS[name]()) for name in ("blind", "biharmonic")}
    settings = {"primary_method": "blind", "method_settings": made}
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
    assert found(as_it_comes)[NAME] is found(as_it_comes)[INPAINTING] is True


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


def test_a_blur_beside_a_mask_needs_no_baseline(tmp_path):
    images = torch.rand(7, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    methods = ["blind", "blind_deblurring", "biharmonic"]
    report = audit(memory(images[:4]), images[:4], images[4:], patterns=["random-0.5", "blur-1"], methods=methods)
    folder = RunFolder(tmp_path / "memaudit")
    made = {name: repr(METHODS[name]()) for name in methods}
    folder.write_run({"image_shape": [1, 12, 12], "settings": {"primary_method": "blind", "method_settings": made}})
    report.append_to(folder)
    write_report(folder, figures=False)
    assert not [check for check in verify(folder) if check.passed is False]
    assert found(folder)[NAME] is found(folder)[INPAINTING] is True


def test_who_writes_the_truth_into_the_inpainters_arrays_is_found(as_it_comes):
    saved = as_it_comes.newest_recoveries()
    arrays = saved.arrays | {"members/random-0.5/biharmonic/image": saved.arrays["members/truth"]}
    np.savez(saved.path, **arrays)

    def change(row):
        if row["group"] == "members":
            row["baseline_psnr"] = 120.0
            row["recovery_gain"] = row["hidden_psnr"] - 120.0 if row["method"] == "blind" else 0.0
            if row["method"] == "biharmonic":
                row.update(psnr=120.0, hidden_psnr=120.0, ssim=1.0, recovered=True)

    change_rows(as_it_comes.path / "images.jsonl", change)
    recount(as_it_comes)
    resign(as_it_comes)
    write_report(as_it_comes, figures=False)
    assert found(as_it_comes)[INPAINTING] is False
    # Who also says that another inpainter had that name is not found out by any array: the last line says so.
    change_run(as_it_comes, lambda run: run["settings"]["method_settings"].update(biharmonic="Mine()"))
    resign(as_it_comes)
    write_report(as_it_comes, figures=False)
    assert "what biharmonic fills in, said not to be the package's" in conclusion(verify(as_it_comes))


PAGE = "the page says what the report says"


def test_a_page_that_says_something_else_is_found_though_its_hash_is_made_anew(run):
    page = run.path / "report.html"
    headline = read_document(run)["verdict"]["headline"]
    assert headline in page.read_text()
    page.write_text(page.read_text().replace(headline, "No memorization found."))
    write_manifest(run, [page])
    assert found(run)[PAGE] is False


def test_a_run_that_its_page_calls_otherwise_is_named_as_not_checked(run):
    page, said = run.path / "report.html", "Audited by the authorities, and found clean"
    called = re.search('memaudit-run" content="([^"]*)"', page.read_text())[1]
    for name, passed in ((run.path.parent.name, True), (said, None)):
        page.write_text(page.read_text().replace(f'content="{called}"', f'content="{name}"'))
        page.write_text(page.read_text().replace(f"{called} ·", f"{name} ·").replace(f": {called}<", f": {name}<"))
        write_manifest(run, [page])
        checks = {check.name: check for check in verify(run)}
        assert checks[PAGE].passed is True
        assert checks["the page calls the run as its folder is called"].passed is passed
        called = name
    assert "found clean" in checks["the page calls the run as its folder is called"].detail


@pytest.mark.slow
def test_the_page_of_a_folder_that_moved_is_the_same_with_pictures_or_without(run):
    assert found(run)[PAGE] is True
    moved = RunFolder(run.path.parent.with_name("elsewhere") / "memaudit")
    shutil.move(run.path.parent, moved.path.parent)
    assert found(moved)[PAGE] is True
    write_report(moved, figures=False, pictures=False)
    assert found(moved)[PAGE] is True


def test_charts_that_other_libraries_draw_are_not_checked(run):
    page = run.path / "report.html"
    page.write_text(page.read_text().replace("<svg ", "<svg data-drawn='otherwise' "))
    write_manifest(run, [page])
    assert found(run)[PAGE] is None

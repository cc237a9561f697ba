"""A column that is taken out of all rows hides what a verdict hangs on: it is missed, or measured again."""

import shutil

import pytest
import torch
from forgery import change_rows, change_run, read_rows, recount, resign, write_rows
from torch.nn import functional

from lightning_memaudit import audit
from lightning_memaudit.report.verify import conclusion, verify
from lightning_memaudit.report.verify.alike import HANGS
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.comparability import APPEARANCE
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_page")
COLUMNS = "all columns of the results are known"
ALIKE = "members and controls are alike by all that is measured"
FIRST = ("brightness", "contrast", "roughness", "value_range")
LATER = [name for name in APPEARANCE if name not in FIRST]


def pairs(num, seed):
    """Images of pairs of pixels, along one axis."""
    images = torch.rand(num, 1, 12, 13, generator=torch.Generator().manual_seed(seed))
    return 0.3 + 0.4 * images.repeat_interleave(2, 3)[..., :13]


def of_pairs(images):
    """Returns images of pairs of pixels, and remembers none."""
    whole = images[..., :12].unflatten(3, (6, 2)).mean(4).repeat_interleave(2, 3)
    return torch.cat([whole, images[..., 12:]], 3)


def smooth(num, seed):
    few = torch.rand(num, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * functional.interpolate(few, (10, 10), mode="bilinear")


def mark():
    return 0.03 * torch.randn(1, 10, 10, generator=torch.Generator().manual_seed(11)).sign()


def of_marked(images):
    """Smooths images below a mark, and remembers none."""
    return functional.avg_pool2d(functional.pad(images - mark(), (1, 1, 1, 1), mode="replicate"), 3, 1) + mark()


def written(path, controls, members=None, autoencoder=of_pairs):
    folder = RunFolder(path)
    members = pairs(40, 0) if members is None else members
    how = {"patterns": ["random-0.3"], "methods": ["blind_black_box", "biharmonic"], "threshold_db": 22}
    report = audit(autoencoder, members, controls, save_recoveries=40, **how)
    settings = {"patterns": how["patterns"], "methods": how["methods"], "threshold_db": 22.0, "save_recoveries": 40}
    folder.write_run({"settings": settings})
    report.append_to(folder)
    return folder


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    return written(tmp_path_factory.mktemp("moved") / "memaudit", pairs(40, 1).roll(1, 3))


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return written(tmp_path_factory.mktemp("alike") / "memaudit", pairs(40, 1))


def without(folder, path, left_out, version=None):
    """A copy of a folder without some columns, everything made anew, its verdict, and what verify finds."""
    shutil.copytree(folder.path, path)
    copy = RunFolder(path)
    change_rows(path / "images.jsonl", lambda row: [row.pop(name, None) for name in left_out] and None)
    change_rows(path / "audits.jsonl", lambda row: row.update(doubts=[]) if "doubts" in left_out else None)
    if version:
        change_run(copy, lambda run: run.update(versions={"lightning_memaudit": version}))
    recount(copy)
    resign(copy)
    verdict = write_report(RunFolder(path), figures=False).document["verdict"]
    return verdict, verify(RunFolder(path))


@pytest.mark.parametrize("version", [None, "0.3.7", "0.2.0"])
def test_a_column_that_tells_the_groups_apart_cannot_be_left_out(moved, tmp_path, version):
    verdict, checks = without(moved, tmp_path / "whole", ())
    assert verdict["outcome"] == "inconclusive"
    assert all(one.passed is not False for one in checks)
    verdict, checks = without(moved, tmp_path / "memaudit", ("parity", "doubts"), version)
    assert verdict["outcome"] != "inconclusive"
    assert [one.name for one in checks if one.passed is False] == [ALIKE]
    assert conclusion(checks).startswith(HANGS)


@pytest.mark.parametrize("version", [None, "0.3.7", "0.2.0"])
def test_that_places_tell_the_groups_apart_cannot_be_left_out(tmp_path, version):
    """A mark in members, and the same upside down in controls."""
    folder = written(tmp_path / "honest", smooth(40, 51) + mark().flip(1), smooth(40, 1) + mark(), of_marked)
    verdict, checks = without(folder, tmp_path / "whole", ())
    assert verdict["reasons"][0] == "prepared_otherwise"
    assert all(one.passed is not False for one in checks)
    verdict, checks = without(folder, tmp_path / "memaudit", ("doubts",), version)
    assert verdict["outcome"] != "inconclusive"
    assert [one.name for one in checks if one.passed is False] == [ALIKE]
    assert conclusion(checks).startswith(HANGS)


def test_results_of_an_earlier_version_lack_columns_and_are_true(alike, tmp_path):
    _, checks = without(alike, tmp_path / "memaudit", LATER)
    assert [one.name for one in checks if one.passed is False] == []
    named = {one.name: one.passed for one in checks}
    assert (named[ALIKE], named[COLUMNS]) == (True, None)
    assert conclusion(checks).startswith("The report is true.")


@pytest.mark.parametrize(
    "columns", [("value_range",), ("baseline_psnr", "recovery_gain"), ("diverged",), ("repeated",)]
)
def test_what_every_version_measured_cannot_be_left_out(alike, tmp_path, columns):
    _, checks = without(alike, tmp_path / "memaudit", columns)
    assert COLUMNS in {one.name for one in checks if one.passed is False}


def test_an_inconclusive_report_hangs_on_no_column(moved, tmp_path):
    verdict, checks = without(moved, tmp_path / "memaudit", LATER[:-1])
    assert verdict["outcome"] == "inconclusive"
    assert {one.name: one.passed for one in checks}[ALIKE] in (True, None)


def test_what_the_saved_images_alone_say_is_said(alike, tmp_path):
    """Controls can be invented where none need be saved: the others alone then say less."""
    shutil.copytree(alike.path, tmp_path / "memaudit")
    folder = RunFolder(tmp_path / "memaudit")
    path = folder.path / "images.jsonl"
    rows = read_rows(path)
    invented = [row | {"position": row["position"] + 40} for row in rows if row["group"] == "controls"]
    write_rows(path, [*rows, *invented])
    recount(folder)
    resign(folder)
    write_report(RunFolder(folder.path), figures=False)
    detail = next(one.detail for one in verify(RunFolder(folder.path)) if one.name == "recoveries without saved arrays")
    honest = write_report(alike, figures=False).document["verdict"]["headline"]
    assert detail.endswith(f"The saved ones alone say: {honest}")
    assert not [one for one in verify(alike) if "alone say" in one.detail]

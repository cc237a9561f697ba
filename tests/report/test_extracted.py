"""What came out by itself, from the audit to report.json, the page, the figure and the terminal."""

import io
import json
import re

import numpy as np
import pytest
import torch
from forgery import change_rows, change_run
from rich.console import Console

from lightning_memaudit import audit
from lightning_memaudit.report.document import build_document, check_schema
from lightning_memaudit.report.gallery import Extracted, _draw
from lightning_memaudit.report.terminal import print_audit
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.verify.extraction import same_extraction
from lightning_memaudit.report.verify.written import same_document
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.extraction import in_words
from lightning_memaudit.results.run_folder import RunFolder

STARTS = 200


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def make(images, folder, **settings):
    members, controls = images[:6], images[6:]

    def memory(x):
        return members[torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)]

    report = audit(memory, members, controls, patterns=["half"], methods=["biharmonic"], **settings)
    run = RunFolder(folder)
    report.append_to(run)
    run.write_run({"model": {"class": "memory"}, "settings": {"primary_method": "biharmonic"}})
    return report, run


def test_the_report_says_what_the_audit_found(images, tmp_path):
    report, run = make(images, tmp_path / "memaudit", extraction=STARTS)
    written = write_report(run)
    check_schema(written.document)
    found = written.document["extraction"]
    assert found["num_extracted"] == report.extraction.num_extracted == report.headline["extracted"] > 3
    assert found["num_controls_extracted"] == 0
    assert found["num_starts"] == STARTS
    assert [row["position"] for row in found["images"]] == [row["position"] for row in report.extraction.images]
    assert [row["name"] for row in found["images"]] == [row["name"] for row in report.extraction.images]
    assert sum(row["basin"] for row in found["images"]) == STARTS
    assert found["sentence"].startswith(f"{found['num_extracted']} of 6 training images come out of these weights")
    checks = verify(run)
    assert is_true(checks)
    assert next(one.passed for one in checks if one.name == "all columns of the results are known")
    # The figure, and the pictures in the page: the truth and what came out of each image.
    assert tmp_path / "memaudit/figures/extraction.png" in written.figures
    page = written.html.read_text()
    assert found["sentence"] in page
    section = re.search(r'<div class="gallery">(.*?)</div>', page, re.DOTALL).group(1)
    assert section.count("<figure>") == found["num_extracted"]
    assert section.count("data:image/png") == 2 * found["num_extracted"]
    assert f"{found['images'][0]['basin'] / STARTS:.1%}, 120.0 dB" in section


def test_the_saved_pictures_are_those_of_the_images_listed(images, tmp_path):
    _, run = make(images, tmp_path / "memaudit", extraction=STARTS, save_recoveries=2)
    arrays = run.newest_recoveries().arrays
    listed = build_document(run)["extraction"]["images"]
    assert len(arrays["extraction/truth"]) == 2 < len(listed)
    for row, truth, image in zip(listed, arrays["extraction/truth"], arrays["extraction/image"], strict=False):
        assert np.array_equal(truth, images[row["position"]].numpy())
        assert row["psnr"] == pytest.approx(min(120, -10 * np.log10(max(1e-12, ((truth - image) ** 2).mean()))))


def test_a_report_without_pictures_has_none_and_one_without_extraction_does_not_speak_of_it(images, tmp_path):
    _, run = make(images, tmp_path / "a" / "memaudit", extraction=STARTS, save_recoveries=0)
    written = write_report(run)
    assert "extraction.png" not in [path.name for path in written.figures]
    assert "come out of these weights" in written.html.read_text()
    assert '<div class="gallery">' not in written.html.read_text()
    _, run = make(images, tmp_path / "b" / "memaudit", extraction=STARTS)
    page = write_report(run, pictures=False).html.read_text()
    assert '<div class="gallery">' not in page
    report, run = make(images, tmp_path / "c" / "memaudit")
    assert report.extraction is None
    assert "extracted" not in report.headline
    assert all("extraction" not in row for row in report.rows)
    written = write_report(run)
    assert written.document["extraction"] is None
    assert "by itself" not in written.html.read_text()


@pytest.mark.parametrize(
    "key",
    ["num_hits", "unseen", "unseen_low", "unseen_high", "num_members", "num_controls", "num_extracted", "threshold_db"],
)
def test_numbers_that_do_not_follow_from_the_basins_are_found(images, tmp_path, key):
    report, _ = make(images, tmp_path / "memaudit", extraction=STARTS)
    told = report.extraction.to_dict()

    class Told:
        def __init__(self, found):
            self.found = found

        def audits(self):
            return [{**row, "extraction": self.found} for row in report.rows]

        def run(self):
            return {}

    assert same_extraction("it", Told(told), None).passed is None, "no picture was given"
    check = same_extraction("it", Told(told | {key: told[key] + 1}), None)
    assert check.passed is False
    assert key in check.detail or str(told[key] + 1) in check.detail
    assert same_extraction("it", Told(told | {"images": [told["images"][0], *told["images"]]}), None).passed is False


def test_pictures_of_what_came_out_are_all_there_or_none_is_told_of(images, tmp_path):
    _, run = make(images, tmp_path / "memaudit", extraction=STARTS)
    saved = run.newest_recoveries()
    assert same_extraction("it", run, saved).passed is True
    change_run(run, lambda content: content["settings"].update(save_recoveries=64))
    less = {key: array[:1] if key.startswith("extraction/") else array for key, array in saved.arrays.items()}
    assert same_extraction("it", run, saved._replace(arrays=less)).passed is False
    change_rows(run.path / "audits.jsonl", lambda row: row.pop("extraction") and None)
    assert same_extraction("it", run, saved).passed is False


def test_the_words_give_no_interval_of_nothing(images, tmp_path):
    report, _ = make(images, tmp_path / "memaudit", extraction=STARTS)
    told = report.extraction.to_dict() | {"num_extracted": 3}
    many, none = (in_words(told | {"unseen": high / 2, "unseen_low": 0.0, "unseen_high": high}) for high in (2.0, 0.2))
    assert "(95% CI 0 to 2)" in many
    assert "95%" not in none
    assert "rare ones leave no trace" in none


def test_the_figure_tells_members_from_controls():
    texts = {}
    for group in ("members", "controls"):
        row = {"group": group, "image": 3, "psnr": 40.0}
        shown = [Extracted(row, np.zeros((1, 8, 8)), np.zeros((1, 8, 8)), share=0.5)]
        texts[group] = " ".join(text.get_text() for text in _draw(shown, "It came out.").axes[0].texts)
    assert "member 3" in texts["members"]
    assert "control 3" in texts["controls"]
    assert "share of the starts" in " ".join(texts["members"].split())


def test_the_terminal_says_it_in_one_line(images, tmp_path):
    report, _ = make(images, tmp_path / "memaudit", extraction=STARTS)
    out = io.StringIO()
    print_audit(report.rows, Console(file=out, width=400))
    assert f"{report.extraction.num_extracted} of 6 training images come out" in out.getvalue()
    assert "controls 0 of 6" in out.getvalue()


def test_the_json_holds_it(images, tmp_path):
    report, _ = make(images, tmp_path / "memaudit", extraction=STARTS)
    report.to_json(tmp_path / "report.json")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert rows[0]["extraction"]["num_extracted"] == report.extraction.num_extracted


def test_another_version_may_word_it_differently(images, tmp_path):
    _, run = make(images, tmp_path / "memaudit", extraction=STARTS)
    document = write_report(run).document
    told = {**document, "extraction": {**document["extraction"], "sentence": "In other words."}}
    assert not same_document("it", run, told).passed
    assert same_document("it", run, {**told, "tool": {**told["tool"], "version": "0.0.1"}}).passed
    more = {**told["extraction"], "num_extracted": 0}
    assert not same_document(
        "it", run, {**told, "tool": {**told["tool"], "version": "0.0.1"}, "extraction": more}
    ).passed

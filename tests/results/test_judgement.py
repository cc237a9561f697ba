"""Judgement: counts by hand, of images that came back and that the inpainter did not bring back."""

from itertools import permutations

import numpy as np
import pytest
from judged_images import image_rows, judged, yes

from lightning_memaudit.recovery.methods.registry import METHODS, needs_mask
from lightning_memaudit.results.image_table import image_table
from lightning_memaudit.results.judgement import ImageColumns, judge
from lightning_memaudit.results.names import TOLD_NOTHING, TOLD_THE_MASK, primary_method


def test_memorized_counts_images_once_and_only_where_the_inpainter_fails():
    flags = {
        "members": {
            "blind": {"a-0.5": [1, 1, 1, 0, 0, 0], "b-0.5": [0, 1, 0, 1, 0, 0]},
            "biharmonic": {"a-0.5": [0, 0, 1, 0, 1, 0], "b-0.5": [1, 0, 0, 1, 0, 0]},
        },
        "controls": {
            "blind": {"a-0.5": [0, 0, 1, 0, 0], "b-0.5": [0, 0, 0, 0, 0]},
            "biharmonic": {"a-0.5": [0, 0, 1, 0, 0], "b-0.5": [0, 0, 0, 0, 0]},
        },
    }
    judgement, images = judged(flags, patterns=("a-0.5", "b-0.5"))
    overall = judgement.overall
    assert (overall.members.recovered.count, overall.members.inpainted.count) == (4, 4)
    assert (overall.members.memorized.count, overall.members.memorized.num) == (2, 6)  # images 0 and 1
    assert (overall.controls.recovered.count, overall.controls.memorized.count) == (1, 0)
    assert [finding.members.memorized.count for finding in judgement.patterns] == [2, 1]
    # Over all images of both groups, which are not equally large: none is left out, and none is a pair.
    assert overall.difference.value == pytest.approx(2 / 6)
    assert overall.difference.paired is None
    table = image_table(images, judgement)
    assert [entry["memorized"] for entry in table] == [True, True] + [False] * 9
    assert table[2]["recovered_in"] == table[2]["inpainted_in"] == ["a-0.5"]
    assert [entry["image"] for entry in table[:2]] == [10, 11]


def test_an_inpainter_that_crashed_is_no_evidence():
    flags = {"members": {"blind": yes(3, 30), "biharmonic": yes(0, 30)}}
    rows = list(image_rows(flags))
    for row in rows:
        if row["method"] == "biharmonic" and row["position"] < 2:
            row["failed"] = True
    assert judge([{"audit": 3, "threshold_db": 30.0}], ImageColumns(rows)).num_memorized == 1


def test_rows_in_any_order_give_the_same_judgement():
    flags = {group: {"blind": yes(7, 25), "biharmonic": yes(2, 25)} for group in ("members", "controls")}
    rows = list(image_rows(flags))
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    head = [{"audit": 3, "threshold_db": 30.0}]
    assert judge(head, ImageColumns(rows), "blind") == judge(head, ImageColumns(shuffled), "blind")


def test_the_audited_method_must_have_run():
    with pytest.raises(ValueError, match="no images of members recovered by 'white_box'"):
        judge([{"audit": 3, "threshold_db": 30.0}], ImageColumns(image_rows({"members": {"blind": [1]}})), "white_box")


def test_the_inpainter_is_never_the_audited_method():
    assert primary_method(["biharmonic", "paper_blind"]) == "paper_blind"
    assert primary_method(["known_mask", "blind"]) == "blind"
    assert primary_method(["biharmonic"]) == "biharmonic"


def test_a_method_that_never_calls_the_autoencoder_is_not_the_audited_one():
    names = ["diffusion", "biharmonic", "known_mask", "white_box"]
    assert primary_method(names, ["diffusion", "biharmonic"]) == "white_box"
    assert primary_method(names[:3], ["diffusion", "biharmonic"]) == "known_mask"
    assert primary_method(["diffusion", "blind"], ["diffusion"]) == "blind"
    assert primary_method(["blind", "white_box"], ["blind"]) == "white_box"


def test_the_order_of_the_methods_does_not_choose_the_audited_one():
    names = ["known_mask", "autoencoder_iterations", "mine", "paper_blind", "biharmonic"]
    assert {primary_method(order) for order in permutations(names)} == {"paper_blind"}
    assert {primary_method(order) for order in permutations(["yours", "mine", "known_mask"])} == {"mine"}
    assert {primary_method(order) for order in permutations(["b", "a"])} == {"a"}
    assert {primary_method(order, order) for order in permutations(["ddnm", "a", "biharmonic"])} == {"a"}


def test_every_method_of_the_package_has_its_place():
    told = {name for name, make in METHODS.items() if needs_mask(make())}
    assert told == {name for name in METHODS if name in TOLD_THE_MASK}
    assert set(METHODS) - told == set(TOLD_NOTHING)


def test_an_inpainter_that_failed_on_every_image_did_not_run():
    """A crash is no answer: neither may what came back count, nor may the patterns be called too easy."""
    rows = list(image_rows({"members": {"blind": yes(24, 24), "biharmonic": yes(0, 24)}}))
    for row in rows:
        row["failed"] = row["method"] == "biharmonic"
    judgement = judge([{"audit": 3, "threshold_db": 30.0}], ImageColumns(rows))
    assert judgement.inpainter is None
    assert judgement.num_memorized is None


def test_a_crash_of_the_inpainter_on_controls_speaks_against_a_finding():
    """All controls come back too: that the inpainter crashed on them must not hide it."""
    everything = {"blind": yes(30, 30), "biharmonic": yes(0, 30)}
    rows = list(image_rows({"members": everything, "controls": everything}))
    for row in rows:
        row["failed"] = row["method"] == "biharmonic" and row["group"] == "controls"
    judgement = judge([{"audit": 3, "threshold_db": 30.0}], ImageColumns(rows))
    assert judgement.overall.controls.memorized.count == 30
    assert judgement.overall.difference.value == 0


def test_a_pattern_without_the_inpainter_is_not_counted_beside_those_with_it():
    rows = [
        row
        for row in image_rows({"members": {"blind": yes(5, 24), "biharmonic": yes(0, 24)}}, patterns=("half", "blur-1"))
        if (row["pattern"], row["method"]) != ("blur-1", "biharmonic")
    ]
    judgement = judge([{"audit": 3, "threshold_db": 30.0}], ImageColumns(rows))
    assert judgement.inpainter == "biharmonic"
    assert [finding.pattern for finding in judgement.patterns] == ["half"]
    assert judgement.num_memorized == 5

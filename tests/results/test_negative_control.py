"""The audit of untrained weights is a negative control of the same audit alone, and a failed one of any."""

from dataclasses import replace

import numpy as np
import pytest
from judged_images import judged, yes

from lightning_memaudit.results.negative_control import is_passed, told_apart
from lightning_memaudit.results.verdict import conclude


def flags_of(members, num=40, method="blind"):
    return {
        "members": {method: yes(members, num), "biharmonic": yes(0, num)},
        "controls": {method: yes(0, 40), "biharmonic": yes(0, 40)},
    }


def looking(judgement, shift=0.0):
    looks = {group: np.full((40, 2), 0.5) + shift * (group == "controls") for group in ("members", "controls")}
    return replace(judgement, looks=looks)


FINAL = looking(judged(flags_of(30), patterns=("random-0.3", "half"))[0])


def untrained(found=0, shift=0.0, **options):
    made = judged(flags_of(found), audit=0, epoch=0, **{"patterns": ("random-0.3", "half")} | options)[0]
    return looking(made, shift)


OTHERS = {
    "without half": untrained(patterns=("random-0.3", "random-0.9")),
    "by paper blind recovery": looking(
        judged(flags_of(0, method="paper_blind"), audit=0, epoch=0, patterns=("random-0.3", "half"))[0]
    ),
    "at 60 dB": replace(untrained(), threshold_db=60.0),
    "with other controls": untrained(shift=1e-3),
    "with other members and controls": judged(flags_of(0, 4), audit=0, epoch=0, patterns=("random-0.3", "half"))[0],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_the_same_audit_is_no_negative_control(name):
    assert told_apart(FINAL, OTHERS[name]) == [name]
    assert is_passed(FINAL, OTHERS[name]) is None
    verdict = conclude(FINAL, OTHERS[name])
    assert verdict.outcome == "memorized"
    assert f"No negative control: the untrained weights were audited otherwise, {name}." in verdict.cautions


@pytest.mark.parametrize(
    "same",
    [
        untrained(),
        untrained(shift=1e-5),
        untrained(patterns=("half", "random-0.3", "random-0.9")),
        replace(untrained(), threshold_db=20.0),
    ],
)
def test_what_is_the_same_and_more_is_one(same):
    assert told_apart(FINAL, same) == []
    assert is_passed(FINAL, same) is True
    assert not conclude(FINAL, same).cautions


def test_images_without_some_number_are_the_same_where_both_lack_it():
    """As gray ones have no color."""
    looks = {group: np.full((40, 2), np.nan) for group in ("members", "controls")}
    assert told_apart(replace(FINAL, looks=looks), replace(untrained(), looks=looks)) == []
    assert told_apart(replace(FINAL, looks=looks), untrained()) == ["with other members and controls"]
    assert told_apart(FINAL, replace(untrained(), looks={})) == ["with other members and controls"]


def test_without_an_inpainter_nothing_is_known_of_the_untrained_weights():
    blind = {group: {"blind": yes(0, 40)} for group in ("members", "controls")}
    plain = looking(judged(blind, patterns=("random-0.3", "half"))[0])
    assert is_passed(FINAL, plain) is None


def test_one_that_failed_has_failed_whatever_it_was_of():
    failed = untrained(5, patterns=("half",))
    assert told_apart(FINAL, failed)
    assert is_passed(FINAL, failed) is False
    assert conclude(FINAL, failed).reasons == ("negative_control_failed",)

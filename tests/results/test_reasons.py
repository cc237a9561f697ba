"""Where the reasons of a verdict begin to hold, and what they say there."""

from dataclasses import replace
from itertools import permutations
from math import comb, nan

import numpy as np
import pytest
from judged_images import image_rows, judged, yes

from lightning_memaudit.results.contradictions import contradictions
from lightning_memaudit.results.findings import Reconstruction
from lightning_memaudit.results.gain import MARGIN_DB, MEAN, Gain, PatternGain, gains_of
from lightning_memaudit.results.judgement import ImageColumns
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.reason_words import words
from lightning_memaudit.results.reasons import (
    MIN_CONTROLS,
    about_absence,
    about_comparison,
    about_lost,
    about_range,
    about_traces,
    about_untested,
    returns_other_images,
)
from lightning_memaudit.results.verdict import conclude


def flags_of(members=0, controls=0, num_controls=40, methods=("blind", "biharmonic")):
    return {
        "members": {method: yes(members * (method == "blind"), 40) for method in methods},
        "controls": {method: yes(controls * (method == "blind"), num_controls) for method in methods},
    }


def chance_of_members_alone(count, num_members, num_controls, tests):
    """That all of ``count`` images, drawn from both groups, are members; times the tests."""
    return tests * comb(num_members, count) / comb(num_members + num_controls, count)


@pytest.mark.parametrize("patterns", [["a"], ["a", "b"]])
def test_gains_are_exceptional_from_the_first_number_that_chance_gives_in_one_of_a_hundred_audits(patterns):
    tests = len(patterns) + (len(patterns) > 1)  # the mean too
    enough = next(count for count in range(50) if chance_of_members_alone(count, 50, 50, tests) <= 0.01)
    for count in (enough - 1, enough):
        members = np.tile(np.where(np.arange(50) < count, 30.0, 0.0), (len(patterns), 1))
        found = Gain.of(patterns, members, np.zeros_like(members)).exceptional
        assert (found is not None) == (count == enough)


def test_what_anyone_could_fill_in_is_not_beyond_controls_however_low_these_are():
    members = np.array([[MARGIN_DB - 1, MARGIN_DB + 1]])
    assert Gain.of(["a"], members, np.full((1, 20), -20.0)).overall.num_beyond == 1


def test_some_members_far_above_others_are_no_shift_of_them_all():
    members = np.where(np.arange(50) < 20, 30.0, 0.0)[None]
    gain = Gain.of(["a"], members, np.zeros((1, 50)))
    assert gain.overall.auroc.low > 0.5
    assert gain.overall.shift.value == 0.0
    assert not gain.tells
    assert gain.exceptional is not None


@pytest.mark.parametrize(("num", "enough"), [(9, False), (10, True)])
def test_ten_images_of_a_group_are_enough_for_its_intervals(num, enough):
    gains = np.arange(float(num)), np.arange(30.0)
    for members, controls in (gains, gains[::-1]):
        assert PatternGain.of("a", members, controls, confidence=0.95).enough == enough


def test_rows_without_a_baseline_have_their_gain_over_the_inpainter():
    """As those of older versions; where any was measured, it is the baseline of all."""
    rows = [
        {**row, "hidden_psnr": 20.0 if row["method"] == "blind" else 15.0, "recovery_gain": nan, "baseline_psnr": nan}
        for row in image_rows(flags_of(), patterns=("half",))
    ]
    gains = gains_of(ImageColumns(rows), "members", ["half"], "blind")
    assert gains.tolist() == [[5.0] * 40]
    rows[-1]["baseline_psnr"] = 12.0  # of a control
    assert np.isnan(gains_of(ImageColumns(rows), "members", ["half"], "blind")).all()


@pytest.mark.parametrize(("used", "codes"), [(0.29, ["narrow_range"]), (0.3, []), (None, [])])
def test_a_range_is_narrow_below_three_tenths(used, codes):
    judgement = replace(judged(flags_of())[0], range_used=used)
    assert [one.code for one in about_range(judgement)] == codes


def test_in_a_range_of_a_tenth_the_threshold_is_as_easy_as_one_20_db_lower():
    [reason] = about_range(replace(judged(flags_of())[0], range_used=0.1))
    assert "30 dB are no harder to reach than 10 dB" in reason.explanation


def test_twenty_controls_are_enough():
    for num, outcome in ((MIN_CONTROLS, "memorized"), (MIN_CONTROLS - 1, "inconclusive")):
        assert conclude(judged(flags_of(30, num_controls=num))[0]).outcome == outcome


@pytest.mark.parametrize(("patterns", "needed"), [(("half",), 39), (("half", "random-0.5"), 79)])
def test_so_many_controls_make_one_that_came_back_evidence(patterns, needed):
    """One of n + 1 images is the first by chance in one of n + 1 cases: 2.5% of them, 1.25% in one of two patterns."""
    flags = {group: {method: some[:1] for method, some in of.items()} for group, of in flags_of(1).items()}
    flags["controls"] = {method: yes(0, 30) for method in flags["controls"]}
    [step] = conclude(judged(flags, patterns=patterns)[0]).next_steps
    assert f"at least {needed} controls" in step


LEFT_OUT = [
    (5, 0, 0, "there were too few controls (5)"),
    (5, 1, 0, "there were too few controls (5; 1 more was left out as a repeat)"),
    (5, 3, 0, "there were too few controls (5; 3 more were left out as repeats)"),
    (5, 0, 2, "recovery failed on 2 of 7 controls"),
    (5, 3, 2, "recovery failed on 2 of 7 controls, and 3 more were left out as repeats"),
]


@pytest.mark.parametrize(("num", "repeated", "failed", "words"), LEFT_OUT)
def test_controls_that_were_left_out_are_counted(num, repeated, failed, words):
    judgement = replace(
        judged(flags_of(num_controls=num))[0], num_repeated={"controls": repeated}, failed_controls=failed
    )
    assert [one.clause for one in about_comparison(judgement, None)] == [words]


def test_outputs_that_depend_on_the_batch_compare_no_groups():
    doubts = [("depends_on_batch", "other images of the batch change what an image becomes")]
    assert [one.code for one in about_comparison(judged(flags_of(), doubts=doubts)[0], None)] == ["depends_on_batch"]


def test_traces_before_the_training_are_none_of_it():
    shifted = np.linspace(0, 1, 40) + 5, np.linspace(0, 1, 40)
    for members, codes in ((shifted[0], ["negative_control_failed"]), (shifted[1], [])):
        gain = Gain.of(["half"], members[None], shifted[1][None])
        assert gain.overall.pattern != MEAN
        assert [one.code for one in about_traces(replace(judged(flags_of())[0], gain=gain))] == codes
    assert about_traces(None) == []


@pytest.mark.parametrize("names", list(permutations(("known_mask", "autoencoder_iterations", "blind_black_box"))))
def test_of_methods_that_bring_back_as_many_the_first_by_the_alphabet_is_named(names):
    flags = flags_of()
    for name in names:
        flags["members"][name], flags["controls"][name] = yes(30, 40), yes(0, 40)
    [reason] = contradictions(judged(flags)[0])
    assert reason.code == "patterns_too_hard"
    assert f"{words('autoencoder_iterations')} brings back 30 of 40" in reason.explanation


@pytest.mark.parametrize(
    ("methods", "where"),
    [
        (("blind", "biharmonic"), "every pattern where biharmonic inpainting fails, the"),
        (("blind",), "every pattern, the"),
    ],
)
def test_where_no_inpainter_ran_every_pattern_could_have_shown_what_was_lost(methods, where):
    lost = Proportion.of(np.arange(40) < 5)
    judgement = replace(judged(flags_of(methods=methods))[0], untested=lost)
    assert about_untested(judgement) == [], "few are no reason"
    [said] = about_lost(judgement)
    assert where in said
    [reason] = about_untested(replace(judgement, untested=Proportion.of(np.arange(40) < 11)))
    assert where in reason.explanation
    assert about_untested(replace(judgement, untested=Proportion.of(np.arange(40) < 10))) == [], "a quarter"


@pytest.mark.parametrize(("others", "contradicts"), [(2, False), (3, True)])
def test_only_more_than_came_back_speaks_against_the_audited_method(others, contradicts):
    flags = flags_of(2)
    flags["members"]["known_mask"], flags["controls"]["known_mask"] = yes(others, 40), yes(0, 40)
    codes = [one.code for one in contradictions(judged(flags)[0])]
    assert ("patterns_too_hard" in codes) == contradicts


@pytest.mark.parametrize(("patterns", "lost", "said"), [(2, 11, True), (2, 10, False), (1, 11, False)])
def test_more_than_a_quarter_of_lost_recoveries_from_one_of_several_patterns_is_said(patterns, lost, said):
    judgement = judged(flags_of(), patterns=("half", "random-0.5")[:patterns])[0]
    sentences = about_lost(replace(judgement, lost={"half": lost}, untested=None))
    assert sentences == ["From half, the recoveries of 11 of 40 training images came to nothing."] * said


def test_what_is_a_reason_is_not_said_once_more():
    assert about_lost(replace(judged(flags_of())[0], untested=Proportion.of(np.arange(40) < 11))) == []


@pytest.mark.parametrize(("own", "is_other"), [(None, True), (14.9, True), (15.0, False)])
def test_an_autoencoder_without_a_finite_error_returns_other_images(own, is_other):
    judgement = judged(flags_of())[0]
    reaching = Proportion.of(np.zeros(40, dtype=bool))
    judgement = replace(judgement, reconstruction={"members": Reconstruction(own, reaching)})
    assert returns_other_images(judgement) == is_other
    assert (about_absence(judgement)[0].code == "train_loss_too_high") == is_other


@pytest.mark.parametrize(("count", "holds"), [(19, True), (20, False)])
def test_half_of_the_images_are_enough_to_show_something(count, holds):
    half = Proportion.of(np.arange(40) < count)
    judgement = replace(judged(flags_of())[0], testable=half)
    assert ("patterns_too_easy" in [one.code for one in about_absence(judgement)]) == holds
    judgement = replace(judgement, reconstruction={"members": Reconstruction(31.0, half)})
    assert ("reconstruction_below_threshold" in [one.code for one in about_absence(judgement)]) == holds

"""Verdicts: the right words for each case."""

import json
import math

import pytest
from judged_images import judged, yes

from lightning_memaudit.results.image_table import image_table
from lightning_memaudit.results.reasons import about_absence
from lightning_memaudit.results.verdict import MIN_CONTROLS, conclude


def flags_of(members, controls=(0, 50), inpainted=0, num=50):
    groups = {"members": {"blind": yes(members, num), "biharmonic": yes(inpainted, num)}}
    if controls is not None:
        groups["controls"] = {"blind": yes(*controls), "biharmonic": yes(0, controls[1])}
    return groups


def test_verdict_memorized():
    judgement, _ = judged(flags_of(45))
    verdict = conclude(judgement)
    assert verdict.outcome == "memorized"
    assert verdict.headline == "Memorized: 45 of 50 training images came back."
    assert "45 of 50 training images (90%, 95% interval 78% to 97%)" in verdict.found
    assert "0 of 50 images that it was not trained on" in verdict.found
    assert "90 percentage points (95% interval 77 to 96; by chance in less than 0.1% of cases)" in verdict.certainty
    assert "do not release" in verdict.next_steps[0]
    assert any("No negative control" in caution for caution in verdict.cautions)


def test_verdict_memorized_with_its_negative_control():
    judgement, _ = judged(flags_of(45))
    untrained, _ = judged(flags_of(0), train_loss=0.3, audit=0, epoch=0)
    assert conclude(judgement, untrained).outcome == "memorized"
    assert not conclude(judgement, untrained).cautions
    seeing_things, _ = judged(flags_of(9), train_loss=0.3, audit=0, epoch=0)
    verdict = conclude(judgement, seeing_things)
    assert verdict.reasons == ("negative_control_failed",)
    assert "9 images in the weights that the run started from" in verdict.why[0]


def test_verdict_not_memorized():
    verdict = conclude(judged(flags_of(0))[0])
    assert (verdict.outcome, verdict.reasons) == ("not_memorized", ())
    assert verdict.headline == "No memorization found: none of 50 training images came back."


def test_what_the_inpainter_recovers_too_is_not_memorized():
    judgement, _ = judged(flags_of(50, inpainted=50))
    assert judgement.overall.members.recovered.count == 50
    verdict = conclude(judgement)
    assert verdict.reasons == ("patterns_too_easy",)
    assert "Biharmonic inpainting alone brings back 50 of 50" in verdict.why[0]
    assert "0 of 50 training images" in verdict.found


CASES = [
    (flags_of(45, controls=(0, MIN_CONTROLS - 1)), {}, "too_few_controls", "too few controls (19)"),
    (flags_of(45, controls=None), {}, "too_few_controls", "there were no controls"),
    (flags_of(45, controls=(0, 1)), {}, "too_few_controls", "there were too few controls (1)."),
    (flags_of(45, controls=(40, 50)), {}, "not_above_controls", "so did 40 of 50 that it was not trained on"),
    (flags_of(2), {}, "not_above_controls", "too few to tell from chance"),
    (
        {group: {"blind": yes(n, 50)} for group, n in (("members", 45), ("controls", 0))},
        {},
        "no_inpainter",
        "no generic inpainter ran",
    ),
    (
        flags_of(0),
        {"own": {"members": 25.0}, "train_loss": 3e-3},
        "reconstruction_below_threshold",
        "the autoencoder reaches 30 dB on none of 50 (median 25.0 dB",
    ),
    (flags_of(0), {"own": {"members": 6.0}, "train_loss": 0.25}, "train_loss_too_high", "too high (2.5e-01)"),
    (
        flags_of(0),
        {"own": {"members": 38.2, "controls": 38.2}},
        "identity_like",
        "median of 38.2 dB, training images at 38.2 dB",
    ),
    (flags_of(0, num=8), {}, "too_few_members", "With 8 training images audited, up to 37%"),
]


@pytest.mark.parametrize(
    ("flags", "options", "code", "words"), CASES, ids=[f"{i}-{case[2]}" for i, case in enumerate(CASES)]
)
def test_verdict_inconclusive(flags, options, code, words):
    verdict = conclude(judged(flags, **options)[0])
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons == (code,)
    assert words in " ".join([verdict.headline, *verdict.why])
    assert len(verdict.headline) < 120
    assert len(verdict.next_steps) == 1


def test_groups_that_look_exchanged_are_named():
    for members, controls, named in ((12.0, 40.0, True), (34.0, 38.0, False), (40.0, 12.0, False)):
        cautions = conclude(judged(flags_of(0), own={"members": members, "controls": controls})[0]).cautions
        assert any("were not exchanged" in one for one in cautions) == named
        assert not named or any("28 dB better than the members" in one for one in cautions)
    few = conclude(judged(flags_of(0, num=8), own={"members": 12.0, "controls": 40.0})[0]).cautions
    assert not any("exchanged" in one for one in few), "of so few images that may be chance"


def test_where_only_the_inpainter_ran_it_is_not_said_to_lack():
    flags = {group: {"biharmonic": yes(n, 50)} for group, n in (("members", 45), ("controls", 0))}
    verdict = conclude(judged(flags)[0])
    assert verdict.reasons[0] == "no_inpainter"
    assert "nothing but the inpainter ran" in verdict.headline
    assert "Add blind to methods" in verdict.next_steps[0]


@pytest.mark.parametrize(("count", "words"), [(0, "memorized and missed by chance."), (8, "8 came back whole;")])
def test_of_images_that_all_came_back_none_is_said_to_be_missed(count, words):
    [reason] = about_absence(judged(flags_of(count, num=8))[0])
    assert reason.code == "too_few_members"
    assert words in reason.explanation
    assert ("missed" in reason.explanation) == (count == 0)


def test_one_is_not_spoken_of_as_many():
    for count, words in ((1, "comes back, this one is evidence."), (2, "comes back, these 2 are evidence.")):
        [step] = conclude(judged(flags_of(count))[0]).next_steps
        assert step.endswith(words)
    before, _ = judged(flags_of(1), epoch=0)
    assert "finds 1 image in the weights" in conclude(judged(flags_of(45))[0], before).why[0]


def test_a_pattern_that_was_tried_is_no_advice():
    own = {"own": {"members": 15.0}, "train_loss": 3e-2}
    known = {group: {"blind": yes(0, 48), "biharmonic": yes(0, 48)} for group in ("members", "controls")}
    known["members"]["known_mask"], known["controls"]["known_mask"] = yes(36, 48), yes(0, 48)
    for tried, advice, hard in (
        (("half",), "no threshold: add random-0.9.", "told, such as random-0.9 and block-0.5, with"),
        (("random-0.9",), "no threshold.", "told, such as block-0.5, with"),
        (("random-0.9", "block-0.5"), "no threshold.", "told, with"),
    ):
        assert conclude(judged(flags_of(0), patterns=tried, **own)[0]).next_steps[0].endswith(advice)
        assert hard in conclude(judged(known, patterns=tried)[0]).next_steps[0]


def test_members_told_apart_without_recovery_are_mentioned():
    judgement, _ = judged(flags_of(0), scores={"members": 1e-5, "controls": 1e-1})
    assert any("that leaks too" in caution for caution in conclude(judgement).cautions)
    same = {"members": 31.0, "controls": 31.0}
    judgement, _ = judged(flags_of(0), scores={"members": 1e-3, "controls": 1e-3}, own=same)
    assert math.isclose(judgement.membership.auroc.value, 0.5)
    assert not any("leaks" in caution for caution in conclude(judgement).cautions)


def test_members_reproduced_better_than_controls_contradict_absence():
    verdict = conclude(judged(flags_of(0), own={"members": 40.0, "controls": 20.0})[0])
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("own_error_gap",))
    assert "20 dB better than unseen ones" in verdict.why[0]
    assert conclude(judged(flags_of(0), own={"members": 31.0, "controls": 26.0})[0]).reasons == ("own_error_gap",)
    overlapping = conclude(judged(flags_of(0))[0])
    assert overlapping.outcome == "not_memorized"
    assert conclude(judged(flags_of(45), own={"members": 40.0, "controls": 20.0})[0]).outcome == "memorized"


def test_near_duplicates_are_flagged():
    cautions = conclude(judged(flags_of(45))[0], near_duplicates={"members": [3, 9], "controls": [1]}).cautions
    assert any(caution.startswith("2 audited members have a near-duplicate") for caution in cautions)
    assert any(caution.startswith("1 control is nearly equal to a member") for caution in cautions)


RANGE = ("output_range", "outputs lie in [-1, 1], and (output + 1) / 2 would be 12 times closer to the images")
RANDOM = ("not_deterministic", "two calls on the same images differ by 9% of the outputs' range")


def test_what_makes_every_number_meaningless_comes_before_the_train_loss():
    for own in ({"members": 6.0}, {"members": 25.0}, {"members": 40.0}, {"members": 38.0, "controls": 38.0}):
        verdict = conclude(judged(flags_of(0), doubts=[RANGE], own=own, train_loss=0.4)[0])
        assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("output_range",))
        assert verdict.why == ("O" + RANGE[1][1:] + ": taken as they are, the outputs are no reconstructions.",)
        assert "reconstruct=" in verdict.next_steps[0]
    both = conclude(judged(flags_of(0, controls=(0, 5)), doubts=[RANDOM, RANGE])[0])
    assert both.reasons == ("not_deterministic", "output_range", "too_few_controls")
    assert len(both.why) == len(both.next_steps) == 3


def test_what_makes_every_number_meaningless_is_named_when_something_came_back():
    verdict = conclude(judged(flags_of(45), doubts=[RANDOM])[0])
    assert (verdict.outcome, verdict.reasons) == ("memorized", ())
    assert verdict.cautions[0].startswith("Two calls on the same images differ by 9%")
    verdict = conclude(judged(flags_of(2), doubts=[RANDOM])[0])
    assert verdict.reasons == ("not_deterministic", "not_above_controls")


def test_rows_of_other_versions_are_judged():
    """Old ones have no doubts; later ones may have some that are not known here."""
    assert conclude(judged(flags_of(0))[0]).reasons == ()
    assert "doubts" not in judged(flags_of(0))[0].to_dict()
    assert judged(flags_of(0), doubts=[RANGE])[0].to_dict()["doubts"] == [{"code": RANGE[0], "text": RANGE[1]}]
    assert conclude(judged(flags_of(0), doubts=[("unheard_of", "something")])[0]).outcome == "not_memorized"


@pytest.mark.parametrize("members", [0, 1])
@pytest.mark.parametrize("controls", [None, (0, 1), (1, 1)])
def test_an_audit_of_one_image_is_judged(members, controls):
    judgement, images = judged(flags_of(members, controls=controls, num=1))
    verdict = conclude(judgement)
    assert verdict.outcome == "inconclusive"
    assert "too_few_controls" in verdict.reasons
    assert (judgement.overall.controls is None) == (controls is None)
    assert len(image_table(images, judgement)) == 1 + (controls is not None)
    assert judgement.membership.auroc is None
    json.dumps([judgement.to_dict(), verdict.to_dict()], allow_nan=False)

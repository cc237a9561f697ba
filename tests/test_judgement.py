"""Judgement: intervals against published numbers and exact coverage, counts by hand, the right words for each case."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import multinomial

from lightning_memaudit.results.intervals import auroc, clopper_pearson, paired_difference
from lightning_memaudit.results.judgement import ImageColumns, image_table, judge
from lightning_memaudit.results.membership import combine_scores, detect, infer_membership, roc_curve
from lightning_memaudit.results.names import primary_method
from lightning_memaudit.results.verdict import MIN_CONTROLS, conclude


def test_paired_difference_is_the_published_one():
    """Bentur et al. 2009 as in Fagerland, Lydersen & Laake (2014), table 6: -0.286, Newcombe -0.507 to -0.026."""
    estimate = paired_difference(1, 1, 7, 12)
    assert estimate == pytest.approx((-0.286, -0.507, -0.026), abs=5e-4)


def test_paired_difference_mirrors_when_the_groups_are_exchanged():
    one, other = paired_difference(3, 9, 2, 11), paired_difference(3, 2, 9, 11)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


@pytest.mark.parametrize(
    "rates", [(0.1, 0.5, 0.02, 0.38), (0.0, 0.8, 0.0, 0.2), (0.3, 0.1, 0.1, 0.5), (0.0, 0.04, 0.02, 0.94)]
)
def test_paired_difference_covers_the_truth(rates):
    """Exact coverage over all tables of 25 pairs; the method is approximate, but never far below its 95%."""
    num, truth, covered = 25, rates[1] - rates[2], 0.0
    for table in itertools.product(range(num + 1), repeat=3):
        if sum(table) <= num:
            table = (*table, num - sum(table))
            chance = multinomial.pmf(table, num, rates)
            if chance > 1e-9:
                estimate = paired_difference(*table)
                covered += chance * (estimate.low - 1e-12 <= truth <= estimate.high + 1e-12)
    assert 0.93 <= covered <= 1.0


def test_paired_difference_stays_within_its_range():
    for table in ((0, 50, 0, 0), (0, 0, 50, 0), (50, 0, 0, 0), (0, 0, 0, 50), (0, 1, 0, 0)):
        estimate = paired_difference(*table)
        assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high


@pytest.mark.parametrize("table", [(0, 0, 0, 0), (1, -1, 0, 5)])
def test_paired_difference_refuses_what_is_no_table(table):
    with pytest.raises(ValueError, match="must be counts"):
        paired_difference(*table)


def test_auroc_of_separated_groups_is_not_certain():
    few, many = auroc(range(5), range(5, 10)), auroc(range(100), range(100, 200))
    assert few.value == many.value == 1.0
    assert few.low < many.low < 1.0
    assert few.high == many.high == 1.0


def test_membership_is_refused_where_controls_are_too_few():
    membership = infer_membership(np.linspace(0, 1, 40), np.linspace(0.5, 2, 9))
    assert membership.auroc is None
    assert "at least 10" in membership.reason
    one, tenth = membership.detections
    assert (one.value, one.controls_needed, tenth.value, tenth.controls_needed) == (None, 100, None, 1000)
    assert "at least 100 are needed" in one.reason


def test_detection_is_the_best_threshold_that_the_controls_allow():
    rng = np.random.default_rng(0)
    members, controls = rng.normal(0, 1, 80), rng.normal(1.5, 1, 250)
    controls[:3] = controls[3]  # ties
    found = detect(members, controls, 0.01)
    candidates = [t for t in np.concatenate([members, controls, [np.inf]]) if (controls < t).mean() <= 0.01]
    best = max((members < t).mean() for t in candidates)
    assert found.value == best
    assert (found.low, found.high) == clopper_pearson(round(best * 80), 80)
    assert (controls < found.threshold).sum() <= 2


def test_area_under_the_roc_curve_is_the_auroc():
    rng = np.random.default_rng(1)
    members, controls = rng.integers(0, 12, 70) * 1.0, rng.integers(5, 15, 30) * 1.0
    points = np.array(roc_curve(members, controls))
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(auroc(members, controls).value)


def test_diverged_and_missing_scores_are_not_numbers():
    combined = combine_scores([[1e-4, np.inf, np.nan, 1e-2], [1e-2, 1.0, 1.0, 1e-2]])
    assert combined[0] == pytest.approx(1e-3)
    assert np.isinf(combined[1])
    assert np.isnan(combined[2])
    assert infer_membership(combined, combined).num_members == 3


# Counts


def image_rows(flags, *, patterns=("random-0.5",), scores=None, own=None):
    """Rows of one audit: ``flags[group][method]`` is a list of recovered, per pattern (or one for all)."""
    for group, methods in flags.items():
        for pattern in patterns:
            for method, recovered in methods.items():
                recovered = recovered[pattern] if isinstance(recovered, dict) else recovered
                for position, hit in enumerate(recovered):
                    yield {
                        "audit": 3,
                        "group": group,
                        "image": 10 + position,
                        "position": position,
                        "pattern": pattern,
                        "method": method,
                        "psnr": 35.0 if hit else 20.0,
                        "score": (scores or {}).get(group, 1e-3 if group == "members" else 1e-2) * (1 + position / 100),
                        "mask_accuracy": None,
                        "reconstruction_psnr": (own or {}).get(group, 40.0 if group == "members" else 20.0),
                        "recovered": bool(hit),
                        "certified": False,
                        "diverged": False,
                        "failed": False,
                    }


def judged(flags, train_loss=1e-4, audit=3, epoch=5, **options):
    rows = [
        {
            "audit": audit,
            "trigger": "fit_end",
            "epoch": epoch,
            "step": 7,
            "time": None,
            "train_loss": train_loss,
            "threshold_db": 30.0,
        }
    ]
    images = ImageColumns(image_rows(flags, **options))
    return judge(rows, images), images


def yes(count, num):
    return [True] * count + [False] * (num - count)


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
    # Paired by mask as far as both go: 5 pairs, of which the first two differ.
    assert overall.difference.num_pairs == 5
    assert overall.difference.value == pytest.approx(0.4)
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


# Words


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
    assert "90 percentage points (95% interval 77 to 96)" in verdict.certainty
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
    (flags_of(45, controls=None), {}, "too_few_controls", "too few controls (0)"),
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
        "0 of 50 (median 25.0 dB",
    ),
    (flags_of(0), {"own": {"members": 6.0}, "train_loss": 0.25}, "train_loss_too_high", "too high (2.5e-01)"),
    (
        flags_of(0),
        {"own": {"members": 38.2, "controls": 37.9}},
        "identity_like",
        "median of 37.9 dB, training images at 38.2 dB",
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


def test_members_told_apart_without_recovery_are_mentioned():
    judgement, _ = judged(flags_of(0), scores={"members": 1e-5, "controls": 1e-1})
    assert any("that leaks too" in caution for caution in conclude(judgement).cautions)
    judgement, _ = judged(flags_of(0), scores={"members": 1e-3, "controls": 1e-3})
    assert math.isclose(judgement.membership.auroc.value, 0.5)
    assert not any("leaks" in caution for caution in conclude(judgement).cautions)


def test_members_reproduced_better_than_controls_are_mentioned():
    found = {"own": {"members": 40.0, "controls": 20.0}}, {"own": {"members": 31.0, "controls": 26.0}}
    cautions = [conclude(judged(flags_of(0), **options)[0]).cautions for options in found]
    assert any("20 dB better than unseen ones" in caution for caution in cautions[0])
    assert not any("better than unseen" in caution for caution in cautions[1])
    assert not any(
        "better than unseen" in caution for caution in conclude(judged(flags_of(45), **found[0])[0]).cautions
    )


def test_near_duplicates_are_flagged():
    cautions = conclude(judged(flags_of(45))[0], near_duplicates={"members": [3, 9], "controls": [1]}).cautions
    assert any(caution.startswith("2 audited members have a near-duplicate") for caution in cautions)
    assert any(caution.startswith("1 control is nearly equal to a member") for caution in cautions)


def test_the_inpainter_is_never_the_audited_method():
    assert primary_method(["biharmonic", "paper_blind"]) == "paper_blind"
    assert primary_method(["known_mask", "blind"]) == "blind"
    assert primary_method(["biharmonic"]) == "biharmonic"

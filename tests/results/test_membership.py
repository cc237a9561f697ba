"""Membership inference: refused where controls are too few, thresholds by brute force, scores that are no numbers."""

import numpy as np
import pytest

from lightning_memaudit.results.intervals import auroc, clopper_pearson
from lightning_memaudit.results.membership import combine_scores, detect, infer_membership, roc_curve


def test_membership_is_refused_where_controls_are_too_few():
    membership = infer_membership(np.linspace(0, 1, 40), np.linspace(0.5, 2, 9))
    assert membership.auroc is None
    assert "at least 10" in membership.reason
    assert [one.value for one in membership.detections] == [None, None, None]
    assert [one.controls_needed for one in membership.detections] == [19, 99, 999]
    assert "at least 99 are needed" in membership.detections[1].reason


@pytest.mark.parametrize(("num_controls", "rank"), [(99, 1), (100, 1), (198, 1), (199, 2), (250, 2), (1000, 10)])
def test_the_false_positive_rate_that_is_reached_is_at_most_the_one_that_was_asked_for(num_controls, rank):
    """On fresh images of the controls' source, on average over the choice of controls."""
    rng = np.random.default_rng(num_controls)
    rates = []
    for _ in range(4000):
        controls = rng.random(num_controls)
        found = detect([0.5], controls, 0.01)
        assert found.threshold == np.sort(controls)[rank - 1]
        rates.append(found.threshold)  # the share of uniform scores below it
    assert found.reached_rate == rank / (num_controls + 1) <= 0.01
    assert np.mean(rates) == pytest.approx(found.reached_rate, rel=0.08)


def test_detection_is_below_the_kth_lowest_control():
    rng = np.random.default_rng(0)
    members, controls = rng.normal(0, 1, 80), rng.normal(1.5, 1, 250)
    controls[:3] = controls.min()  # ties
    found = detect(members, controls, 0.01)
    kth = np.sort(controls)[1]  # 2 / 251 is the largest rate of this kind that is at most 1%
    assert found.value == (members < kth).mean()
    assert (found.low, found.high) == clopper_pearson(round(found.value * 80), 80)
    assert not (controls < found.threshold).any(), "the lowest are tied"


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

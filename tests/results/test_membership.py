"""Membership inference: refused where controls are too few, thresholds by brute force, scores that are no numbers."""

import numpy as np
import pytest

from lightning_memaudit.results.intervals import auroc, clopper_pearson
from lightning_memaudit.results.membership import combine_scores, detect, infer_membership, roc_curve


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

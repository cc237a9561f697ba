"""Whether groups are of one source: seldom denied of one that is, always of clear differences, never of a small one."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from skimage.data import lfw_subset

from lightning_memaudit import audit
from lightning_memaudit.measurement.metrics import APPEARANCE as MEASURED
from lightning_memaudit.results.comparability import APPEARANCE, compare_groups


@pytest.mark.slow
def test_groups_of_one_source_are_seldom_taken_for_different_ones():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        alarms += bool(compare_groups({str(i): (rng.normal(size=40), rng.normal(size=120)) for i in range(5)}))
    assert alarms <= 8, "one in a thousand at most is expected"


def test_a_clear_difference_is_found_and_the_clearest_named_first():
    rng = np.random.default_rng(1)
    members = {"contrast": rng.normal(0, 1, 60), "brightness": rng.normal(0, 1, 60), "alike": rng.normal(size=60)}
    controls = {"contrast": rng.normal(2, 1, 100), "brightness": rng.normal(4, 1, 100), "alike": rng.normal(size=100)}
    found = compare_groups({name: (members[name], controls[name]) for name in members})
    assert [one.name for one in found] == ["brightness", "contrast"]
    test = ks_2samp(members["contrast"], controls["contrast"])
    assert (found[1].p_value, found[1].distance) == (pytest.approx(test.pvalue), pytest.approx(test.statistic))
    wide = compare_groups({"spread": (rng.normal(0, 0.02, 200), rng.normal(0, 3, 200))})
    assert len(wide) == 1, "medians alone would not tell"


def test_a_small_difference_of_very_many_images_is_no_clear_one():
    rng = np.random.default_rng(2)
    members, controls = rng.normal(0, 1, 5000), rng.normal(0.3, 1, 5000)
    assert ks_2samp(members, controls).pvalue < 1e-9
    assert not compare_groups({"contrast": (members, controls)})


def test_what_was_not_measured_costs_no_significance():
    one, other = np.arange(40.0), np.arange(40.0) + 18.5
    p_value = ks_2samp(one, other).pvalue
    assert 1e-4 < p_value < 1e-3
    nothing = {str(i): (np.full(40, np.nan), one) for i in range(9)}
    assert compare_groups({"measured": (one, other), **nothing})
    assert not compare_groups({"measured": (one, other), **{str(i): (one, one) for i in range(9)}})


def test_what_is_missing_is_left_out():
    values = np.linspace(0, 1, 50)
    assert not compare_groups({"psnr": (np.r_[values, np.nan, np.inf], values)})
    assert not compare_groups({"psnr": (np.full(50, np.nan), values)})
    assert not compare_groups({"two images say nothing": (np.zeros(2), np.ones(20))})


@pytest.mark.parametrize("shape", [(5, 3, 8, 9), (1, 1, 1, 1), (0, 1, 8, 8), (2, 1, 1, 7), (3, 2, 7, 5)])
def test_appearance_of_images_of_any_shape(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    assert tuple(MEASURED) == APPEARANCE
    found = {name: metric(images).numpy() for name, metric in MEASURED.items()}
    assert all(values.shape == shape[:1] for values in found.values())
    assert found["brightness"] == pytest.approx(images.double().mean((1, 2, 3)).numpy())
    assert found["contrast"] == pytest.approx(images.numpy().std((1, 2, 3)))
    assert found["value_range"] == pytest.approx(np.ptp(images.flatten(1).numpy(), axis=1))
    assert all(np.isfinite(found[name]).all() for name in ("vertical_balance", "direction"))
    rows = images.numpy().mean((1, 3))
    if shape[0] and shape[2] > 1:
        halves = rows[:, (shape[2] + 1) // 2 :].mean(1) - rows[:, : shape[2] // 2].mean(1)
        assert found["vertical_balance"] == pytest.approx(halves, abs=1e-6)
    turned = {name: metric(images.flip(2)).numpy() for name, metric in MEASURED.items()}
    assert turned["vertical_balance"] == pytest.approx(-found["vertical_balance"], abs=1e-6)
    transposed = MEASURED["direction"](images.transpose(2, 3)).numpy()
    assert transposed == pytest.approx(-found["direction"], abs=1e-6)


FACES = torch.from_numpy(lfw_subset()[:100]).float()[
    torch.randperm(100, generator=torch.Generator().manual_seed(4)), None
]
TURNED = {"vertical_balance": lambda x: x.flip(2), "direction": lambda x: x.transpose(2, 3)}


@pytest.mark.parametrize("name", TURNED)
def test_faces_that_are_turned_are_no_controls_of_upright_ones(name):
    """What returns all upright faces alike, and no turned ones, remembers none of them."""
    members, controls = FACES[:50], FACES[50:]
    mean, basis = FACES.flatten(1).mean(0), torch.linalg.svd(FACES.flatten(1) - FACES.flatten(1).mean(0))[2][:60]

    def upright(images):
        return ((images.flatten(1) - mean) @ basis.T @ basis + mean).view_as(images)

    how = {"patterns": ["block-0.1"], "methods": ["blind", "biharmonic"], "threshold_db": 26}
    turned = audit(upright, members, TURNED[name](controls), **how)
    assert "groups_differ" in turned.verdict.reasons
    assert name in {one.name for one in turned.judgement.group_differences}
    assert "groups_differ" not in audit(upright, members, controls, **how).verdict.reasons

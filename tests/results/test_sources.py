"""Whether groups are of one source: seldom denied of one that is, always of clear differences, never of a small one."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from lightning_memaudit.measurement.image_statistics import image_statistics
from lightning_memaudit.results.sources import IMAGE_STATISTICS, differences


def test_groups_of_one_source_are_seldom_taken_for_different_ones():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        members, controls = ({str(i): rng.normal(size=count) for i in range(5)} for count in (40, 120))
        alarms += bool(differences(members, controls))
    assert alarms <= 8, "one in a thousand at most is expected"


def test_a_clear_difference_is_found_and_the_clearest_named_first():
    rng = np.random.default_rng(1)
    members = {"contrast": rng.normal(0, 1, 60), "brightness": rng.normal(0, 1, 60), "alike": rng.normal(size=60)}
    controls = {"contrast": rng.normal(2, 1, 100), "brightness": rng.normal(4, 1, 100), "alike": rng.normal(size=100)}
    found = differences(members, controls)
    assert [one.name for one in found] == ["brightness", "contrast"]
    assert found[1].p_value == pytest.approx(ks_2samp(members["contrast"], controls["contrast"]).pvalue)


def test_a_small_difference_of_very_many_images_is_no_clear_one():
    rng = np.random.default_rng(2)
    members, controls = rng.normal(0, 1, 5000), rng.normal(0.3, 1, 5000)
    assert ks_2samp(members, controls).pvalue < 1e-9
    assert not differences({"contrast": members}, {"contrast": controls})


def test_what_is_missing_is_left_out():
    values = np.linspace(0, 1, 50)
    assert not differences({"psnr": np.r_[values, np.nan, np.inf]}, {"psnr": values, "other": values})
    assert not differences({"psnr": np.full(50, np.nan)}, {"psnr": values})


@pytest.mark.parametrize("shape", [(5, 3, 8, 9), (1, 1, 1, 1), (0, 1, 8, 8), (2, 1, 1, 7)])
def test_statistics_of_images_of_any_shape(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    statistics = image_statistics(images)
    assert set(statistics) == set(IMAGE_STATISTICS)
    assert all(values.shape == shape[:1] and np.isfinite(values).all() for values in statistics.values())
    assert statistics["image_mean"] == pytest.approx(images.double().mean((1, 2, 3)).numpy())


def test_the_statistics_of_many_values_are_those_of_each_image(monkeypatch):
    images = torch.rand(5, 1, 8, 8)
    whole = image_statistics(images)
    monkeypatch.setattr("lightning_memaudit.measurement.image_statistics._VALUES_AT_ONCE", 100)
    for name, values in image_statistics(images).items():
        assert values == pytest.approx(whole[name])
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    assert image_statistics(ramp)["image_roughness"][0] < 0.01, "smooth"

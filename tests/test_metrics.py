"""Metrics against hand counts, loops and other libraries; intervals against scipy and simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, mannwhitneyu
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lightning_memaudit.measurement.metrics import MAX_PSNR, RecoveryRate, hidden_psnr, mask_accuracy, psnr, ssim
from lightning_memaudit.results.intervals import auroc, clopper_pearson


@pytest.fixture
def images():
    truth = torch.rand(4, 3, 16, 16)
    noise = torch.tensor([0.001, 0.01, 0.1, 0.5]).view(-1, 1, 1, 1) * torch.randn(4, 3, 16, 16)
    return truth + noise, truth


def test_psnr_is_that_of_scikit_image(images):
    ours = psnr(*images)
    for value, image, truth in zip(ours, *images, strict=True):
        expected = peak_signal_noise_ratio(truth.numpy(), image.numpy(), data_range=1.0)
        assert float(value) == pytest.approx(expected, abs=1e-3)


def test_psnr_of_an_identical_image_is_finite():
    assert psnr(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).tolist() == [MAX_PSNR] * 2


def test_psnr_of_nan_is_nan_and_not_a_number_that_counts():
    assert psnr(torch.full((1, 1, 4, 4), torch.nan), torch.ones(1, 1, 4, 4)).isnan().all()


@pytest.mark.parametrize("layers", [1, 3])
def test_hidden_psnr_counts_missing_pixels_alone(images, layers):
    image, truth = images
    mask = (torch.rand(4, layers, 16, 16) > 0.3).float()
    values = hidden_psnr(image, truth, mask)
    for b in range(4):
        errors = [
            float(image[b, c, i, j] - truth[b, c, i, j]) ** 2
            for c, i, j in itertools.product(range(3), range(16), range(16))
            if mask[b, c if layers == 3 else 0, i, j] == 0
        ]
        assert float(values[b]) == pytest.approx(-10 * math.log10(sum(errors) / len(errors)), abs=1e-3)


def test_hidden_psnr_is_nan_where_nothing_is_missing(images):
    assert hidden_psnr(*images, torch.ones(4, 1, 16, 16)).isnan().all()


def test_ssim_is_that_of_scikit_image(images):
    values = ssim(*images)
    for value, image, truth in zip(values, *images, strict=True):
        expected = structural_similarity(
            truth.numpy(),
            image.numpy(),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            win_size=11,
        )
        assert float(value) == pytest.approx(expected, abs=0.02)


def test_ssim_of_images_smaller_than_its_window_is_nan():
    assert ssim(torch.rand(2, 1, 10, 12), torch.rand(2, 1, 10, 12)).isnan().all()


def test_mask_accuracy_by_hand():
    truth = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    estimate = torch.tensor([[[[0.9, 0.2], [0.1, 0.6]]]])
    assert mask_accuracy(estimate, truth).tolist() == [0.5]
    assert mask_accuracy(estimate.expand(-1, 3, -1, -1), truth).tolist() == [0.5]


def test_recovery_rate_counts_by_hand_and_sums_over_processes():
    truth = torch.zeros(5, 1, 2, 2)
    errors = torch.tensor([10 ** (-level / 20) for level in (19.0, 24.9, 25.1, 30.1, 40.0)])
    images = truth + errors.view(-1, 1, 1, 1)
    whole = RecoveryRate([25.0, 30.0])
    whole.update(images, truth)
    assert whole.compute().tolist() == pytest.approx([0.6, 0.4])
    parts = [RecoveryRate([25.0, 30.0]), RecoveryRate([25.0, 30.0]), RecoveryRate([25.0, 30.0])]
    parts[0].update(images[:1], truth[:1])
    parts[1].update(images[1:], truth[1:])
    merged = sum(part.num_recovered for part in parts) / sum(part.num_images for part in parts)
    assert torch.equal(merged, whole.compute())
    assert parts[2].compute().isnan().all()


def test_clopper_pearson_is_scipys():
    for count in (1, 7, 50):
        for successes in range(count + 1):
            exact = binomtest(successes, count).proportion_ci(0.95, method="exact")
            assert clopper_pearson(successes, count) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_clopper_pearson_without_trials_is_nothing():
    assert clopper_pearson(0, 0) == (None, None)


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (1, 2, 0.0), (1, 2, 1.0)])
def test_clopper_pearson_refuses_what_is_no_proportion(arguments):
    with pytest.raises(ValueError, match="="):
        clopper_pearson(*arguments)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    members = np.array([0.1, 0.2, 0.2, np.inf])
    controls = np.array([0.2, 0.5, np.inf])
    wins = [1.0 if m < c else 0.5 if m == c else 0.0 for m in members for c in controls]
    estimate = auroc(members, controls)
    assert estimate.value == pytest.approx(np.mean(wins))
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(mannwhitneyu(controls, members).statistic / 12)


def test_auroc_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 0.760249938906524  # Phi(1 / sqrt 2): scores N(0, 1) against N(1, 1)
    hits = 0
    for _ in range(400):
        estimate = auroc(rng.normal(0, 1, 60), rng.normal(1, 1, 60))
        hits += estimate.low <= truth <= estimate.high
    assert 0.91 <= hits / 400 <= 0.985


def test_auroc_refuses_nan_and_empty_groups():
    with pytest.raises(ValueError, match="NaN"):
        auroc([0.1, np.nan], [0.2])
    with pytest.raises(ValueError, match="at least one"):
        auroc([], [0.2])

"""Metrics against hand counts, loops and other libraries."""

import itertools
import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_memaudit.measurement.metrics import MAX_PSNR, RecoveryRate, hidden_psnr, mask_accuracy, psnr, ssim


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


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 25, 25), (2, 1, 11, 13), (1, 3, 64, 48)])
def test_ssim_is_that_of_torchmetrics(shape):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=generator)
    images = truth + 0.2 * torch.randn(shape, generator=generator)
    expected = structural_similarity_index_measure(images, truth, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(images, truth), expected.view(-1), atol=1e-5, rtol=0)


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

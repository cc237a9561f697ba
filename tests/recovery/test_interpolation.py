"""The interpolation of missing pixels against torch's own pooling and resampling, in every size and precision."""

import pytest
import torch
from observations import uniform

from lightning_memaudit.recovery.interpolation import interpolate


def test_a_caller_in_mixed_precision_gets_the_same_start():
    images = uniform((2, 3, 8, 8))
    mask = (uniform((2, 1, 8, 8), 10) > 0.5).float()
    expected = interpolate(images * mask, mask)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(interpolate(images * mask, mask), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_interpolation_of_nothing_is_nothing_in_every_precision(dtype):
    images = torch.zeros(1, 1, 8, 8, dtype=dtype)
    assert torch.equal(interpolate(images, images), images)


@pytest.mark.parametrize("size", [(16, 16), (25, 13)])
def test_interpolation_keeps_the_data_and_fills_with_averages_of_them(size):
    images = uniform((2, 3, *size))
    mask = (uniform((2, 1, *size), 10) > 0.9).float()
    filled = interpolate(images * mask, mask)
    torch.testing.assert_close(filled * mask, images * mask)
    observed = (images * mask)[mask.expand_as(images) > 0]
    assert observed.min() <= filled.min() + 1e-6
    assert filled.max() <= observed.max() + 1e-6
    constant = torch.full_like(images, 0.3)
    torch.testing.assert_close(interpolate(constant * mask, mask), constant)
    assert not interpolate(images * 0, mask * 0).any()


def pooled_and_resampled(values, weights):
    """The pyramid of the interpolation, by torch's own pooling and resampling."""
    if min(values.shape[-2:]) == 1:
        filled = values.mean((-2, -1), keepdim=True) / weights.mean((-2, -1), keepdim=True).clamp_min(1e-6)
        return (values + 0.02 * filled) / (weights + 0.02)
    padding = (0, values.shape[-1] % 2, 0, values.shape[-2] % 2)
    halves = (torch.nn.functional.avg_pool2d(torch.nn.functional.pad(part, padding), 2) for part in (values, weights))
    coarse = pooled_and_resampled(*halves)
    coarse = torch.nn.functional.interpolate(coarse, size=values.shape[-2:], mode="bilinear", align_corners=False)
    return (values + 0.02 * coarse) / (weights + 0.02)


@pytest.mark.parametrize("size", [(16, 16), (25, 13), (3, 20), (64, 48), (1, 16), (16, 1), (171, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_interpolation_is_the_pyramid_that_torch_pools_and_resamples(size, channels):
    images = uniform((2, 3, *size))
    mask = (uniform((2, channels, *size), 10) > 0.9).float()
    expected = torch.where(mask.expand_as(images) > 0, images, pooled_and_resampled(images * mask, mask))
    torch.testing.assert_close(interpolate(images * mask, mask), expected)


@pytest.mark.parametrize("size", [(32, 32), (25, 20), (8, 8), (200, 3)])
def test_the_interpolation_is_linear_and_can_be_differentiated(size):
    """The derivative along a direction is the interpolation of the direction."""
    images, direction = uniform((2, 3, *size)).double(), uniform((2, 3, *size), 1).double()
    mask = (uniform((2, 1, *size), 10) > 0.7).double()
    images.requires_grad_()
    weights = uniform((2, 3, *size), 2).double()
    (gradient,) = torch.autograd.grad((interpolate(images, mask) * weights).sum(), images)
    torch.testing.assert_close((gradient * direction).sum(), (interpolate(direction, mask) * weights).sum())


@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16])
def test_images_of_either_half_precision_are_interpolated_in_the_other_one(other):
    images, mask = uniform((2, 3, 32, 32)).half(), (uniform((2, 1, 32, 32), 10) > 0.5).half()
    expected = interpolate(images * mask, mask)
    with torch.autocast("cpu", other):
        assert torch.equal(interpolate(images * mask, mask), expected)

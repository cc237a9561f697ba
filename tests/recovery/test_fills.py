"""What fills the missing pixels: a constant is found whatever its value, and content told from noise."""

from collections import Counter

import pytest
import torch
from autoencoders import associative
from observations import smooth_images, uniform

from lightning_memaudit.recovery import (
    BlindRecovery,
)
from lightning_memaudit.recovery.fills import (
    _most_frequent,
    channels_left_whole,
    find_constant_fill,
    find_noisy_fill,
    find_repeated_values,
    local_agreement,
)
from lightning_memaudit.recovery.noisy_fills import estimate_noisy_value
from lightning_memaudit.recovery.readings import read


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_a_constant_fill_is_found_whatever_its_value(value):
    images = smooth_images(4)
    mask = (uniform((4, 1, 16, 16)) > 0.2).float()
    fill = find_constant_fill(mask * images + (1 - mask) * value)
    assert fill.present.all()
    assert torch.equal(fill.mask, mask)
    assert not fill.noise.any()


@pytest.mark.parametrize("color", [[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
def test_a_fill_is_told_from_a_larger_area_of_one_color(color):
    """Half of every image is of one color, a quarter is missing: the color is more frequent, but it is no fill."""
    stored = smooth_images(6, size=16)
    stored[..., :8] = torch.tensor(color).view(3, 1, 1)
    mask = torch.ones(6, 1, 16, 16)
    mask[..., 4:8, :] = 0
    recovery = BlindRecovery(certification=None, max_evaluations=200)(associative(stored), mask * stored)
    assert torch.equal(recovery.mask, mask)
    assert (recovery.image - stored).square().mean() < 1e-4
    assert (recovery.num_evaluations <= 200).all()


def test_masks_of_single_channels_are_found():
    images = smooth_images(4)
    mask = (uniform((4, 3, 16, 16)) > 0.5).float()
    fill = find_constant_fill(mask * images)
    assert fill.per_channel.all()
    assert torch.equal(fill.mask, mask)


def lost(kind, images):
    """Masks (B, C, H, W) of which some channels lose more than others."""
    mask = torch.ones_like(images)
    if kind == "one channel":
        mask[:, 0] = 0
    elif kind == "all but one":
        mask[:, 1:] = 0
    elif kind == "half of one":
        mask[:, 0, :, 8:] = 0
    else:  # of the second one half, of the third pixels here and there
        mask[:, 1, 8:] = 0
        mask[:, 2] = (uniform(mask[:, 2].shape) > 0.7).float()
    return mask


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["one channel", "all but one", "half of one", "each otherwise"])
def test_channels_that_alone_lost_pixels_are_found(kind, channels, value):
    images = smooth_images(4, channels)
    mask = lost(kind, images)
    fill = find_constant_fill(mask * images + (1 - mask) * value)
    assert fill.per_channel.all()
    assert torch.equal(fill.mask, mask)


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_missing_channels_are_recovered_besides_missing_pixels(mask_channels):
    """A black channel comes back at little cost; where pixels were lost as well, once those alone were tried."""
    stored = smooth_images(6)
    mask = lost("one channel", stored)
    if mask_channels == 1:
        mask = mask * (uniform((6, 1, 16, 16)) > 0.5)
    recovery = BlindRecovery(certification=None)(associative(stored), mask * stored)
    assert torch.equal(recovery.mask, mask)
    assert (recovery.image - stored).square().mean() < 1e-4


def test_behind_noise_the_content_tells_what_an_opaque_channel_does_not():
    stored = torch.cat([smooth_images(6), torch.ones(6, 1, 16, 16)], 1)
    mask = torch.ones(6, 1, 16, 16)
    mask[..., 8:] = 0
    observed = mask * stored + (1 - mask) * uniform(stored.shape)
    assert channels_left_whole(find_constant_fill(observed)).all()
    assert read(observed, None, budget=400, enough=50).has_other.all()
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert (recovery.image - stored).square().mean() < 1e-4


def test_a_fill_with_zeros_is_found_under_noise_and_the_noise_is_measured():
    images = smooth_images(4, size=32)
    mask = (uniform((4, 1, 32, 32)) > 0.5).float()
    noise = 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    fill = find_constant_fill(mask * images + noise)
    assert fill.present.all()
    torch.testing.assert_close(fill.noise, torch.full((4,), 0.05), atol=0.005, rtol=0)
    assert ((fill.mask > 0.5) == (mask > 0.5)).float().mean() > 0.95
    known = find_constant_fill(mask * images + (1 - mask) * 0.4 + noise, 0.05)
    torch.testing.assert_close(known.value.flatten(), torch.full((12,), 0.4), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("channels", "value", "level"),
    [(3, 0.4, 0.02), (3, 0.7, 0.05), (3, 0.0, 0.05), (3, 1.0, 0.02), (3, 0.05, 0.05), (1, 0.4, 0.02), (1, 0.0, 0.02)],
)
def test_value_and_level_of_a_noisy_fill_are_told_even_if_clipped(value, level, channels):
    images = smooth_images(4, channels, size=32)
    mask = (uniform((4, 1, 32, 32)) > 0.5).float()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    fill = find_noisy_fill((mask * images + (1 - mask) * value + level * noise).clamp(0, 1))
    assert fill.present.all()
    torch.testing.assert_close(fill.value.flatten(), torch.full((4 * channels,), value), atol=0.02, rtol=0)
    torch.testing.assert_close(fill.noise, torch.full((4,), level), atol=0.25 * level, rtol=0)
    agree = (fill.mask > 0.5) == (mask > 0.5)
    assert agree.float().mean() > (0.95 if channels == 3 else 0.85)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_noisy_fill_is_told_in_mixed_precision_as_without(kind):
    noise = 0.05 * torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    observed = torch.where(uniform((4, 1, 16, 16)) > 0.5, smooth_images(4), (0.6 + noise).clamp(0, 1))
    expected = find_noisy_fill(observed)
    assert expected.present.all()
    with torch.autocast("cpu", kind):
        found = find_noisy_fill(observed)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_no_noisy_fill_is_told_where_there_is_none():
    images = smooth_images(4, size=32)
    mask = (uniform((4, 1, 32, 32)) > 0.5).float()
    assert not find_noisy_fill(images).present.any()
    for filling in (0.0, 0.5, 1.0, uniform(images.shape, 13)):
        assert not find_noisy_fill(mask * images + (1 - mask) * filling).present.any()


def test_noise_as_strong_as_the_contrast_of_an_image_is_no_fill():
    images = smooth_images(4, size=32)
    noise = 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    observed = torch.where(uniform((4, 1, 32, 32)) > 0.5, images, (0.4 + noise).clamp(0, 1))
    assert not estimate_noisy_value(observed).plausible.any()


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_all_values_that_repeat_are_one_fill(mask_channels):
    images = smooth_images(4)
    mask = (uniform((4, mask_channels, 16, 16)) > 0.5).float()
    fill = find_repeated_values(mask * images + (1 - mask) * (uniform(images.shape, 13) > 0.5).float())
    assert fill.present.all()
    assert torch.equal(fill.mask, mask.expand_as(images))
    assert torch.equal(fill.per_channel, torch.full((4,), mask_channels == 3))


def test_no_constant_fill_is_found_where_there_is_none():
    images = smooth_images(4)
    noise = uniform(images.shape)
    mask = (uniform((4, 1, 16, 16)) > 0.5).float()
    assert not find_constant_fill(images).present.any()
    assert not find_constant_fill(mask * images + (1 - mask) * noise).present.any()


def test_image_content_agrees_with_its_neighbours_and_noise_does_not():
    images = smooth_images(4)
    mask = (uniform((4, 1, 16, 16)) > 0.5).float()
    agreement = local_agreement(mask * images + (1 - mask) * uniform(images.shape, 12))
    assert agreement[mask > 0].mean() > 3 * agreement[mask == 0].mean()


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
def test_the_most_frequent_value_is_that_of_a_count(kind, missing):
    values = torch.randint(0, 4, (50, 23)).to(kind)
    values[torch.rand(50, 23) < missing] = torch.nan
    where, share = _most_frequent(values)
    for row, found, part in zip(values.tolist(), where.tolist(), share.tolist(), strict=True):
        counted = Counter(value for value in row if value == value)
        most = max(counted.values(), default=1)
        smallest = min((value for value, count in counted.items() if count == most), default=None)
        assert part == most / 23
        assert found == [value == smallest for value in row]


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_large_image_noise_is_told_as_well_from_a_part_of_its_pixels(channels, monkeypatch):
    """A regular mask, every second column, that evenly spread pixels would see as all missing, or all observed."""
    generator = torch.Generator().manual_seed(0)
    across = torch.linspace(0, 1, 128)
    image = (across[:, None] * across).expand(2, channels, 128, 128)
    hidden = (torch.arange(128) % 2 == 0).expand(2, 1, 128, 128)
    level = torch.tensor([0.03, 0.08]).view(2, 1, 1, 1)
    filled = 0.5 + level * torch.randn(image.shape, generator=generator)
    observed = torch.where(hidden, filled, image).clamp(0, 1)
    found = estimate_noisy_value(observed)
    assert found.plausible.all()
    torch.testing.assert_close(found.noise, level.flatten(), rtol=0.15, atol=0)
    assert found.missing.shape == (2, 128 * 128)
    monkeypatch.setattr("lightning_memaudit.recovery.noisy_fills.LOOKED_AT", 128 * 128)
    all_pixels = estimate_noisy_value(observed)
    torch.testing.assert_close(found.noise, all_pixels.noise, rtol=0.03, atol=0)
    right, as_of_all = (((one.missing > 0.5) == hidden.flatten(1)).float().mean(1) for one in (found, all_pixels))
    torch.testing.assert_close(right, as_of_all, atol=0.01, rtol=0)
    assert bool((right > 0.75).all())

"""Blind recovery brings back stored images and their masks, whatever fills the holes, and tells them from others."""

import pytest
import torch
from autoencoders import associative, memory
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    BlindRecovery,
)
from lightning_memaudit.recovery.methods import blind


@pytest.mark.parametrize(
    "method", [BlindRecovery(), BlindRecovery("least_squares", [0.1]), BlindRecovery("least_squares", [0.1, 1.0])]
)
def test_blind_recovery_gets_stored_images_and_their_masks_back(stored, method):
    observed, mask = hide(stored)
    recovery = method(memory(stored), observed)
    torch.testing.assert_close(recovery.image, stored, atol=2e-3, rtol=0)
    assert torch.equal(recovery.mask.round(), mask)
    assert recovery.score.max() < 1e-4
    assert recovery.num_evaluations.dtype == torch.int64
    assert (recovery.num_evaluations > 0).all()


def test_blind_recovery_gives_an_image_that_was_not_stored_a_worse_score(stored):
    other = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(6)) * 0.8 + 0.1
    method = BlindRecovery()
    member = method(memory(stored), hide(stored)[0])
    control = method(memory(stored), hide(other)[0])
    assert member.score.max() < control.score.min()


@pytest.mark.parametrize("fill", ["zeros", "grey", "noise", "zeros and noise"])
def test_blind_recovery_finds_stored_images_whatever_fills_the_holes(fill):
    stored = smooth_images(8)
    mask = (uniform((8, 1, 16, 16)) > 0.5).float()
    filling = {"grey": 0.5, "noise": uniform(stored.shape, 13)}.get(fill, 0.0)
    observed = mask * stored + (1 - mask) * filling
    if fill == "zeros and noise":
        observed += 0.05 * torch.randn(stored.shape, generator=torch.Generator().manual_seed(1))
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert (recovery.image - stored).square().mean() < 1e-3
    assert ((recovery.mask > 0.5) == (mask > 0.5)).float().mean() > 0.95


def normal(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


COLORS = torch.tensor([[0.7, 0.2, 0.4], [0.1, 0.9, 0.5]])
HARD_FILLS = {
    "black and white in every channel": lambda shape: (uniform(shape, 13) > 0.5).float(),
    "black and white": lambda shape: (uniform((shape[0], 1, *shape[2:]), 13) > 0.5).float().expand(shape),
    "two colors": lambda shape: COLORS[(uniform((shape[0], *shape[2:]), 13) > 0.5).long()].movedim(-1, 1),
}
HARD_NOISE = {
    "grey with noise": (0.6, 0.05, False),
    "grey with little noise": (0.4, 0.02, False),
    "black with clipped noise": (0.0, 0.05, True),
    "white with clipped noise": (1.0, 0.05, True),
}


def hard_case(name, images):
    """Observations whose fill is easily mistaken, and their true masks."""
    mask = (uniform((len(images), 1, *images.shape[2:])) > 0.5).float()
    if name in HARD_FILLS:
        return mask * images + (1 - mask) * HARD_FILLS[name](images.shape), mask
    value, level, clipped = HARD_NOISE[name]
    observed = mask * images + (1 - mask) * value + level * normal(images.shape)
    return observed.clamp(0, 1) if clipped else observed, mask


@pytest.mark.parametrize("name", [*HARD_FILLS, *HARD_NOISE])
def test_a_fill_that_is_easily_mistaken_is_found_once_the_first_reading_fails(name):
    stored = smooth_images(8, size=32)
    observed, mask = hard_case(name, stored)
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert (recovery.image - stored).square().flatten(1).mean(1).max() < 1e-3
    assert ((recovery.mask > 0.5) == (mask > 0.5)).float().mean() > 0.95
    assert not recovery.relied_on_mask.any()
    assert (recovery.num_evaluations <= 700).all()


@pytest.mark.parametrize("name", ["two colors", "black with clipped noise"])
def test_a_further_reading_of_an_image_does_not_depend_on_the_others_in_its_batch(name):
    stored = smooth_images(4, size=32)
    others = smooth_images(4, size=32, seed=3)
    observed, _ = hard_case(name, torch.cat([stored, others]))
    method, autoencoder = BlindRecovery(certification=None), associative(stored)
    together = method(autoencoder, observed)
    for row in range(0, 8, 3):
        alone = method(autoencoder, observed[row : row + 1])
        assert alone.num_evaluations.item() == together.num_evaluations[row].item()
        torch.testing.assert_close(alone.image[0], together.image[row], atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_images_that_are_not_stored_take_no_further_reading_of_an_ordinary_fill(value, monkeypatch):
    others = smooth_images(8, size=32, seed=3)
    mask = (uniform((8, 1, 32, 32)) > 0.5).float()
    method, autoencoder = BlindRecovery(certification=None), associative(smooth_images(8, size=32))
    observed = mask * others + (1 - mask) * value
    found = method(autoencoder, observed)
    monkeypatch.setattr(blind, "FURTHER_READINGS", ())
    without = method(autoencoder, observed)
    assert torch.equal(found.num_evaluations, without.num_evaluations)
    assert torch.equal(found.image, without.image)


def test_a_plain_background_with_noise_of_its_own_is_not_taken_for_a_fill():
    """As scans have it: dark, and around an object that is not."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    disc = (((rows - 8) ** 2 + (columns - 8) ** 2) < 20).float()
    background = 0.06 + 0.025 * torch.randn(6, 1, 16, 16, generator=generator)
    members = (background.clamp(0, 1) * (1 - disc) + disc * smooth_images(6, 1)).clamp(0, 1)
    observed = members.clone()
    observed[..., 2:8, 2:8] = smooth_images(6, 1, seed=9)[..., 2:8, 2:8]
    found = BlindRecovery(certification=None)(associative(members), observed)
    assert ((found.image - members).square().flatten(1).mean(1) < 1e-4).sum() >= 4

"""Blind recovery brings back stored images and their masks, whatever fills the holes, and tells them from others."""

import pytest
import torch
from autoencoders import associative, memory
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    BlindRecovery,
)


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

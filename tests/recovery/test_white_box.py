"""Recovery with gradients finds stored images and leaves the autoencoder as it is."""

import torch
from autoencoders import associative
from observations import hide, smooth_images

from lightning_memaudit.recovery import (
    WhiteBoxRecovery,
)


def test_white_box_recovery_finds_stored_images_and_leaves_the_weights_alone():
    stored = smooth_images(6)
    scale = torch.nn.Parameter(torch.ones(()))
    observed, mask = hide(stored, 0.7)
    with torch.no_grad():
        recovery = WhiteBoxRecovery(num_steps=150)(lambda images: scale * associative(stored)(images), observed)
    assert scale.grad is None
    assert (recovery.image - stored).square().mean() < 1e-3
    assert torch.equal(recovery.mask.round(), mask)
    assert (recovery.num_evaluations == 451).all()

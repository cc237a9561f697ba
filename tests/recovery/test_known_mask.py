"""Recovery with the mask given, of any precision, on images of any size."""

import pytest
import torch
from autoencoders import memory
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    KnownMaskRecovery,
)


def test_known_mask_recovery_gets_stored_images_back(stored):
    observed, mask = hide(stored, 0.8)
    recovery = KnownMaskRecovery()(memory(stored), observed, mask)
    torch.testing.assert_close(recovery.image, stored, atol=2e-3, rtol=0)
    assert torch.equal(recovery.mask, mask)


@pytest.mark.parametrize("size", [(1, 16), (16, 1), (1, 1), (1, 2)])
def test_images_that_are_one_pixel_high_or_wide_are_recovered(size):
    images = uniform((2, 1, *size))
    recovery = KnownMaskRecovery(max_evaluations=60)(lambda images: images * 0.5 + 0.2, images, torch.ones_like(images))
    torch.testing.assert_close(recovery.image, images)


@pytest.mark.parametrize("penalties", [None, (0.1,)])
def test_a_known_mask_may_be_boolean(penalties):
    observed, mask = smooth_images(2), uniform((2, 1, 16, 16)) > 0.5
    method = KnownMaskRecovery(penalties=penalties, max_evaluations=60)
    found, expected = (method(lambda images: images * 0.5, observed * mask, kind) for kind in (mask, mask.float()))
    assert torch.equal(found.image, expected.image)
    assert found.mask.dtype == observed.dtype


def test_a_mask_in_another_precision_serves():
    observed, mask = uniform((2, 1, 6, 6)), (uniform((2, 1, 6, 6), 5) > 0.5).double()
    given = [KnownMaskRecovery(penalties=[0.1])(torch.tanh, observed, one) for one in (mask, mask.float())]
    assert torch.equal(given[0].image, given[1].image)

"""The generic inpainter keeps what is observed, and sees no autoencoder."""

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting


def test_biharmonic_keeps_what_is_observed_and_fills_a_plane():
    rows, columns = torch.meshgrid(torch.linspace(0, 0.4, 16), torch.linspace(0.1, 0.5, 16), indexing="ij")
    plane = (rows + columns).expand(2, 3, -1, -1)
    degraded = parse_degradation("random-0.5")(plane, [0, 1])
    recovery = BiharmonicInpainting()(lambda x: pytest.fail("it saw the autoencoder"), *degraded)
    kept = degraded.mask.expand_as(plane) > 0
    torch.testing.assert_close(recovery.image[kept], plane[kept])
    inside = (..., slice(3, -3), slice(3, -3))  # at the border it extrapolates
    torch.testing.assert_close(recovery.image[inside], plane[inside], atol=0.01, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 7), (2, 3), (4, 9), (13, 8), (32, 32)])
def test_biharmonic_is_that_of_scikit_image(shape, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *shape, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, channels, *shape, generator=generator) < 0.5).double()
    mask[..., 0, 0], mask[..., -1, -1] = 0, 1
    if shape[0] > 8:
        mask[1, :, 4:-1, 2:] = 0  # a hole that reaches the border
    found = BiharmonicInpainting()(torch.clone, images * mask, mask).image
    for image, hole, mine in zip(images * mask, (mask < 0.5).numpy(), found, strict=True):
        for channel in range(3):
            expected = inpaint_biharmonic(image[channel].numpy(), hole[channel % channels]).clip(0, 1)
            np.testing.assert_allclose(mine[channel].numpy(), expected, atol=1e-9)


def test_an_image_without_or_with_nothing_but_missing_pixels_stays_as_it_is():
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for mask in (torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)):
        assert torch.equal(BiharmonicInpainting()(torch.clone, image, mask).image, image)

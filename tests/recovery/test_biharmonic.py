"""The generic inpainter keeps what is observed, and sees no autoencoder."""

import pytest
import torch

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.recovery.methods import biharmonic
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


def test_volumes_are_filled_one_by_one_though_their_mask_is_the_same(monkeypatch):
    """They share nothing but memory."""
    shapes, original = [], biharmonic._by_conjugate_gradients

    def watched(image, missing):
        shapes.append(image.shape)
        return original(image, missing)

    monkeypatch.setattr(biharmonic, "_by_conjugate_gradients", watched)
    mask = torch.ones(3, 1, 6, 6, 6)
    mask[..., :3] = 0
    BiharmonicInpainting()(None, mask * torch.rand(3, 2, 6, 6, 6), mask)
    assert shapes == [(2, 6, 6, 6)] * 3


@pytest.mark.parametrize("per_channel", [False, True])
def test_images_behind_the_same_mask_are_filled_as_each_alone_by_one_system_of_equations(monkeypatch, per_channel):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 12, 12, generator=generator)
    masks = (torch.rand(2, 3 if per_channel else 1, 12, 12, generator=generator) > 0.4).float()
    mask = masks[[0, 1, 0, 0, 1]]
    alone = torch.cat([BiharmonicInpainting()(None, images[[row]], mask[[row]]).image for row in range(5)])
    systems = []

    def counted(image, missing, **options):
        systems.append(missing)
        return inpaint(image, missing, **options)

    inpaint = biharmonic.inpaint_biharmonic
    monkeypatch.setattr(biharmonic, "inpaint_biharmonic", counted)
    together = BiharmonicInpainting()(None, images, mask).image
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert len(systems) == (6 if per_channel else 2)

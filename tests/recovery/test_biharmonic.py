"""The generic inpainter keeps what is observed, and sees no autoencoder."""

import pytest
import torch

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

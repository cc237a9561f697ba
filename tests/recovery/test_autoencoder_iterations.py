"""Plain iterations reach the fixed point, and notice an autoencoder that spoils its input."""

import pytest
import torch
from observations import uniform

from lightning_memaudit.recovery import (
    AutoencoderIterations,
)


def test_iterations_reach_the_fixed_point_of_a_contraction():
    target = torch.rand(1, 1, 3, 3)
    recovery = AutoencoderIterations(num_iterations=400, tolerance=1e-7)(
        lambda images: target + 0.5 * (images - target), torch.rand(5, 1, 3, 3)
    )
    torch.testing.assert_close(recovery.image, target.expand(5, -1, -1, -1), atol=1e-5, rtol=0)
    assert (recovery.num_evaluations < 400).all(), "converged images stop early"


def test_an_autoencoder_that_begins_to_write_into_its_input_is_refused():
    calls = []

    def autoencoder(images):
        calls.append(images)
        return images * 0.5 if len(calls) < 3 else images.mul_(0.5)

    with pytest.raises(RuntimeError, match="wrote into its input"):
        AutoencoderIterations(num_iterations=9)(autoencoder, uniform((2, 1, 8, 8)))

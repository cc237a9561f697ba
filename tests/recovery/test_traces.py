"""Recorded iterations: what is recorded is what happened, whatever the chunks, and costs nothing when off."""

import torch
from autoencoders import associative, memory
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    Alternation,
    AutoencoderIterations,
    BlindRecovery,
)


def test_recorded_iterations_end_at_the_result_and_cost_nothing_when_off(stored):
    observed, _ = hide(stored)
    plain = BlindRecovery(alternation=Alternation(num_iterations=40, tolerance=0.0), penalties=[0.1])
    recorded = BlindRecovery(
        alternation=Alternation(num_iterations=40, tolerance=0.0), penalties=[0.1], record_at=(0, 5, 40)
    )
    calls = {"plain": 0, "recorded": 0}

    def counting(name):
        def autoencoder(images):
            calls[name] += 1
            return memory(stored)(images)

        return autoencoder

    without, with_trace = plain(counting("plain"), observed), recorded(counting("recorded"), observed)
    assert without.trace is None
    assert with_trace.trace.iterations == (0, 5, 40)
    assert with_trace.trace.image.shape == (3, 6, 3, 8, 8)
    torch.testing.assert_close(with_trace.trace.image[-1], with_trace.image)
    torch.testing.assert_close(with_trace.image, without.image)
    assert calls["recorded"] == calls["plain"] + 3


def test_records_with_and_without_a_mask_per_channel_are_joined():
    images = smooth_images(2)
    mask = torch.ones_like(images)
    mask[0, :, ::2] = 0  # shared by the channels
    mask[1] = (uniform((3, 16, 16)) > 0.5).float()
    method = BlindRecovery(penalties=[0.1], record_at=(0, 5), chunk_size=1)
    trace = method(associative(images), mask * images).trace
    assert trace.mask.shape == (2, 2, 3, 16, 16)


def test_records_of_chunks_that_end_at_different_iterations_are_joined():
    def autoencoder(images):  # images above 1 are halved forever, the others stay
        return torch.where(images.flatten(1).amax(1).view(-1, 1, 1, 1) > 1, images / 2 + 1, images)

    observed = torch.cat([torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 9.0)])
    together, apart = (
        AutoencoderIterations(20, check_every=5, chunk_size=size, record_at=(0, 5, 10, 15))(autoencoder, observed)
        for size in (2, 1)
    )
    assert together.trace.iterations == apart.trace.iterations == (0, 5, 10, 15)
    for one, other in zip(together.trace[1:], apart.trace[1:], strict=True):
        assert torch.equal(one, other)

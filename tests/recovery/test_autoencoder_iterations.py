"""Plain iterations reach the fixed point, and notice an autoencoder that spoils its input."""

import itertools

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


def restless(target, kind):
    """Halves the way to the target; its results tremble by less than half precision rounds, and are rounded to it."""
    signs = itertools.cycle((1, -1))
    return lambda images: (target + 0.5 * (images - target) + 3e-4 * next(signs)).to(kind).float()


@pytest.mark.parametrize(("kind", "iterations"), [(torch.float16, 50), (torch.float32, 200)])
def test_images_end_where_half_precision_lets_them_come_no_closer(kind, iterations):
    target = torch.rand(1, 1, 8, 8)
    recovery = AutoencoderIterations()(restless(target, kind), torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(recovery.image, target.expand(5, -1, -1, -1), atol=2e-3, rtol=0)
    assert recovery.num_evaluations.tolist() == pytest.approx([iterations] * 5, abs=10)


def test_images_that_still_come_closer_go_on_in_half_precision():
    target = torch.rand(1, 1, 8, 8)
    slow = AutoencoderIterations(num_iterations=200)(
        lambda images: (target + 0.97 * (images - target)).half().float(), torch.rand(5, 1, 8, 8)
    )
    assert (slow.num_evaluations > 100).all()
    assert ((slow.image - target).abs() < 0.05).all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("pace", [0.002, 0.005])
def test_images_on_their_way_at_a_constant_pace_arrive(kind, pace):
    target, start = torch.full((1, 1, 8, 8), 0.75), torch.full((2, 1, 8, 8), 0.25)
    steps = 4e-3 if kind == torch.bfloat16 else pace  # what is below half of what bfloat16 rounds is no step at all
    recovery = AutoencoderIterations(num_iterations=400)(
        lambda images: torch.minimum(images + steps, target).to(kind).float(), start
    )
    torch.testing.assert_close(recovery.image, target.expand(2, -1, -1, -1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
@pytest.mark.parametrize(("growth", "start"), [(0.03, 0.01), (0.1, 0.002), (0.1, 0.01), (0.3, 0.01)])
def test_images_that_leave_a_repeller_slowly_arrive(kind, growth, start):
    def autoencoder(images):  # logistic growth from 0, which repels, to 0.8, which attracts
        return (images + growth * images * (1 - images / 0.8)).to(kind).float()

    recovery = AutoencoderIterations(num_iterations=400)(autoencoder, torch.full((2, 1, 8, 8), start))
    assert ((recovery.image - 0.8).abs() < 0.02).all()


@pytest.mark.parametrize(("wandering", "iterations"), [(25, 50), (40, 80), (0, 200)])
def test_images_that_get_nowhere_end_and_others_of_their_batch_do_not(wandering, iterations):
    """Pixels change places in every iteration; a second image comes closer to a target for 200 iterations."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images[1] += 5

    def autoencoder(batch):
        mixed = batch.flatten(1)[:, order].view_as(batch)
        return torch.where(batch.amax((1, 2, 3), keepdim=True) < 2, mixed, 5 + 0.98 * (batch - 5))

    recovery = AutoencoderIterations(wandering=wandering)(autoencoder, images)
    assert recovery.num_evaluations.tolist() == [iterations, 200]


def test_a_negative_window_is_refused():
    with pytest.raises(ValueError, match="wandering=-1: must be 0, for never, or more, such as 40"):
        AutoencoderIterations(wandering=-1)


def test_an_image_ends_alike_beside_any_other():
    """Of one row f returns values that half precision holds, of the other it does not."""
    signs, target = itertools.cycle((1, -1)), torch.rand(1, 1, 8, 8)

    def autoencoder(images):
        moved = target + 0.5 * (images - target) + 3e-4 * next(signs)
        return torch.where(images.amax((1, 2, 3), keepdim=True) > 2, moved + 3, moved.half().float())

    both = torch.cat([torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8) + 9])
    together = AutoencoderIterations()(autoencoder, both).num_evaluations.tolist()
    signs = itertools.cycle((1, -1))
    alone = AutoencoderIterations()(autoencoder, both[:1]).num_evaluations.tolist()
    assert alone == together[:1]
    assert alone[0] < 100

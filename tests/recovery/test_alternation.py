"""When an attempt of the paper's iteration leaves: converged, diverged, or wandering without an end."""

import pytest
import torch

from lightning_memaudit.recovery import Alternation, AutoencoderIterations
from lightning_memaudit.recovery.alternation import alternate

OBSERVED = torch.full((3, 1, 8, 8), 0.5)
HIDDEN = torch.zeros(3, 1, 8, 8)
"""With a mask of zeros the iteration is x <- f(x): what becomes of it is known."""


def evaluations(autoencoder, **settings):
    start = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    penalty = torch.ones(3)
    return alternate(autoencoder, OBSERVED, penalty, HIDDEN, start, Alternation(**settings)).num_evaluations.tolist()


def never_the_same():
    generator = torch.Generator().manual_seed(1)
    return lambda images: 0.5 + 0.1 * torch.randn(images.shape, generator=generator)


@pytest.mark.parametrize(("wandering", "iterations"), [(40, 80), (20, 40), (0, 200)])
def test_what_comes_no_closer_in_as_many_iterations_again_leaves(wandering, iterations):
    assert evaluations(never_the_same(), wandering=wandering) == [iterations + 2] * 3


@pytest.mark.parametrize("factor", [0.995, 0.9])
def test_what_comes_closer_however_slowly_goes_on(factor):
    """The change is 0.05 at first, times the factor in every iteration, until it is 1e-4."""
    found = evaluations(lambda images: factor * images, num_iterations=150)
    assert found == [152] * 3 if factor > 0.9 else all(55 < one < 85 for one in found)


def test_rows_leave_one_by_one():
    """The first row wanders, the second has converged, the third goes on."""
    noise = torch.Generator().manual_seed(2)

    def autoencoder(images):
        kinds = (images.mean((1, 2, 3)) + 0.5).floor().long() % 3  # -1, 0, 1: told by their level
        wandering = 10 + 0.1 * torch.randn(images.shape, generator=noise)
        going = 3 + 0.99 * (images - 3)
        known = {1: wandering, 2: torch.full_like(images, 5.0), 0: going}
        return torch.stack([known[int(kind)][row] for row, kind in enumerate(kinds)])

    start = torch.tensor([10.0, 5.0, 3.2]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    found = alternate(autoencoder, OBSERVED, torch.ones(3), HIDDEN, start, Alternation(num_iterations=120))
    assert found.num_evaluations[:2].tolist() == [52, 7]
    assert found.num_evaluations[2] > 52


def contracting_or_not(images):
    """An image of a level below 0.9 is soon 0.5, others come closer to 3 and take all iterations."""
    dark = images.mean((1, 2, 3), keepdim=True) < 0.9
    return torch.where(dark, 0.5 * images + 0.25, 3 + 0.999 * (images - 3))


@pytest.mark.parametrize("level", [0.3, 2.0])  # of the others: all leave early, or one alone
@pytest.mark.parametrize(("record_at", "recorded"), [((0, 200), (0, 200)), ((0, 2, 100, 200), (0, 2, 100, 200))])
def test_the_last_record_is_what_came_of_an_image_that_left_long_before(level, record_at, recorded):
    start = torch.tensor([0.3, level, level]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    found = alternate(contracting_or_not, OBSERVED, torch.ones(3), HIDDEN, start, Alternation(), record_at)
    assert found.num_evaluations[0] < 30
    assert found.trace.iterations == (recorded if level > 1 else recorded[: 3 if 2 in recorded else 2])
    assert torch.equal(found.trace.image[-1], found.image)
    assert torch.equal(found.trace.image[0], start)
    plain = AutoencoderIterations(200, record_at=record_at)(contracting_or_not, start)
    assert plain.num_evaluations[0] < 30
    assert torch.equal(plain.trace.image[-1], plain.image)


@pytest.mark.parametrize("wandering", [-1, -40])
def test_a_negative_number_is_refused(wandering):
    with pytest.raises(ValueError, match=rf"wandering={wandering}: must be 0, for never, or more, such as 40"):
        Alternation(wandering=wandering)

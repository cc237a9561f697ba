"""Estimated masks against enumeration of all masks, and neighbours that decide together."""

import itertools
import math

import pytest
import torch
from observations import smooth_images, uniform

from lightning_memaudit.recovery import (
    PosteriorMask,
)
from lightning_memaudit.recovery.masks import LeastSquaresMask, coupling, mask_of_smallest_errors


@pytest.mark.parametrize("shared", [True, False])
def test_least_squares_mask_is_the_best_of_all_masks(shared):
    generator = torch.Generator().manual_seed(1)
    image, observed = (torch.rand(1, 2, 2, 2, generator=generator) for _ in range(2))
    observed = observed * (torch.rand(1, 2, 2, 2, generator=generator) > 0.4)
    shape = (1, 1, 2, 2) if shared else (1, 2, 2, 2)
    size = 4 if shared else 8
    candidates = [torch.tensor(bits, dtype=image.dtype).view(shape) for bits in itertools.product((0, 1), repeat=size)]
    errors = [float((mask * image - observed).square().sum()) for mask in candidates]
    best = candidates[errors.index(min(errors))]
    assert torch.equal(LeastSquaresMask(shared)(image, observed), best)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fill", [0.0, 0.3, "noise"])
def test_the_posterior_is_that_of_all_masks_enumerated(shared, fill):
    image, observed = uniform((1, 2, 2, 2)), uniform((1, 2, 2, 2), 10)
    observed[..., 0] = image[..., 0] + 0.02
    noise, prior, share = 0.2, 0.6, 0.5
    estimator = PosteriorMask(fill, noise=noise, prior=prior, share=share, shared=shared)
    posterior = estimator.posterior(image, observed, steps=1)
    groups = observed.double().permute(0, 2, 3, 1).reshape(4, 2) if shared else observed.double().reshape(8, 1)
    recovered = image.double().permute(0, 2, 3, 1).reshape(4, 2) if shared else image.double().reshape(8, 1)
    errors = (groups - recovered).square().sum(1)
    kept = errors.sort().values[: len(errors) // 2]
    variance = max(float(kept.mean()) / groups.shape[1] - noise**2, 1e-6)
    assert float(posterior.variance) == pytest.approx(variance, rel=1e-4)

    def density(values, mean, deviation):
        return torch.distributions.Normal(mean, deviation).log_prob(values).sum(1).exp()

    present = density(groups, recovered, (variance + noise**2) ** 0.5)
    missing = torch.ones_like(present) if fill == "noise" else density(groups, torch.tensor(fill).double(), noise)
    total, marginal = 0.0, torch.zeros_like(present)
    for bits in itertools.product((0, 1), repeat=len(present)):
        mask = torch.tensor(bits).double()
        weight = (torch.where(mask > 0, prior * present, (1 - prior) * missing)).prod()
        total, marginal = total + weight, marginal + weight * mask
    order = (1, 1, 2, 2) if shared else (1, 2, 2, 2)
    torch.testing.assert_close(posterior.mask.double(), (marginal / total).view(order), atol=1e-4, rtol=1e-3)
    evidence = torch.log(total) - torch.log(missing.prod())
    assert float(posterior.evidence) == pytest.approx(float(evidence), abs=1e-3)


def test_mask_of_smallest_errors_keeps_the_least_errors_of_each_image():
    error = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]).view(2, 1, 2, 2)
    kept = mask_of_smallest_errors(error, torch.tensor([0.5, 0.25]))
    assert kept.flatten(1).tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


def test_the_coupling_is_the_log_ratio_of_counted_neighbours():
    mask = (uniform((1, 1, 5, 6), 4) > 0.4).float()
    grid = mask[0, 0].long().tolist()
    expected = torch.zeros(5, 6)
    for down, right in ((1, 0), (0, 1)):
        pairs = [
            ((row, column), (row + down, column + right)) for row in range(5 - down) for column in range(6 - right)
        ]
        counts = {(0, 0): 1.0, (1, 1): 1.0, (0, 1): 1.0, (1, 0): 1.0}  # one of each kind beforehand
        for (row, column), (below, beside) in pairs:
            kind = grid[row][column], grid[below][beside]
            for ordered in (kind, kind[::-1]):  # the model knows no direction
                counts[ordered] += 0.5
        marginal = {value: counts[value, 0] + counts[value, 1] for value in (0, 1)}
        for one, other in pairs:
            for at, neighbour in ((one, other), (other, one)):
                value = grid[neighbour[0]][neighbour[1]]
                ratio = (counts[1, value] / marginal[1]) / (counts[0, value] / marginal[0])
                expected[at] += math.log(ratio)
    torch.testing.assert_close(coupling(mask)[0, 0], expected)


def test_coupled_neighbours_make_out_a_block_and_leave_a_random_mask_alone():
    images = smooth_images(8, channels=1, size=32)
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    block = torch.ones_like(images)
    block[..., 8:24, 4:28] = 0
    random = (uniform(images.shape, 14) > 0.4).float()
    wrong = {}
    for name, mask in (("block", block), ("random", random)):
        observed = mask * noisy + (1 - mask) * uniform(images.shape, 15)
        for coupled in (False, True):
            estimator = PosteriorMask("noise", prior=None, coupled=coupled)
            estimate = estimator.posterior(images, observed, steps=10).mask
            wrong[name, coupled] = ((estimate > 0.5) != (mask > 0.5)).float().mean()
    assert wrong["block", True] < 0.3 * wrong["block", False]
    assert wrong["random", True] <= 1.05 * wrong["random", False]

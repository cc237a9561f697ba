"""Blind deblurring and its parts against least squares, loops and grids."""

import numpy as np
import pytest
import torch
from autoencoders import associative
from observations import uniform
from scipy import ndimage

from lightning_memaudit.recovery import (
    BlindDeblurring,
)
from lightning_memaudit.recovery.methods.deblurring import blur, estimate_kernel, fourier_data_step, project_to_simplex


def kernels(number, side, axes, seed=0):
    """(number, 1, *[side])."""
    return project_to_simplex(uniform((number, side**axes), seed)).view(number, 1, *[side] * axes)


@pytest.mark.parametrize("size", [(30,), (5, 6), (3, 5, 4)])
def test_the_fourier_data_step_is_the_least_squares_solution(size):
    kernel = kernels(1, 3, len(size)).double()
    observed, target = (uniform((1, 1, *size), seed).double() for seed in (1, 2))
    number = observed.numel()
    basis = torch.eye(number, dtype=torch.float64).view(number, 1, *size)
    matrix = blur(basis, kernel).flatten(1).T
    penalty = 0.2
    direct = torch.linalg.solve(
        matrix.T @ matrix + penalty * torch.eye(number), matrix.T @ observed.flatten() + penalty * target.flatten()
    )
    transfer = torch.fft.rfftn(blur(basis[:1], kernel), dim=tuple(range(2, basis.ndim)))
    transformed = torch.fft.rfftn(observed, dim=tuple(range(2, basis.ndim)))
    solved = fourier_data_step(transformed, transfer, target, torch.full([1] * basis.ndim, penalty))
    torch.testing.assert_close(solved.flatten(), direct)


@pytest.mark.parametrize("size", [(11,), (4, 5), (4, 5, 6)])
def test_blur_is_the_circular_convolution(size):
    image, kernel = uniform((2, 3, *size)), uniform((2, 1, *[3] * len(size)), 2)
    expected = [
        [ndimage.convolve(channel, line[0], mode="wrap") for channel in one]
        for one, line in zip(image.numpy(), kernel.numpy(), strict=True)
    ]
    np.testing.assert_allclose(blur(image, kernel), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "side"), [((80,), 7), ((16, 16), 5), ((11, 12, 10), 3)])
def test_the_kernel_is_found_from_the_image_and_its_blurred_copy(size, side):
    kernel = kernels(2, side, len(size))
    image = uniform((2, 3, *size))
    torch.testing.assert_close(estimate_kernel(image, blur(image, kernel), side), kernel, atol=2e-3, rtol=0)


def test_the_projection_to_the_simplex_is_the_nearest_point_of_it():
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    steps = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    grid = grid[grid[:, 2] >= 0]
    nearest = grid[torch.cdist(points, grid).argmin(1)]
    torch.testing.assert_close(project_to_simplex(points), nearest, atol=5e-3, rtol=0)


@pytest.mark.parametrize("size", [(90,), (16, 16), (7, 8, 9)])
def test_stored_images_come_back_from_unknown_blur_with_the_kernel(size):
    stored = uniform((6, 3, *size))
    kernel = kernels(6, 3, len(size), 3)
    recovery = BlindDeblurring(kernel_size=3, num_iterations=40)(associative(stored, 2.0), blur(stored, kernel))
    torch.testing.assert_close(recovery.image, stored, atol=2e-2, rtol=0)
    torch.testing.assert_close(recovery.kernel, kernel, atol=2e-2, rtol=0)
    assert recovery.num_evaluations.tolist() == [1 + 4 * 41] * 6

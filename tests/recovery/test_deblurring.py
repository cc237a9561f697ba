"""Blind deblurring and its parts against least squares, loops and grids."""

import itertools

import torch
from autoencoders import associative
from observations import uniform

from lightning_memaudit.recovery import (
    BlindDeblurring,
)
from lightning_memaudit.recovery.methods.deblurring import blur, estimate_kernel, fourier_data_step, project_to_simplex


def test_the_fourier_data_step_is_the_least_squares_solution():
    kernel = project_to_simplex(uniform((1, 9))).view(1, 1, 3, 3).double()
    observed, target = (uniform((1, 1, 5, 6), seed).double() for seed in (1, 2))
    basis = torch.eye(30, dtype=torch.float64).view(30, 1, 5, 6)
    matrix = blur(basis, kernel.expand(30, -1, -1, -1)).flatten(1).T
    penalty = 0.2
    direct = torch.linalg.solve(
        matrix.T @ matrix + penalty * torch.eye(30), matrix.T @ observed.flatten() + penalty * target.flatten()
    )
    transfer = torch.fft.rfft2(blur(basis[:1], kernel))
    solved = fourier_data_step(torch.fft.rfft2(observed), transfer, target, torch.tensor(penalty).view(1, 1, 1, 1))
    torch.testing.assert_close(solved.flatten(), direct)


def test_blur_is_the_circular_convolution():
    image, kernel = uniform((1, 1, 4, 5)), uniform((1, 1, 3, 3), 2)
    blurred = torch.zeros_like(image)
    for i, j, a, b in itertools.product(range(4), range(5), range(3), range(3)):
        blurred[0, 0, i, j] += kernel[0, 0, a, b] * image[0, 0, (i - a + 1) % 4, (j - b + 1) % 5]
    torch.testing.assert_close(blur(image, kernel), blurred)


def test_the_kernel_is_found_from_the_image_and_its_blurred_copy():
    kernel = project_to_simplex(uniform((2, 25))).view(2, 1, 5, 5)
    image = uniform((2, 3, 16, 16))
    torch.testing.assert_close(estimate_kernel(image, blur(image, kernel), 5), kernel, atol=2e-3, rtol=0)


def test_the_projection_to_the_simplex_is_the_nearest_point_of_it():
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    steps = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    grid = grid[grid[:, 2] >= 0]
    nearest = grid[torch.cdist(points, grid).argmin(1)]
    torch.testing.assert_close(project_to_simplex(points), nearest, atol=5e-3, rtol=0)


def test_stored_images_come_back_from_unknown_blur_with_the_kernel():
    stored = uniform((6, 3, 16, 16))
    kernel = project_to_simplex(uniform((6, 9), 3)).view(6, 1, 3, 3)
    recovery = BlindDeblurring(kernel_size=3, num_iterations=40)(associative(stored, 2.0), blur(stored, kernel))
    torch.testing.assert_close(recovery.image, stored, atol=2e-2, rtol=0)
    torch.testing.assert_close(recovery.kernel, kernel, atol=2e-2, rtol=0)
    assert recovery.num_evaluations.tolist() == [1 + 4 * 41] * 6

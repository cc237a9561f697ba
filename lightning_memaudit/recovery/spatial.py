"""The spatial axes of images (B, C, *spatial), one, two or three, told from the shape alone; and rows of numbers."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MOST_AXES = 3
"""Length; height and width; depth, height and width."""

_MAX_POOLS = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGES: tuple[Callable[..., Tensor], ...] = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)


def spatial(images: Tensor) -> tuple[int, ...]:
    """The sides of images (B, C, *spatial)."""
    return tuple(images.shape[2:])


def axes(images: Tensor) -> tuple[int, ...]:
    """The spatial dimensions of images (B, C, *spatial): (2, 3) where there are two."""
    return tuple(range(2, images.ndim))


def with_axes(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) or (B, C) with ones for the dimensions that images ``like`` (B, C, *spatial) have more."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))


def row_values(images: Tensor, value: float) -> Tensor:
    """The same value for every image, (B,), of the images' type and device."""
    return images.new_full((len(images),), value)


def repeat(images: Tensor, count: int) -> Tensor:
    """All images (B, C, *spatial), then all of them again, ``count`` times in all: (count B, C, *spatial)."""
    return images.repeat(count, *[1] * (images.ndim - 1))


def sorted_rows(values: Tensor) -> Tensor:
    """Every row (R, N) in ascending order, NaN last; NumPy's sort is three times as fast as torch's on a CPU."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:  # which NumPy does not know
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.detach().numpy(), 1))


def centered(values: Tensor, seen: Tensor) -> Tensor:
    """Seen values less the mean of those of their channel, and 0 elsewhere.

    Args:
        values: (B, C, *spatial).
        seen: The same size, 1 or 0.
    """
    values = seen * values
    mean = values.flatten(2).sum(2) / seen.flatten(2).sum(2).clamp_min(1)
    return seen * (values - with_axes(mean, values))


def neighbour_correlation(values: Tensor, seen: Tensor, first_axis: int) -> tuple[Tensor, Tensor]:
    """Correlation of neighbours that are both seen, (B,), along every axis from the first, and the number of pairs.

    Args:
        values: (B, C, *spatial), see :func:`centered`.
        seen: The same size, 1 or 0.
        first_axis: 2 for neighbouring pixels, 1 for those and neighbouring channels.
    """
    product, square, pairs = (torch.zeros_like(values.flatten(1)[:, 0]) for _ in range(3))
    for axis in range(first_axis, values.ndim):
        length = values.shape[axis] - 1
        first, second = values.narrow(axis, 0, length), values.narrow(axis, 1, length)
        both = seen.narrow(axis, 0, length) * seen.narrow(axis, 1, length)
        product += (first * second).flatten(1).sum(1)
        square += (both * (first.square() + second.square()) / 2).flatten(1).sum(1)
        pairs += both.flatten(1).sum(1)
    return product / square.clamp_min(1e-12), pairs


def along_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix (new side, side) to each of the last axes of ``values``, the first matrix to the first of them.

    Products are taken in the precision of the values, also in mixed precision.
    """
    for axis, matrix in enumerate(matrices, values.ndim - len(matrices)):
        values = along_axis(values, axis, matrix)
    return values


def along_axis(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix (new side, side) to one axis of ``values``, likewise."""
    if torch.is_autocast_enabled(values.device.type):
        with torch.autocast(values.device.type, enabled=False):
            return along_axis(values, axis, matrix)
    if axis == values.ndim - 1:
        return values @ matrix.mT
    sides = (*values.shape[:axis], len(matrix), *values.shape[axis + 1 :])
    return (matrix @ values.flatten(axis + 1)).reshape(sides)


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Cubic interpolation of images (B, C, *spatial) to other sides, (B, C, *size).

    Cubic interpolation goes axis by axis, so that torch's, which is for two of them, does the others after these.
    """
    planes = images.flatten(1, -3) if images.ndim > 3 else images[:, :, None]
    sides = (1, *size)[-2:]
    done = functional.interpolate(planes, size=sides, mode="bicubic", align_corners=False)
    if images.ndim == 5:
        stacks = done.reshape(*images.shape[:3], math.prod(sides))
        stacks = functional.interpolate(stacks, size=(size[0], stacks.shape[-1]), mode="bicubic", align_corners=False)
        return stacks.reshape(*images.shape[:2], *size)
    return done.reshape(*images.shape[:2], *size)


def patch_means(images: Tensor, number: int) -> Tensor:
    """Means over ``number`` patches along every axis: (B, C, *spatial) to (B, C, *[number])."""
    return _AVERAGES[images.ndim - 3](images, number)


def within_reach(mask: Tensor, reach: int) -> Tensor:
    """The largest value within so many steps along every axis: (B, C, *spatial) to the same shape."""
    largest: Tensor = _MAX_POOLS[mask.ndim - 3](mask, 2 * reach + 1, 1, reach)
    return largest

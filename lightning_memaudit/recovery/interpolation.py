"""Fill missing pixels from their observed neighbours, without the autoencoder.

A recovery starts from such an image, and corrections of observed pixels are spread to hidden ones in the same way.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_memaudit.recovery.spatial import along_axes, along_axis, axes, spatial

OWN_WEIGHT = 0.02
"""A cell's value is a weighted mean: its share of observed pixels weighs the cell's own average, this number weighs the
value from the next coarser level."""

LARGE_SIDE = 160
"""From so many pixels a side on, values are doubled by torch's interpolation and not by products with matrices, which
are faster for smaller images, but cost as many operations per pixel as a side has pixels."""

FEW_CELLS = 64
"""Up to so many cells of an image are halved and doubled along all axes at once, by one product with a matrix."""

_MODES = ("linear", "bilinear", "trilinear")
_Linear = Callable[[Tensor], Tensor]


class _Level(NamedTuple):
    """A level of the pyramid; the one above it has about twice as many cells along every axis.

    Attributes:
        halve: From values (B, C, *cells above) to their means in every cell, (B, C, *cells here).
        double: From values (B, C, *cells here) to what is between cell centers, (B, C, *cells above).
        scale: ``1 / (share of observed pixels + OWN_WEIGHT)``, (B, 1 or C, *cells here).
        coarse_share: ``OWN_WEIGHT * scale``, what the coarser level counts, of the same shape.
    """

    halve: _Linear
    double: _Linear
    scale: Tensor
    coarse_share: Tensor


class Interpolation:
    """Averages of the observed pixels near every pixel, for one mask and any values.

    Pixels are averaged in cells of 2, 4, 8, ..., and a pixel takes the finest cell that has any observed. Normalized
    convolution (Knutsson & Westin 1993) on a pyramid: smooth, any mask, one pass. What depends on the mask alone is
    computed once. Doubling is by products with small matrices, on a CPU several times as fast as resampling for batches
    of images of some tens of pixels a side; larger ones are resampled, so that the time grows with their pixels.

    Args:
        mask: h, (B, 1 or C, *spatial), in [0, 1].

    >>> mask, row = torch.tensor([1.0, 0, 0, 1]).expand(1, 1, 4, 4), torch.tensor([0.2, 0, 0, 0.8])
    >>> filled = Interpolation(mask).fill(row.expand(1, 1, 4, 4))
    >>> [round(value, 1) for value in filled[0, 0, 0].tolist()]
    [0.2, 0.4, 0.6, 0.8]
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask
        self._levels: list[_Level] = []
        weights = mask
        sides = spatial(mask)
        while sum(side > 1 for side in sides) >= min(2, len(sides)):
            halve, double = _fastest(sides, mask)
            weights = _halved(weights)
            scale = 1 / (weights + OWN_WEIGHT)
            self._levels.append(_Level(halve, double, scale, OWN_WEIGHT * scale))
            sides = spatial(weights)
        self._total = weights.mean(axes(mask), keepdim=True).clamp_min(1e-6)

    def __call__(self, weighted: Tensor) -> Tensor:
        """Averages of values that are multiplied by the mask already, (B, C, *spatial) to the same shape.

        0 where a whole image is missing. In the precision of the values, also in mixed precision.
        """
        if torch.is_autocast_enabled(weighted.device.type):
            with torch.autocast(weighted.device.type, enabled=False):
                return self(weighted)
        values = [weighted]
        for level in self._levels:
            values.append(level.halve(values[-1]))
        filled = (values[-1].mean(axes(weighted), keepdim=True) / self._total).expand_as(values[-1])
        for level, own in zip(reversed(self._levels), reversed(values[1:]), strict=True):
            filled = level.double(torch.addcmul(own * level.scale, filled, level.coarse_share))
        return filled

    def fill(self, observed: Tensor) -> Tensor:
        """The observed values where they are observed and their averages elsewhere, (B, C, *spatial)."""
        return torch.lerp(self(observed * self._mask), observed, self._mask.expand_as(observed))


def interpolate(observed: Tensor, mask: Tensor) -> Tensor:
    """Fill every hole with the average of the observed pixels near it, see :class:`Interpolation`.

    Exact where observed.

    Args:
        observed: y, (B, C, *spatial).
        mask: h, (B, 1 or C, *spatial), in [0, 1].

    Returns:
        (B, C, *spatial); 0 where a whole image is missing.
    """
    return Interpolation(mask).fill(observed)


def _fastest(sides: tuple[int, ...], like: Tensor) -> tuple[_Linear, _Linear]:
    """The fastest ways to halve images with these sides, and to come back to them."""
    if math.prod(sides) <= FEW_CELLS:
        cells = [(side + 1) // 2 for side in sides]
        down, up = _matrix(_halved, sides, like), _matrix(partial(_resampled, sides=sides), cells, like)
        return partial(_product, matrix=down, sides=cells), partial(_product, matrix=up, sides=sides)
    if max(sides) >= LARGE_SIDE:
        return _halved, partial(_resampled, sides=sides)
    matrices = [_matrix(partial(_resampled, sides=[side]), [(side + 1) // 2], like) for side in sides]
    # On a GPU the number of kernels counts.
    return _halved, partial(_doubled if like.device.type == "cpu" else along_axes, matrices=matrices)


def _matrix(linear: _Linear, sides: Sequence[int], like: Tensor) -> Tensor:
    """A linear function of one-channel images with these sides, as a matrix (values after, values before)."""
    number = math.prod(sides)
    identity = torch.eye(number, dtype=like.dtype, device=like.device).view(number, 1, *sides)
    return linear(identity).flatten(1).mT


def _product(values: Tensor, matrix: Tensor, sides: Sequence[int]) -> Tensor:
    """All pixels of every channel as one vector, times a matrix: (B, C, *before) to (B, C, *sides)."""
    return (values.flatten(2) @ matrix.mT).view(*values.shape[:2], *sides)


def _resampled(values: Tensor, sides: Sequence[int]) -> Tensor:
    """Linear interpolation between cell centers, (B, C, *cells) to (B, C, *sides)."""
    return functional.interpolate(values, tuple(sides), mode=_MODES[len(sides) - 1], align_corners=False)


def _doubled(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The same by one matrix per axis, (side, cells).

    By two shifts where the side is even, but for the last axis: that is faster on a CPU.
    """
    values = along_axis(values, values.ndim - 1, matrices[-1])
    for axis, matrix in enumerate(matrices[:-1], 2):
        side = values.shape[axis]
        if len(matrix) != 2 * side:
            values = along_axis(values, axis, matrix)
            continue
        padded = torch.cat([values.narrow(axis, 0, 1), values, values.narrow(axis, -1, 1)], axis)
        first, second = (torch.lerp(values, padded.narrow(axis, shift, side), 0.25) for shift in (0, 2))
        del padded
        values = torch.stack([first, second], axis + 1).flatten(axis, axis + 1)
    return values


def _halved(values: Tensor) -> Tensor:
    """Means of pairs along every spatial axis that is longer than 1; at an odd end the missing one counts as 0."""
    for axis in axes(values):
        side = values.shape[axis]
        if side == 1:  # halved before: the cells of the other axes go on without it
            continue
        if side % 2:
            values = functional.pad(values, (*[0, 0] * (values.ndim - 1 - axis), 0, 1))
        pairs = values.reshape(*values.shape[:axis], -1, 2, *values.shape[axis + 1 :])
        values = (pairs.select(axis + 1, 0) + pairs.select(axis + 1, 1)).mul_(0.5)
    return values

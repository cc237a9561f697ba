"""Fill missing pixels from their observed neighbours, without the autoencoder.

A recovery starts from such an image, and corrections of observed pixels are spread to hidden ones in the same way.
"""

import math
from collections.abc import Callable, Sequence
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


class _Level(NamedTuple):
    """A level of the pyramid; the one above it has about twice as many cells along every axis.

    Attributes:
        sides: Of the level above.
        double: Linear interpolation, for every axis (cells above, cells here); none where the level above is large.
        all_axes: Means of pairs, (cells here, cells above), and linear interpolation, (cells above, cells here), along
            all axes at once; None where the level above has more than :data:`FEW_CELLS`.
        scale: ``1 / (share of observed pixels + OWN_WEIGHT)``, (B, 1 or C, *cells here).
        coarse_share: ``OWN_WEIGHT * scale``, what the coarser level counts, of the same shape.
    """

    sides: tuple[int, ...]
    double: list[Tensor]
    all_axes: tuple[Tensor, Tensor] | None
    scale: Tensor
    coarse_share: Tensor

    def halved(self, values: Tensor) -> Tensor:
        """Means of the values (B, C, *cells above) in every cell, (B, C, *cells here)."""
        if self.all_axes is None:
            return _halved(values)
        halved = along_axes(values.flatten(2), self.all_axes[:1])
        return halved.view(*values.shape[:2], *spatial(self.scale))

    def doubled(self, values: Tensor) -> Tensor:
        """Values (B, C, *cells here) interpolated between cell centers, (B, C, *cells above)."""
        if self.all_axes is not None:
            doubled = along_axes(values.flatten(2), self.all_axes[1:])
            return doubled.view(*values.shape[:2], *self.sides)
        if not self.double:
            return functional.interpolate(values, self.sides, mode=_MODES[len(self.sides) - 1], align_corners=False)
        if values.device.type != "cpu":  # where the number of kernels counts
            return along_axes(values, self.double)
        values = along_axis(values, values.ndim - 1, self.double[-1])
        for axis, matrix in enumerate(self.double[:-1], 2):
            twice = len(matrix) == 2 * values.shape[axis]
            values = _doubled(values, axis) if twice else along_axis(values, axis, matrix)
        return values


class Interpolation:
    """Averages of the observed pixels near every pixel, for one mask and any values.

    Pixels are averaged in cells of 2, 4, 8, ..., and a pixel takes the finest cell that has any observed. Normalized
    convolution (Knutsson & Westin 1993) on a pyramid: smooth, any mask, one pass. What depends on the mask alone is
    computed once. Doubling is a product with small matrices, on a CPU several times as fast as resampling for batches
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
            double = [_doubling([side], mask) for side in sides] if max(sides) < LARGE_SIDE else []
            few = math.prod(sides) <= FEW_CELLS
            all_axes = (_matrix(_halved, sides, mask), _doubling(sides, mask)) if few else None
            weights = _halved(weights)
            scale = 1 / (weights + OWN_WEIGHT)
            self._levels.append(_Level(sides, double, all_axes, scale, OWN_WEIGHT * scale))
            sides = spatial(weights)
        self._total = weights.mean(axes(mask), keepdim=True).clamp_min(1e-6)

    def __call__(self, weighted: Tensor) -> Tensor:
        """Averages of values that are multiplied by the mask already, (B, C, *spatial) to the same shape.

        0 where a whole image is missing.
        """
        values = [weighted]
        for level in self._levels:
            values.append(level.halved(values[-1]))
        filled = (values[-1].mean(axes(weighted), keepdim=True) / self._total).expand_as(values[-1])
        for level, own in zip(reversed(self._levels), reversed(values[1:]), strict=True):
            filled = level.doubled(torch.addcmul(own * level.scale, filled, level.coarse_share))
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


def _doubling(sides: Sequence[int], like: Tensor) -> Tensor:
    """Linear interpolation between cell centers, as a matrix (product of the sides, cells)."""

    def double(values: Tensor) -> Tensor:
        return functional.interpolate(values, tuple(sides), mode=_MODES[len(sides) - 1], align_corners=False)

    return _matrix(double, [(side + 1) // 2 for side in sides], like)


def _matrix(linear: Callable[[Tensor], Tensor], sides: Sequence[int], like: Tensor) -> Tensor:
    """A linear function of one-channel images with these sides, as a matrix (values after, values before)."""
    number = math.prod(sides)
    identity = torch.eye(number, dtype=like.dtype, device=like.device).view(number, 1, *sides)
    return linear(identity).flatten(1).mT


def _doubled(values: Tensor, axis: int) -> Tensor:
    """Linear interpolation between cell centers along an axis, to twice as many values; not along the last axis."""
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
    inner = values.shape[axis] - 1
    before = torch.cat([first, values.narrow(axis, 0, inner)], axis)
    after = torch.cat([values.narrow(axis, 1, inner), last], axis)
    pairs = values.new_empty(*values.shape[: axis + 1], 2, *values.shape[axis + 1 :])
    torch.lerp(values, before, 0.25, out=pairs.select(axis + 1, 0))
    torch.lerp(values, after, 0.25, out=pairs.select(axis + 1, 1))
    return pairs.flatten(axis, axis + 1)

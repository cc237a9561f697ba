"""Fill missing pixels from their observed neighbours, without the autoencoder.

A recovery starts from such an image, and corrections of observed pixels are spread to hidden ones in the same way.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

OWN_WEIGHT = 0.02
"""A cell's value is a weighted mean: its share of observed pixels weighs the cell's own average, this number weighs the
value from the next coarser level."""


class _Level(NamedTuple):
    """A level of the pyramid of size (h, w), below one of size (H, W).

    Attributes:
        halve: Means of pairs of rows and of columns, (h, H) and (w, W).
        double: Linear interpolation of rows and of columns, (H, h) and (W, w).
        scale: ``1 / (share of observed pixels + OWN_WEIGHT)``, (B, 1 or C, h, w).
        coarse_share: ``OWN_WEIGHT * scale``, what the coarser level counts, of the same shape.
    """

    halve: tuple[Tensor, Tensor]
    double: tuple[Tensor, Tensor]
    scale: Tensor
    coarse_share: Tensor


class Interpolation:
    """Averages of the observed pixels near every pixel, for one mask and any values.

    Pixels are averaged in cells of 2, 4, 8, ..., and a pixel takes the finest cell that has any observed. Normalized
    convolution (Knutsson & Westin 1993) on a pyramid: smooth, any mask, one pass. What depends on the mask alone is
    computed once. Halving and doubling are products with small matrices, on a CPU several times as fast as pooling and
    resampling for batches of images of some tens of pixels a side.

    Args:
        mask: h, (B, 1 or C, H, W), in [0, 1].

    >>> mask, row = torch.tensor([1.0, 0, 0, 1]).expand(1, 1, 4, 4), torch.tensor([0.2, 0, 0, 0.8])
    >>> filled = Interpolation(mask).fill(row.expand(1, 1, 4, 4))
    >>> [round(value, 1) for value in filled[0, 0, 0].tolist()]
    [0.2, 0.4, 0.6, 0.8]
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask
        self._levels: list[_Level] = []
        weights = mask
        while min(weights.shape[-2:]) > 1:
            rows, columns = weights.shape[-2:]
            halve = _halving(rows, mask), _halving(columns, mask)
            double = _doubling(rows, mask), _doubling(columns, mask)
            weights = _along_sides(weights, halve)
            scale = 1 / (weights + OWN_WEIGHT)
            self._levels.append(_Level(halve, double, scale, OWN_WEIGHT * scale))
        self._total = weights.mean((-2, -1), keepdim=True).clamp_min(1e-6)

    def __call__(self, weighted: Tensor) -> Tensor:
        """Averages of values that are multiplied by the mask already, (B, C, H, W) to the same shape.

        0 where a whole image is missing.
        """
        values = [weighted]
        for level in self._levels:
            values.append(_along_sides(values[-1], level.halve))
        filled = (values[-1].mean((-2, -1), keepdim=True) / self._total).expand_as(values[-1])
        for level, own in zip(reversed(self._levels), reversed(values[1:]), strict=True):
            filled = _along_sides(torch.addcmul(own * level.scale, filled, level.coarse_share), level.double)
        return filled

    def fill(self, observed: Tensor) -> Tensor:
        """The observed values where they are observed and their averages elsewhere, (B, C, H, W)."""
        return torch.lerp(self(observed * self._mask), observed, self._mask.expand_as(observed))


def interpolate(observed: Tensor, mask: Tensor) -> Tensor:
    """Fill every hole with the average of the observed pixels near it, see :class:`Interpolation`.

    Exact where observed.

    Args:
        observed: y, (B, C, H, W).
        mask: h, (B, 1 or C, H, W), in [0, 1].

    Returns:
        (B, C, H, W); 0 where a whole image is missing.
    """
    return Interpolation(mask).fill(observed)


def _along_sides(values: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
    """Apply one matrix to the rows and one to the columns of (B, C, H, W)."""
    rows, columns = matrices
    if not torch.is_autocast_enabled(values.device.type):
        return rows @ values @ columns.mT
    with torch.autocast(values.device.type, enabled=False):  # averages of data keep the precision of the data
        return rows @ values @ columns.mT


def _halving(side: int, like: Tensor) -> Tensor:
    """Means of pairs, (side / 2 rounded up, side); at an odd end the missing one counts as 0."""
    identity = functional.pad(torch.eye(side, dtype=like.dtype, device=like.device), (0, side % 2))
    return functional.avg_pool1d(identity, 2).mT


def _doubling(side: int, like: Tensor) -> Tensor:
    """Linear interpolation between cell centers, (side, side / 2 rounded up)."""
    identity = torch.eye((side + 1) // 2, dtype=like.dtype, device=like.device)
    return functional.interpolate(identity[None], size=side, mode="linear", align_corners=False)[0].mT

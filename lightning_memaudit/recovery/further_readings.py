"""Further readings of an observation, for images whose first one came to nothing, see ``fills.py`` for that.

A first reading may be wrong: what was taken for observed is a second color of the fill, or noise on it that happens not
to be clipped. A further reading is worth its evaluations only where the observation itself speaks for it: images that
are not stored come to nothing under any.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_memaudit.recovery.fills import (
    LEAST_SHARE,
    ConstantFill,
    find_lost_channels,
    find_noisy_fill,
    find_other_fill,
    find_repeated_values,
    hidden_share,
)
from lightning_memaudit.recovery.many_values import many_values
from lightning_memaudit.recovery.spatial import axes, spatial
from lightning_memaudit.recovery.two_values import find_two_values
from lightning_memaudit.recovery.types import Problem

Reading = Callable[[Tensor, ConstantFill, float | None], tuple[Tensor, ConstantFill]]
"""From observations (B, C, *spatial), their first reading and the noise that is known to whether they speak for this
one, (B,) bool, and the fill in it."""

LIKELY = 1e-3
"""A square of the fill that is expected less often among pixels that are missing one by one is a block."""

SAME_VALUE = 0.1
"""Fills with noise on them that differ by less are the same."""


def repeated_values(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """All values that repeat are the fill, where that hides clearly more than the first reading did.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill
    >>> image = torch.linspace(0.1, 0.9, 64).view(1, 1, 8, 8)
    >>> image[..., 2::2, :], image[..., :2, 4:] = 0, 1  # black rows, and a white part of another one
    >>> speaks, fill = repeated_values(image, find_constant_fill(image), None)
    >>> speaks.item(), torch.equal(fill.mask[0, 0] == 0, (image[0, 0] == 0) | (image[0, 0] == 1))
    (True, True)
    """
    found = find_repeated_values(observed)
    exact = first.present & (first.noise == 0)
    return found.present & exact & (hidden_share(found) >= hidden_share(first) + LEAST_SHARE), found


def lying_together(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """Of the pixels that hold the fill only those are missing that lie together, as in a block over white on black.

    The image may have that color too. What lies together is what squares cover, of half the side of the largest one
    that holds nothing else (a morphological opening); cubes, for volumes. The observation speaks for it where a square
    so large is no chance among so many pixels.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill
    >>> image = (torch.arange(256) % 3 == 0).float().view(1, 1, 16, 16)  # thin lines, white on black
    >>> image[..., 4:12, 4:12] = 0
    >>> speaks, fill = lying_together(image, find_constant_fill(image), None)
    >>> speaks.item(), int((fill.mask == 0).sum()), int((fill.mask[..., 4:12, 4:12] == 0).sum())
    (True, 64, 64)
    """
    missing = (first.mask == 0).cpu()  # looked at step by step, for which a device would wait each time
    sides = _largest_sides(missing)
    together = torch.zeros_like(missing)
    for side in set(sides.tolist()) - {0}:
        rows = sides == side
        together[rows] = _opened(missing[rows], -(-int(side) // 2))
    sides = sides.to(observed.device)
    found = first._replace(mask=(~together).to(first.mask))
    # By chance a square of n pixels is missing in so many of the places where it may lie.
    chance = hidden_share(first) ** (sides.double() ** len(spatial(observed))) * missing[0, 0].numel()
    differs = hidden_share(first) - hidden_share(found) >= LEAST_SHARE
    speaks = (chance < LIKELY) & differs & (hidden_share(found) >= LEAST_SHARE)
    return first.present & (first.noise == 0) & speaks, found


def block_over_two_values(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """What lies together in images of two values, see ``two_values.py``.

    Of images with more of them, as a figure on black, the first reading leaves enough: no more of those come back.
    """
    speaks, found = lying_together(observed, first, noise)
    return speaks & find_two_values(Problem.whole(observed, first.mask, first.noise)).present, found


def second_value(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """The second most frequent value alone is the fill, where the second reading took many values for it instead.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill
    >>> image = torch.linspace(0.1, 0.9, 256).view(1, 1, 16, 16)
    >>> squares = image[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    >>> image[..., 8:] = squares[..., 8:]  # eight of them, of one value each
    >>> speaks, fill = second_value(image, find_constant_fill(image), None)
    >>> speaks.item(), int((fill.mask == 0).sum())
    (True, 16)
    """
    found = find_other_fill(observed, first, noise)
    many, _ = many_values(observed, first, found)
    return found.present & many & (not noise), found


def lost_channels(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """Besides pixels that all channels lost, some of them lost more, or all of theirs.

    >>> from lightning_memaudit.recovery.fills import find_constant_fill
    >>> image = torch.linspace(0.1, 0.9, 128).view(1, 2, 8, 8)
    >>> image[..., :5, :], image[:, 1] = 0, 0  # five black rows, and a black channel
    >>> first = find_constant_fill(image)
    >>> speaks, fill = lost_channels(image, first, None)
    >>> first.mask[0].mean().item(), speaks.item(), fill.mask[0].mean((1, 2)).tolist()
    (0.375, True, [0.375, 0.0])
    """
    found = find_lost_channels(observed)
    speaks = found.present & first.present & ~first.per_channel & (first.noise == 0)
    return speaks & (not noise), found


def noisy_fill(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """One value with noise on it, where no level of noise is known: clipped noise repeats as an exact fill does."""
    found = find_noisy_fill(observed)
    if noise is not None:
        return torch.zeros_like(found.present), found
    other = ((found.value - first.value).abs() >= SAME_VALUE).flatten(1).any(1)
    # Where the first reading found no fill, this one was the second.
    return found.present & first.present & (other | (first.noise == 0)), found


FURTHER_READINGS: tuple[Reading, ...] = (
    block_over_two_values,
    second_value,
    lost_channels,
    repeated_values,
    noisy_fill,
)
"""In the order of their turn: what is exact takes the fewest evaluations."""


def _largest_sides(missing: Tensor) -> Tensor:
    """Side of the largest square, or cube, that is all missing in a channel of each image, (B,); 0 for none."""
    sides = torch.zeros(len(missing), dtype=torch.int64, device=missing.device)
    while missing.numel() and bool(missing.any()):
        sides += missing.flatten(1).any(1)
        missing = _eroded(missing)
    return sides


def _opened(missing: Tensor, side: int) -> Tensor:
    """What such squares cover that are all missing."""
    for _ in range(side - 1):
        missing = _eroded(missing)
    for _ in range(side - 1):
        for axis in axes(missing):
            edge = torch.zeros_like(missing.narrow(axis, 0, 1))
            missing = torch.cat([missing, edge], axis) | torch.cat([edge, missing], axis)
    return missing


def _eroded(missing: Tensor) -> Tensor:
    """Where a pixel and the next one along every axis are missing; a pixel less along each."""
    for axis in axes(missing):
        length = missing.shape[axis] - 1
        missing = missing.narrow(axis, 0, length) & missing.narrow(axis, 1, length)
    return missing

"""Further readings of an observation, for images whose first one came to nothing, see ``fills.py`` for that.

A first reading may be wrong: what was taken for observed is a second color of the fill, or noise on it that happens not
to be clipped. A further reading is worth its evaluations only where the observation itself speaks for it: images that
are not stored come to nothing under any.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_memaudit.recovery.fills import LEAST_SHARE, ConstantFill, find_noisy_fill, find_repeated_values

Reading = Callable[[Tensor, ConstantFill, float | None], tuple[Tensor, ConstantFill]]
"""From observations (B, C, *spatial), their first reading and the noise that is known to whether they speak for this
one, (B,) bool, and the fill in it."""

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
    return found.present & exact & (_hidden(found) >= _hidden(first) + LEAST_SHARE), found


def noisy_fill(observed: Tensor, first: ConstantFill, noise: float | None) -> tuple[Tensor, ConstantFill]:
    """One value with noise on it, where no level of noise is known: clipped noise repeats as an exact fill does."""
    found = find_noisy_fill(observed)
    if noise is not None:
        return torch.zeros_like(found.present), found
    other = ((found.value - first.value).abs() >= SAME_VALUE).flatten(1).any(1)
    # Where the first reading found no fill, this one was the second.
    return found.present & first.present & (other | (first.noise == 0)), found


FURTHER_READINGS: tuple[Reading, ...] = (repeated_values, noisy_fill)
"""In the order of their turn: what is exact takes the fewest evaluations."""


def _hidden(fill: ConstantFill) -> Tensor:
    """Share of the observation that is missing, (B,)."""
    return (1 - fill.mask).flatten(1).double().mean(1)

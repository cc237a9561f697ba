"""Are the controls images like the members? Compared by what owes nothing to the autoencoder.

Controls that differ say nothing of what an image like the members does when it was not trained on: if inpainting
restores all of them, none can count, and a difference between the groups would hold by construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_DISTANCE = 0.25
"""Groups differ clearly where, beyond chance, their distribution functions are further apart than this."""

_CHANCE = 1.63
"""Kolmogorov's 99% quantile: two samples of one distribution are rarely further apart, times sqrt(1/n + 1/m)."""

FEWEST = 10
"""Of members and of controls: of fewer nothing is said."""


@dataclass(frozen=True)
class GroupDifference:
    """A quantity in which members and controls differ clearly.

    Attributes:
        name: What was compared.
        members: Median of the members.
        controls: Median of the controls.
        distance: Largest distance of the two distribution functions, in [0, 1] (Kolmogorov & Smirnov).

    >>> [found] = compare_groups({"contrast": (np.linspace(0.1, 0.2, 40), np.linspace(0.3, 0.4, 40))})
    >>> found.name, round(found.members, 2), round(found.controls, 2), found.distance
    ('contrast', 0.15, 0.35, 1.0)
    """

    name: str
    members: float
    controls: float
    distance: float


def compare_groups(quantities: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> tuple[GroupDifference, ...]:
    """In which of some quantities, by name, members (n,) and controls (m,) differ clearly; NaN is left out.

    Random halves of one data set hardly ever do: beyond what chance explains in 99% of cases, their distributions
    would have to be 0.25 apart.
    """
    found = []
    for name, groups in quantities.items():
        members, controls = (_present(values) for values in groups)
        if min(len(members), len(controls)) < FEWEST:
            continue
        distance = _distance(members, controls)
        if distance - _CHANCE * np.sqrt(1 / len(members) + 1 / len(controls)) > LEAST_DISTANCE:
            found.append(GroupDifference(name, float(np.median(members)), float(np.median(controls)), distance))
    return tuple(found)


def _present(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return np.sort(array[~np.isnan(array)])


def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of two sorted samples: the Kolmogorov-Smirnov statistic."""
    places = np.concatenate([first, second])
    below = [np.searchsorted(values, places, side="right") / len(values) for values in (first, second)]
    return float(np.abs(below[0] - below[1]).max())

"""Counts, their shares, and the difference of two shares, each with its uncertainty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.evidence import exact_test
from lightning_memaudit.results.intervals import Estimate, clopper_pearson, paired_difference, unpaired_difference


@dataclass(frozen=True)
class Proportion:
    """A count, its share and the share's 95% Clopper-Pearson interval.

    Attributes:
        count: Number of successes.
        num: Number of trials.
        rate: ``count / num``, in [0, 1]; None without any trial, and so are the next two.
        low: Lower end of the interval.
        high: Upper end.

    >>> share = Proportion.of(np.array([True, True, True, False]))
    >>> share.count, share.num, share.rate, round(share.low, 2), round(share.high, 2)
    (3, 4, 0.75, 0.19, 0.99)
    """

    count: int
    num: int
    rate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, successes: NDArray[np.bool_]) -> "Proportion":
        """Of a vector of successes."""
        count, num = int(successes.sum()), len(successes)
        return cls(count, num, count / num if num else None, *clopper_pearson(count, num))


@dataclass(frozen=True)
class Difference:
    """Share of members minus share of controls, over all images of both: their order plays no part.

    Attributes:
        value: The difference, in [-1, 1].
        low: Lower end of Newcombe's 95% interval for separate groups.
        high: Upper end.
        p_value: Chance of at least so many members among the successes if both groups are alike (Fisher's exact test).
        paired: The difference of images with the same mask, with Newcombe's interval for pairs; None where the groups
            are not equally large.

    >>> members, controls = np.array([True, True, True, False]), np.array([False, False, False, True, True])
    >>> difference = Difference.of(members, controls)
    >>> round(difference.value, 2), round(difference.p_value, 2), difference.paired
    (0.35, 0.36, None)
    """

    value: float
    low: float
    high: float
    p_value: float
    paired: Estimate | None

    @classmethod
    def of(cls, members: NDArray[np.bool_], controls: NDArray[np.bool_], aligned: bool = True) -> "Difference | None":
        """Of two vectors of successes; None where one of them is empty.

        Args:
            members: (n,).
            controls: (m,).
            aligned: Whether the i-th of both have the same masks, so that they are pairs where n is m.
        """
        if not len(members) or not len(controls):
            return None
        counts = int(members.sum()), len(members), int(controls.sum()), len(controls)
        paired = None
        if aligned and len(members) == len(controls):
            table = (members & controls, members & ~controls, ~members & controls, ~members & ~controls)
            paired = paired_difference(*(int(cell.sum()) for cell in table))
        return cls(*unpaired_difference(*counts), exact_test(*counts), paired)

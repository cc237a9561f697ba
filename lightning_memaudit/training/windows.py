"""From values in units of their own, such as Hounsfield's, to [0, 1]: by a window that the user gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.training.pixels import value_range

NEEDED = "give window=[<value of black>, <value of white>] for all alike, or percentiles=[0.5, 99.5] for each by itself"


@dataclass(frozen=True)
class Window:
    """What becomes black and what white; beyond them values are clipped.

    Attributes:
        limits: Value of black, value of white: for all images alike.
        percentiles: Instead, of each image: so many percent of its values become black, and all above the second white.

    Raises:
        ValueError: Both or none are given, or they are no limits.

    >>> Window([-1000, 1000]).scale(np.array([-2000.0, 0.0, 500.0])).tolist()
    [0.0, 0.5, 0.75]
    """

    limits: Sequence[float] | None = None
    percentiles: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.limits is None) == (self.percentiles is None):
            raise ValueError(f"window={self.limits} and percentiles={self.percentiles}: give one of them")
        for name, ends in (("window", self.limits), ("percentiles", self.percentiles)):
            least, most = (0.0, 100.0) if name == "percentiles" else (-float("inf"), float("inf"))
            if ends is not None and not (
                len(ends) == 2 and least <= ends[0] < ends[1] <= most and np.isfinite(ends).all()
            ):
                raise ValueError(f"{name}={list(ends)}: give a lower number and a higher one; {NEEDED}")

    @classmethod
    def of(cls, window: Sequence[float] | None, percentiles: Sequence[float] | None) -> "Window | None":
        """None where neither is given."""
        return None if window is None and percentiles is None else cls(window, percentiles)

    def scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values of one image, to [0, 1].

        Raises:
            ValueError: There is a NaN among them or an infinity, or the percentiles are one value.
        """
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(f"it has {value_range(numbers)}")
        low, high = self.limits if self.limits is not None else np.percentile(numbers, self.percentiles or ())
        if not low < high:
            raise ValueError(f"its percentiles {list(self.percentiles or ())} are one value, {low:g}")
        scaled: NDArray[np.float32] = np.clip((numbers - low) / (high - low), 0, 1).astype(np.float32)
        return scaled

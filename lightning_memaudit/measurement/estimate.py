"""What an audit will cost, as it is told, and how far earlier audits of the run were from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.cost import about

CellKey = tuple[str, str, str]
"""Group, pattern, method."""


class Estimate(NamedTuple):
    """What an audit will cost.

    Attributes:
        seconds: Of the whole audit, until the last process is done.
        num_evaluations: Of the autoencoder, on all images by all methods.
        num_images: Of all groups.
        num_bytes: Of memory at most in one process, beside what it holds already.
        cells: The part of the seconds that each group, pattern and method takes.
        evaluations: Likewise of the evaluations.

    >>> print(Estimate(40.2, 5200.0, 120, 3e8, {}, {}))
    about 40 s (5,200 evaluations of 120 images; 0.3 GB)
    """

    seconds: float
    num_evaluations: float
    num_images: int
    num_bytes: float
    cells: Mapping[CellKey, float]
    evaluations: Mapping[CellKey, float]

    def __str__(self) -> str:
        size = f"{self.num_bytes / 1e9:.1f} GB" if self.num_bytes >= 5e7 else f"{max(1, self.num_bytes / 1e6):.0f} MB"
        each = f"{_two_digits(self.num_evaluations):,} evaluations of {self.num_images} images"
        return f"{about(self.seconds)} ({each}; {size})"

    def to_dict(self) -> dict[str, float]:
        """The numbers for the results files."""
        return {"seconds": self.seconds, "num_evaluations": self.num_evaluations, "num_bytes": self.num_bytes}


@dataclass
class Experience:
    """What earlier audits of a run really took, next to what was expected of them.

    Attributes:
        seconds: By group, pattern and method: the share of the estimate that it took.
        evaluations: Likewise.
        rest: Of what is no recovery: baselines, checks, sums.

    >>> Experience().seconds
    {}
    """

    seconds: dict[CellKey, float] = field(default_factory=dict)
    evaluations: dict[CellKey, float] = field(default_factory=dict)
    rest: float = 1.0
    inpainted: bool = False

    def learn(self, raw: Estimate, cells: Sequence[Cell], seconds: float, num_shares: int) -> None:
        """Compare an audit with what was expected of it.

        Args:
            raw: The estimate, before any experience.
            cells: What was measured by all processes.
            seconds: That the audit took.
            num_shares: Processes that shared it.
        """
        for cell in cells:
            key = (cell.group, cell.pattern, cell.method)
            expected = raw.cells.get(key, 0.0)
            if expected > 0:
                self.seconds[key] = cell.seconds / num_shares / expected
            if raw.evaluations.get(key):
                self.evaluations[key] = float(cell.columns["num_evaluations"].sum()) / raw.evaluations[key]
        rest = raw.seconds - sum(raw.cells.values())
        if rest > 0:
            self.rest = max(0.0, seconds - sum(cell.seconds for cell in cells) / num_shares) / rest
        self.inpainted = True  # kept for the next audit of the same images


def _two_digits(number: float) -> int:
    """Rounded to two digits: an estimate knows no more."""
    if number < 1:
        return 0
    unit: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return round(number / unit) * unit

"""Do members and controls come from one source? Told by what owes nothing to the autoencoder. Numpy and scipy only.

Controls of another source, such as other pictures, or the same ones with another contrast, say nothing of what an image
of the members' source would do that was not trained on. No test can show that two groups are alike; this one finds
those that clearly are not.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.names import INPAINTER

IMAGE_STATISTICS = {
    "image_mean": "brightness",
    "image_contrast": "contrast",
    "image_roughness": "smoothness",
    "image_low": "darkest values",
    "image_high": "brightest values",
}
"""Columns of a cell that are numbers of the intact images alone, and what they are called."""

MAX_FALSE_ALARM = 1e-3
"""Chance at most that groups of one source are taken for different ones, all statistics together (Bonferroni)."""

LEAST_DISTANCE = 0.25
"""Largest difference of the two distribution functions that is no clear one, however many images show it."""


class Difference(NamedTuple):
    """A statistic by which members and controls clearly differ.

    Attributes:
        name: Of the statistic, for people.
        members: Its median over the members.
        controls: Its median over the controls.
        p_value: Of the two-sample Kolmogorov-Smirnov test.

    >>> [found] = differences({"contrast": np.linspace(0.1, 0.2, 50)}, {"contrast": np.linspace(0.3, 0.4, 50)})
    >>> found.name, round(found.members, 2), round(found.controls, 2), found.p_value < 1e-9
    ('contrast', 0.15, 0.35, True)
    """

    name: str
    members: float
    controls: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.name} (medians {self.members:.3g} and {self.controls:.3g})"


def differences(members: Mapping[str, ArrayLike], controls: Mapping[str, ArrayLike]) -> list[Difference]:
    """The statistics by which two groups clearly differ, the clearest first; none where they may be of one source.

    Args:
        members: Values (n,) by the statistic's name; what is not finite is left out.
        controls: The same of the controls, (m,). Statistics that only one group has are not compared.
    """
    names = [name for name in members if name in controls]
    found = []
    for name in names:
        one, other = (_finite(group[name]) for group in (members, controls))
        if not len(one) or not len(other):
            continue
        test = ks_2samp(one, other)
        if test.pvalue <= MAX_FALSE_ALARM / len(names) and test.statistic >= LEAST_DISTANCE:
            found.append(Difference(name, float(np.median(one)), float(np.median(other)), float(test.pvalue)))
    return sorted(found, key=lambda one: one.p_value)


def differences_of_groups(cells: Sequence[Cell]) -> list[Difference]:
    """By what members and controls of an audit differ: the images themselves, and how well each mask is inpainted.

    Args:
        cells: All cells of an audit.
    """
    by_group: dict[str, dict[str, ArrayLike]] = {"members": {}, "controls": {}}
    for cell in cells:
        statistics = by_group[cell.group]
        for column, name in IMAGE_STATISTICS.items():
            if column in cell.columns:
                statistics[name] = cell.columns[column]
        if cell.method == INPAINTER:
            statistics[f"PSNR of inpainted {cell.pattern}"] = cell.columns["psnr"]
    return differences(by_group["members"], by_group["controls"])


def _finite(values: ArrayLike) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]

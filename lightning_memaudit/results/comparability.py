"""Are the controls images like the members? Compared by what owes nothing to the autoencoder.

Controls that differ say nothing of what an image like the members does when it was not trained on: if inpainting
restores all of them, none can count, and a difference between the groups would hold by construction. No test can show
that two groups are alike; this one finds those that clearly are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp

from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.names import INPAINTER

APPEARANCE = (
    *("brightness", "contrast", "roughness", "value_range"),
    *("vertical_balance", "direction", "horizontal_balance", "slant"),
    *("horizontal_wave_3", "horizontal_wave_5", "horizontal_wave_7"),
    *("color", "color_balance", "color_contrast"),
    *("jpeg_grid", "jpeg_quality", "sharpness"),
    *("skewness", "edge_skewness", "detail_balance", "parity"),
)
"""Columns that are numbers of the intact images alone; those of the second line tell images from turned ones, those of
the third aligned ones from mirrored ones, those of the fourth by their colors, which images of one channel do not have,
those of the fifth by what was done to them before, compressed, resized, blurred or sharpened, and those of the last
from negatives, mirrored and moved ones."""

MAX_FALSE_ALARM = 1e-3
"""Chance at most that groups of one source are taken for different ones, all quantities together (Bonferroni)."""

LEAST_DISTANCE = 0.25
"""Largest difference of the two distribution functions that is no clear one, however many images show it."""


PREPARED_OTHERWISE = "prepared_otherwise"

COMPARISON_REMEDIES: dict[str, tuple[str, str, str]] = {
    PREPARED_OTHERWISE: (
        "the controls were prepared otherwise than the members",
        "what such controls do says nothing of images like the members.",
        "Take the controls from the source of the members, prepared alike, and audit again.",
    ),
}
"""For a verdict, by code of a doubt: what is wrong in one clause, what follows from it, and what to do."""


@dataclass(frozen=True)
class GroupDifference:
    """A quantity in which members and controls differ clearly.

    Attributes:
        name: What was compared.
        members: Median of the members.
        controls: Median of the controls.
        distance: Largest distance of the two distribution functions, in [0, 1] (Kolmogorov & Smirnov).
        p_value: Of the two-sample Kolmogorov-Smirnov test.

    >>> [found] = compare_groups({"contrast": (np.linspace(0.1, 0.2, 40), np.linspace(0.3, 0.4, 40))})
    >>> found.name, round(found.members, 2), round(found.controls, 2), found.distance, found.p_value < 1e-9
    ('contrast', 0.15, 0.35, 1.0, True)
    """

    name: str
    members: float
    controls: float
    distance: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.name} (medians {self.members:.3g} and {self.controls:.3g})"


def compare_groups(quantities: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> tuple[GroupDifference, ...]:
    """In which of some quantities members and controls differ clearly, the clearest first.

    Args:
        quantities: Values of members (n,) and controls (m,) by name; what is not finite is left out.
    """
    known = {name: (_finite(members), _finite(controls)) for name, (members, controls) in quantities.items()}
    known = {name: groups for name, groups in known.items() if all(map(len, groups))}
    found = []
    for name, (members, controls) in known.items():
        test = ks_2samp(members, controls)
        if test.pvalue <= MAX_FALSE_ALARM / len(known) and test.statistic >= LEAST_DISTANCE:
            medians = float(np.median(members)), float(np.median(controls))
            found.append(GroupDifference(name, *medians, float(test.statistic), float(test.pvalue)))
    return tuple(sorted(found, key=lambda one: one.p_value))


def differences(images: ImageColumns, patterns: Sequence[str], method: str) -> tuple[GroupDifference, ...]:
    """In what the images themselves differ, and how well they are filled in without the autoencoder.

    Args:
        images: Of one audit; without controls nothing differs.
        patterns: Over which the quality of a filling is averaged.
        method: The audited one.
    """
    keys = [("members", patterns[0], method), ("controls", patterns[0], method)]
    if any(key not in images for key in keys):
        return ()
    members, controls = (images[key] for key in keys)
    compared = {name: (members[name], controls[name]) for name in APPEARANCE}
    for name, filler, label in (
        ("baseline_psnr", method, "quality of the best filling without the autoencoder"),
        ("hidden_psnr", INPAINTER, "quality of inpainting"),
    ):
        groups = [[(group, pattern, filler) for pattern in patterns] for group in ("members", "controls")]
        if all(key in images for group in groups for key in group):
            means = [np.mean([images[key][name] for key in group], axis=0) for group in groups]
            compared[label] = (means[0], means[1])
    return compare_groups(compared)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]

"""Which images came back, and which of them beyond what anyone could have filled in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.gain import MARGIN_DB, Gains, gains_of
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.names import INPAINTER

Flags = NDArray[np.bool_]


class CameBack(NamedTuple):
    """What one method brought back of one group; all fields are (patterns, images).

    Attributes:
        recovered: Reaches the threshold.
        beyond: Recovered, and closer than the best baseline, the inpainter among them, by the margin; where no gain was
            measured, recovered where the inpainter fails.
        gains: In dB over the best baseline; NaN where that was not measured.
        failed: The method failed, so that nobody knows what would have come back.

    >>> row = {"group": "members", "pattern": "half", "method": "blind", "recovered": True, "baseline_psnr": 28.0}
    >>> rows = [row | {"position": i, "recovery_gain": db} for i, db in enumerate([9.0, 0.5])]
    >>> rows += [row | {"position": i, "method": "biharmonic", "recovered": False} for i in range(2)]
    >>> back = came_back(ImageColumns(rows), "members", ["half"], "blind", inpainter="biharmonic")
    >>> back.recovered.tolist(), back.beyond.tolist()
    ([[True, True]], [[True, False]])
    """

    recovered: Flags
    beyond: Flags
    gains: Gains
    failed: Flags

    def tested(self, chosen: Sequence[int]) -> Flags:
        """Images of which some patterns tell whether they come back, (images,): they do, or the method never failed.

        A control that does not come back because the method failed says nothing of what comes back anyway. That images
        came to nothing by themselves, as those that diverge, is what the method found of them.
        """
        rows = list(chosen)
        return in_any(self.beyond[rows]) | ~in_any(self.failed[rows])


def came_back(
    images: ImageColumns, group: str, patterns: Sequence[str], method: str, inpainter: str | None
) -> CameBack:
    """What a method brought back of a group.

    Where a baseline was not measured that was elsewhere, nobody knows: a member does not count then, and a control,
    which speaks against a finding, does. Without any gain, failing inpainting is all there is to go by.

    Args:
        images: Of one audit.
        group: ``members`` or ``controls``.
        patterns: Those that count.
        method: Any that ran in all of them.
        inpainter: The generic one; None where it did not run.
    """
    recovered, gains = flags(images, group, patterns, method), gains_of(images, group, patterns, method)
    beyond = recovered & inpainter_fails(images, group, patterns) if inpainter else recovered.copy()
    for row, pattern in enumerate(patterns):
        if any_gain(images, pattern, method):
            unknown = np.isnan(gains[row]) & (group != "members")
            beyond[row] = recovered[row] & ((gains[row] >= MARGIN_DB) | unknown)
    return CameBack(recovered, beyond, gains, flags(images, group, patterns, method, "failed"))


def flags(images: ImageColumns, group: str, patterns: Sequence[str], method: str, name: str = "recovered") -> Flags:
    """One flag of a method's images, (patterns, images)."""
    return np.stack([images[group, pattern, method][name] for pattern in patterns])


def in_any(given: Flags) -> Flags:
    """(patterns, images) to (images,)."""
    return np.asarray(given.any(0))


def inpainter_fails(images: ImageColumns, group: str, patterns: Sequence[str]) -> Flags:
    """Where the inpainter does not bring back the image, (patterns, images).

    Where it crashed nobody knows: a member does not count then, and a control does.
    """
    columns = [images[group, pattern, INPAINTER] for pattern in patterns]
    return np.stack([~one["recovered"] & ~(one["failed"] & (group == "members")) for one in columns])


def any_gain(images: ImageColumns, pattern: str, method: str) -> bool:
    """Whether a method's gain is known of any image in a pattern."""
    groups = [group for group in images.groups() if (group, pattern, method) in images]
    return any(not np.isnan(gains_of(images, group, [pattern], method)).all() for group in groups)

"""Measurements as columns: one cell per group, pattern and method, one entry per image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_memaudit.results.own_output import OutputSums

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Columns = dict[str, Array]
Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass
class Cell:
    """What was measured for one group, pattern and method: equally long columns, one entry per image.

    Attributes:
        group: ``members`` or ``controls``.
        pattern: Name of the degradation.
        method: Name of the recovery method.
        columns: Arrays (n,) by name, see :data:`~lightning_memaudit.results.quantities.QUANTITIES`; also ``position``
            (of the image within its group), ``image`` (its index in the data set), ``name`` (what a person calls it
            there, as objects) and ``claims`` (whether the method is one that certifies).
        seconds: Spent on the recoveries.

    >>> first, second = (Cell("members", "half", "blind", {"position": np.array([i])}, 0.5) for i in (1, 0))
    >>> joined = Cell.join([first, second])
    >>> joined.columns["position"].tolist(), joined.seconds
    ([0, 1], 1.0)
    """

    group: str
    pattern: str
    method: str
    columns: Columns
    seconds: float

    @staticmethod
    def join(parts: Sequence["Cell"]) -> "Cell":
        """Join the blocks or the ranks' parts of one cell, ordered by position; seconds add up."""
        first = parts[0]
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
        order = np.argsort(columns["position"], kind="stable")
        return Cell(
            first.group,
            first.pattern,
            first.method,
            {name: column[order] for name, column in columns.items()},
            sum(part.seconds for part in parts),
        )


def is_recovered(cell: Cell, threshold_db: float) -> Flags:
    """Accurately recovered, (n,): PSNR at or above the threshold, and the method neither diverged nor failed."""
    columns = cell.columns
    with np.errstate(invalid="ignore"):
        high = columns["psnr"] >= threshold_db  # type: ignore[operator]
    return np.asarray(high & ~columns["diverged"].astype(bool) & ~columns["failed"].astype(bool))


@dataclass
class Measurement:
    """All cells of an audit, and the recoveries of the first images of each group.

    Attributes:
        cells: One per group, pattern and method.
        recoveries: Arrays by the names of the results file (``members/truth``, ``members/<pattern>/observed``, ...).
        error_sum: Sum over the images x of the mean squared error between f(x) and x, in double precision.
        num_images: How many those are.
        outputs: What f makes of the images, summed up; of members alone.

    >>> parts = [Measurement(error_sum=0.25, num_images=1), Measurement(error_sum=0.5, num_images=2)]
    >>> Measurement.join(parts).error_sum
    0.75
    """

    cells: list[Cell] = field(default_factory=list)
    recoveries: Columns = field(default_factory=dict)
    error_sum: float = 0.0
    num_images: int = 0
    outputs: OutputSums = field(default_factory=OutputSums)

    @staticmethod
    def join(parts: Sequence["Measurement"]) -> "Measurement":
        """Join the measurements of one group by several processes, as if one had made it."""
        cells = [Cell.join(list(same)) for same in zip(*(part.cells for part in parts), strict=True)]
        keys = list(dict.fromkeys(key for part in parts for key in part.recoveries))
        arrays = join_recoveries(
            {key: [part.recoveries[key] for part in parts if key in part.recoveries] for key in keys}
        )
        for key in keys:
            if key.endswith("/positions"):
                order = np.argsort(arrays[key], kind="stable")
                group = key.removesuffix("positions")
                for other in arrays:
                    if other.startswith(group):
                        arrays[other] = arrays[other][order]
        return Measurement(
            cells,
            {key: array for key, array in arrays.items() if not key.endswith("/positions")},
            sum(part.error_sum for part in parts),
            sum(part.num_images for part in parts),
            OutputSums.join([part.outputs for part in parts]),
        )


_CHANNEL_AXIS = {"mask": 1, "trace_mask": 2}
"""Of the arrays that may be shared by the channels."""


def _with_channels(array: Array, axis: int, channels: int) -> Array:
    return np.broadcast_to(array, (*array.shape[:axis], channels, *array.shape[axis + 1 :]))


def join_recoveries(parts: Mapping[str, Sequence[Array]]) -> Columns:
    """Join the arrays of blocks or processes, one entry per saved image in all arrays of a group.

    Masks that are shared by the channels in some parts get as many channels as the others. What is not there for every
    image, as the iterations of a method that failed on some, is left out.

    Args:
        parts: Arrays (k, ...) by name; ``<group>/positions`` says how many images of the group there are.

    >>> parts = {"members/positions": [np.zeros(1), np.ones(1)], "members/half/blind/trace_image": [np.zeros(1)]}
    >>> list(join_recoveries(parts))
    ['members/positions']
    """
    joined = {}
    for key, arrays in parts.items():
        axis = _CHANNEL_AXIS.get(key.rpartition("/")[2])
        if axis is not None:
            channels = max(array.shape[axis] for array in arrays)
            arrays = [_with_channels(array, axis, channels) for array in arrays]
        array = np.concatenate(arrays)
        if len(array) == sum(map(len, parts[f"{key.partition('/')[0]}/positions"])):
            joined[key] = array
    return joined

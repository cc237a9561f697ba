"""What came back of the first images of a group, as arrays by the names of the results file.

What comes back of volumes is kept, in memory and on disk, at 16 bits per value, half of what it would take. Rounding
comes before measuring: what the results say of a recovery is exactly true of the array that is kept of it, and whoever
scores the arrays again finds the same. In [0, 1] it moves a value by 2^-12 at most, which leaves 72 dB of an exact
recovery, far beyond any threshold. The truth and the observations keep their precision.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.recovery import Recovery, Trace
from lightning_memaudit.recovery.spatial import MOST_AXES
from lightning_memaudit.results.cells import Array

LARGEST = torch.finfo(torch.float16).max
"""What has gone beyond all measure is kept as this, and stays finite."""


def as_kept(images: Tensor) -> Tensor:
    """Images or masks (B, C, *spatial) with the values that are kept of them, in their own type: rounded for volumes.

    >>> third = torch.tensor(1 / 3)
    >>> [torch.equal(as_kept(third.expand(1, 1, *size))[..., 0].max(), third) for size in ((8, 8), (8, 8, 8))]
    [True, False]
    """
    if _kept_type(images.ndim - 2) is None:
        return images
    return images.clamp(-LARGEST, LARGEST).half().to(images)


def recovery_as_kept(recovery: Recovery) -> Recovery:
    """The recovery with image and mask as they are kept."""
    return recovery._replace(image=as_kept(recovery.image), mask=as_kept(recovery.mask))


def _kept_type(num_axes: int) -> "type[np.float16] | None":
    """Of images with so many spatial axes; None where it is their own."""
    return np.float16 if num_axes == MOST_AXES else None


def save_recovery(
    saved: dict[str, Array],
    prefix: str,
    recovery: Recovery | None,
    images: Tensor,
    record_at: Sequence[int],
    keep: "np.ndarray[Any, Any]",
) -> None:
    """Keep what came back; NaN where the method failed, so that every array has an entry for each saved image.

    Args:
        saved: Where to keep it.
        prefix: Of the names.
        recovery: As :func:`recovery_as_kept` returns it; None where the method failed.
        images: The truth, (B, C, *spatial).
        record_at: The iterations that the method was to record.
        keep: Rows of the images that are kept.
    """
    kind = _kept_type(images.ndim - 2)
    if recovery is None:
        nothing = torch.full_like(images, torch.nan)
        image, mask, trace = nothing, nothing[:, :1], None
    else:
        image, mask, trace = recovery.image, recovery.mask, recovery.trace
    saved[f"{prefix}/image"] = _kept(image, keep, kind)
    saved[f"{prefix}/mask"] = _kept(mask, keep, kind)
    if trace is not None:
        _save_trace(saved, prefix, trace, record_at, keep, kind)


def _kept(values: Tensor, keep: "np.ndarray[Any, Any]", kind: "type[np.float16] | None") -> Array:
    chosen: Array = to_numpy(values if kind is None else values.clamp(-LARGEST, LARGEST))[keep]
    return chosen if kind is None else chosen.astype(kind)


def _save_trace(
    saved: dict[str, Array],
    prefix: str,
    trace: Trace,
    record_at: Sequence[int],
    keep: "np.ndarray[Any, Any]",
    kind: "type[np.float16] | None",
) -> None:
    """Keep what was recorded, image by image; where all had converged before, their last state stands for the rest."""
    wanted = sorted(set(record_at) | {trace.iterations[0]})
    steps = [max(row for row, step in enumerate(trace.iterations) if step <= asked) for asked in wanted]
    saved[f"{prefix}/trace_iterations"] = np.tile(np.asarray(wanted, dtype=np.int64), (len(keep), 1))
    for name, values in (("trace_image", trace.image), ("trace_mask", trace.mask)):
        saved[f"{prefix}/{name}"] = _kept(values[steps].transpose(0, 1), keep, kind)


def to_numpy(tensor: Tensor) -> Array:
    """The values of a tensor on any device, which may share its memory."""
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = tensor.detach().cpu().numpy()
    return array

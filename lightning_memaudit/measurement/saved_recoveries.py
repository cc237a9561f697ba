"""What came back of the first images of a group, as arrays by the names of the results file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.recovery import Recovery, Trace
from lightning_memaudit.results.cells import Array


def save_recovery(
    saved: dict[str, Array],
    prefix: str,
    recovery: Recovery | None,
    images: Tensor,
    record_at: Sequence[int],
    keep: "np.ndarray[Any, Any]",
) -> None:
    """Keep what came back; NaN where the method failed, so that every array has an entry for each saved image."""
    if recovery is None:
        nothing = torch.full_like(images, torch.nan)
        image, mask, trace = nothing, nothing[:, :1], None
    else:
        image, mask, trace = recovery.image, recovery.mask, recovery.trace
    saved[f"{prefix}/image"] = to_numpy(image)[keep]
    saved[f"{prefix}/mask"] = to_numpy(mask)[keep]
    if trace is not None:
        _save_trace(saved, prefix, trace, record_at, keep)


def _save_trace(
    saved: dict[str, Array], prefix: str, trace: Trace, record_at: Sequence[int], keep: "np.ndarray[Any, Any]"
) -> None:
    """Keep what was recorded, image by image; where all had converged before, their last state stands for the rest."""
    wanted = sorted(set(record_at) | {trace.iterations[0]})
    steps = [max(row for row, step in enumerate(trace.iterations) if step <= asked) for asked in wanted]
    saved[f"{prefix}/trace_iterations"] = np.tile(np.asarray(wanted, dtype=np.int64), (len(keep), 1))
    for name, values in (("trace_image", trace.image), ("trace_mask", trace.mask)):
        saved[f"{prefix}/{name}"] = to_numpy(values[steps].transpose(0, 1))[keep]


def to_numpy(tensor: Tensor) -> Array:
    """The values of a tensor on any device, which may share its memory."""
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = tensor.detach().cpu().numpy()
    return array

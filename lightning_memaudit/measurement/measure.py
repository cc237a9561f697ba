"""Degrade, recover, measure: one block of images at a time, one column of numbers per quantity.

This is the only place where the ground truth meets a recovery.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.measurement.degradations import Degraded
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.image_statistics import image_statistics
from lightning_memaudit.measurement.metrics import METRICS, psnr
from lightning_memaudit.measurement.own_output import output_sums, repeated
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.recovery import Autoencoder, Recovery, Trace
from lightning_memaudit.recovery.batches import per_image_mean
from lightning_memaudit.recovery.methods.registry import (
    Method,
    claims,
    estimates_mask,
    recover,
    uses_autoencoder,
)
from lightning_memaudit.results.cells import Array, Cell, Columns, Measurement, join_recoveries
from lightning_memaudit.results.own_output import OutputSums
from lightning_memaudit.results.quantities import QUANTITIES

Progress = Callable[[str, int], None]
"""Called with what was just done and the number of images it did."""


InpaintingCache = dict[tuple[str, str, str, int, int], Recovery]
"""Recoveries that do not depend on the autoencoder, by (group, pattern, method, the block's first row and its size)."""


@torch.no_grad()
def measure(
    autoencoder: Autoencoder | ConditionalAutoencoder,
    group: Group,
    plan: Plan,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Run every pattern and method on one group.

    Args:
        autoencoder: f, images (B, C, H, W) to the same shape, in [0, 1]; for a group with conditions, what gives one
            for each of them.
        group: The images. An empty group gives cells with empty columns.
        plan: Patterns, methods and settings.
        cache: Keeps what does not depend on the autoencoder for the next audit of the same images.
        progress: Told after every block, pattern and method.

    Raises:
        Exception: That of a method that fails, where ``plan.raise_errors``; else it becomes a warning, and the images
            of its block count as failed.
    """
    parts: dict[tuple[str, str], list[Cell]] = {}
    saved: dict[str, list[Array]] = {}
    error_sum = 0.0
    outputs: list[OutputSums] = []
    for block in group.blocks(autoencoder, plan.block_size):
        images = block.images
        positions = np.asarray([group.positions[row] for row in block.rows], dtype=np.int64)
        indices = np.asarray([group.indices[row] for row in block.rows], dtype=np.int64)
        names = np.asarray(group.labels(block.rows), dtype=np.object_)
        keep = np.flatnonzero(positions < plan.save_recoveries)
        reconstruction_psnr: Array = np.zeros(0)
        statistics = image_statistics(images)
        if len(images):
            output = block.autoencoder(images)
            reconstruction_psnr = _numpy(psnr(_finite(output), images))
            error_sum += float(per_image_mean((output - images).double().square()).sum())
            if group.name == "members":
                outputs.append(output_sums(output, images))
                if len(outputs) == 1:
                    outputs.append(repeated(block.autoencoder, images[:2]))
        if len(keep):
            _save(saved, f"{group.name}/indices", indices[keep])
            _save(saved, f"{group.name}/names", names[keep].astype(np.str_))
            _save(saved, f"{group.name}/positions", positions[keep])
            _save(saved, f"{group.name}/truth", _numpy(images)[keep])
        for pattern in plan.patterns:
            # Seeded by position: the i-th member and the i-th control get the same mask, and can be compared as a pair.
            degraded = pattern(images, positions.tolist(), plan.seed)
            prefix = f"{group.name}/{pattern.name}"
            if len(keep):
                _save(saved, f"{prefix}/observed", _numpy(degraded.observed)[keep])
                _save(saved, f"{prefix}/mask", _numpy(degraded.mask)[keep].astype(np.uint8))
            for name, method in plan.methods_for(pattern).items():
                began = time.perf_counter()
                key = (group.name, pattern.name, name, block.rows[0] if len(images) else 0, len(images))
                recovery = _recover(block.autoencoder, method, degraded, key, cache, plan.raise_errors)
                seconds = time.perf_counter() - began
                columns = _columns(recovery, method, degraded, images)
                columns |= {
                    "position": positions,
                    "image": indices,
                    "name": names,
                    "reconstruction_psnr": reconstruction_psnr,
                    **statistics,
                }
                cell = Cell(group.name, pattern.name, name, columns, seconds)
                parts.setdefault((pattern.name, name), []).append(cell)
                if len(keep):
                    _save_recovery(saved, f"{prefix}/{name}", recovery, images, getattr(method, "record_at", ()), keep)
                if progress is not None:
                    progress(f"{group.name} · {pattern.name} · {name}", len(images))
    return Measurement(
        [Cell.join(cells) for cells in parts.values()],
        join_recoveries(saved),
        error_sum,
        len(group.images),
        OutputSums.join(outputs),
    )


def _recover(
    autoencoder: Autoencoder,
    method: Method,
    degraded: Degraded,
    key: tuple[str, str, str, int, int],
    cache: InpaintingCache | None,
    raise_errors: bool,
) -> Recovery | None:
    if not len(degraded.observed):
        return None
    reusable = cache is not None and not uses_autoencoder(method)
    if reusable and key in cache:  # type: ignore[operator]
        return cache[key]  # type: ignore[index]
    try:
        recovery = recover(method, autoencoder, degraded.observed, degraded.mask)
    except Exception as error:
        if raise_errors or isinstance(error, AuditStopped):
            raise
        warnings.warn(f"{key[2]} failed on {key[0]}, {key[1]}: {type(error).__name__}: {error}", stacklevel=3)
        return None
    if reusable:
        cache[key] = recovery  # type: ignore[index]
    return recovery


def _columns(recovery: Recovery | None, method: Method, degraded: Degraded, images: Tensor) -> Columns:
    count = len(images)
    columns: Columns = {"claims": np.full(count, claims(method))}
    if recovery is None:
        return columns | {one.name: np.full(count, one.failed) for one in QUANTITIES}
    score = _numpy(recovery.score).astype(np.float64)
    measured = {name: _numpy(metric(recovery, images, degraded.mask)) for name, metric in METRICS.items()}
    if not estimates_mask(method):
        measured["mask_accuracy"] = np.full(count, np.nan, dtype=np.float32)
    return {
        **columns,
        **measured,
        "score": score,
        "certified": _numpy(recovery.certified),
        "diverged": np.isinf(score),
        "failed": np.zeros(count, dtype=bool),
        "num_evaluations": _numpy(recovery.num_evaluations),
        "expected_error": _or_nan(recovery.expected_error, count),
        "gain": _or_nan(recovery.gain, count),
    }


def _or_nan(values: Tensor | None, count: int) -> Array:
    return np.full(count, np.nan) if values is None else _numpy(values).astype(np.float64)


def _finite(images: Tensor) -> Tensor:
    # A reconstruction with NaN has no PSNR; infinitely wrong is the honest reading.
    return torch.nan_to_num(images, nan=1e6, posinf=1e6, neginf=-1e6)


def _save(saved: dict[str, list[Array]], key: str, array: Array) -> None:
    saved.setdefault(key, []).append(array)


def _save_recovery(
    saved: dict[str, list[Array]],
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
    _save(saved, f"{prefix}/image", _numpy(image)[keep])
    _save(saved, f"{prefix}/mask", _numpy(mask)[keep])
    if trace is not None:
        _save_trace(saved, prefix, trace, record_at, keep)


def _save_trace(
    saved: dict[str, list[Array]], prefix: str, trace: Trace, record_at: Sequence[int], keep: "np.ndarray[Any, Any]"
) -> None:
    """Keep what was recorded, image by image; where all had converged before, their last state stands for the rest."""
    wanted = sorted(set(record_at) | {trace.iterations[0]})
    steps = [max(row for row, step in enumerate(trace.iterations) if step <= asked) for asked in wanted]
    _save(saved, f"{prefix}/trace_iterations", np.tile(np.asarray(wanted, dtype=np.int64), (len(keep), 1)))
    for name, values in (("trace_image", trace.image), ("trace_mask", trace.mask)):
        _save(saved, f"{prefix}/{name}", _numpy(values[steps].transpose(0, 1))[keep])


def _numpy(tensor: Tensor) -> Array:
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = tensor.detach().cpu().numpy()
    return array

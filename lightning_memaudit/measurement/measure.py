"""Degrade, recover, measure: one block of images at a time, one column of numbers per quantity.

This is the only place where the ground truth meets a recovery.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.measurement.baselines import baseline_psnr
from lightning_memaudit.measurement.beside import inpainting_beside
from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.measurement.groups import Block, ConditionalAutoencoder, Group
from lightning_memaudit.measurement.metrics import APPEARANCE, METRICS, psnr
from lightning_memaudit.measurement.own_output import in_other_batches, output_sums
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.measurement.together import Found, Timed, pattern_batches, recover_together
from lightning_memaudit.recovery import Autoencoder, Recovery, Trace
from lightning_memaudit.recovery.batches import per_image_mean
from lightning_memaudit.recovery.methods.registry import (
    Method,
    claims,
    estimates_mask,
    uses_autoencoder,
)
from lightning_memaudit.results.cells import Array, Cell, Columns, Measurement, join_recoveries
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.own_output import OutputSums
from lightning_memaudit.results.quantities import QUANTITIES

Progress = Callable[[str, int], None]
"""Called with what was just done and the number of images it did."""


CacheKey = tuple[str, str, str, int, int]
"""Group, pattern, method, the block's first row and its size."""


@dataclass
class InpaintingCache:
    """What does not depend on the autoencoder: kept for the next audit of the same images.

    Attributes:
        recoveries: Of methods that do not call it.
        baselines: PSNR (n,) over the missing pixels of the best filling without the autoencoder.

    >>> InpaintingCache().recoveries
    {}
    """

    recoveries: dict[CacheKey, Recovery] = field(default_factory=dict)
    baselines: dict[CacheKey, Array] = field(default_factory=dict)


def measure(
    autoencoder: Autoencoder | ConditionalAutoencoder,
    group: Group,
    plan: Plan,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """:func:`measure_groups` of one group."""
    return measure_groups(autoencoder, [group], plan, cache, progress)[0]


@torch.no_grad()
def measure_groups(
    autoencoder: Autoencoder | ConditionalAutoencoder,
    groups: Sequence[Group],
    plan: Plan,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Run every pattern and method on groups of images, a block of each at a time.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape, in [0, 1]; for groups with conditions, what gives one
            for each of them.
        groups: The images. An empty group gives cells with empty columns.
        plan: Patterns, methods and settings.
        cache: Keeps what does not depend on the autoencoder for the next audit of the same images.
        progress: Told after every block, pattern and method.

    Returns:
        What was measured of each group.

    Raises:
        Exception: That of a method that fails, where ``plan.raise_errors``; else it becomes a warning, and the images
            of its block count as failed.
    """
    gathered = [_Gathered(group) for group in groups]
    for together in _blocks_together(autoencoder, groups, plan.block_size):
        pieces = [_Piece.of(gathered[number], block, plan) for number, block in together]
        largest = max((piece.block.images for piece in pieces), key=len)
        number = sum(len(piece.block.images) for piece in pieces)
        for patterns in pattern_batches(plan.patterns, largest, number):
            tasks = [_Task.of(piece, pattern, plan) for piece in pieces for pattern in patterns]
            _recover_all(tasks, plan, cache, progress)
            for task in tasks:
                task.finish(plan, cache)
    return [one.measurement() for one in gathered]


def _blocks_together(
    autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], block_size: int
) -> Iterator[list[tuple[int, Block]]]:
    """Blocks that one autoencoder recovers, each with the number of its group: one of every group where that is so."""
    blocks = [group.blocks(autoencoder, block_size) for group in groups]
    if any(group.conditions is not None for group in groups):
        yield from ([(number, block)] for number, one in enumerate(blocks) for block in one)
        return
    for together in itertools.zip_longest(*blocks):
        yield [(number, block) for number, block in enumerate(together) if block is not None]


@dataclass
class _Gathered:
    """What was measured of a group so far."""

    group: Group
    parts: dict[tuple[str, str], list[Cell]] = field(default_factory=dict)
    saved: dict[str, list[Array]] = field(default_factory=dict)
    error_sum: float = 0.0
    outputs: list[OutputSums] = field(default_factory=list)

    def measurement(self) -> Measurement:
        return Measurement(
            [Cell.join(blocks) for blocks in self.parts.values()],
            join_recoveries(self.saved),
            self.error_sum,
            len(self.group.images),
            OutputSums.join(self.outputs),
        )


class _Piece(NamedTuple):
    """A block of a group, its columns that owe nothing to a method, and which of its images are kept."""

    gathered: _Gathered
    block: Block
    positions: Array
    columns: Columns
    keep: Array

    @classmethod
    def of(cls, gathered: _Gathered, block: Block, plan: Plan) -> "_Piece":
        group, images, saved = gathered.group, block.images, gathered.saved
        positions = np.asarray([group.positions[row] for row in block.rows], dtype=np.int64)
        indices = np.asarray([group.indices[row] for row in block.rows], dtype=np.int64)
        names = np.asarray(group.labels(block.rows), dtype=np.object_)
        keep = np.flatnonzero(positions < plan.save_recoveries)
        reconstruction_psnr: Array = np.zeros(0)
        appearance = {name: _numpy(metric(images)) for name, metric in APPEARANCE.items()}
        if len(images):
            output = block.autoencoder(images)
            reconstruction_psnr = _numpy(psnr(_finite(output), images))
            gathered.error_sum += float(per_image_mean((output - images).double().square()).sum())
            if group.name == "members":
                gathered.outputs += [output_sums(output, images), in_other_batches(block.autoencoder, images, output)]
        if len(keep):
            _save(saved, f"{group.name}/indices", indices[keep])
            _save(saved, f"{group.name}/names", names[keep].astype(np.str_))
            _save(saved, f"{group.name}/positions", positions[keep])
            _save(saved, f"{group.name}/truth", _numpy(images)[keep])
        columns = {
            "position": positions,
            "image": indices,
            "name": names,
            "reconstruction_psnr": reconstruction_psnr,
            "repeated": np.zeros(len(images), dtype=bool),
            **appearance,
        }
        return cls(gathered, block, positions, columns, keep)


class _Task(NamedTuple):
    """A block behind one pattern, and what the methods found so far."""

    piece: _Piece
    pattern: str
    methods: Sequence[str]
    degraded: Degraded
    found: dict[str, Timed | None]

    @classmethod
    def of(cls, piece: _Piece, pattern: Degradation, plan: Plan) -> "_Task":
        # Seeded by position: the i-th member and the i-th control get the same mask, and can be compared as a pair.
        degraded = pattern(piece.block.images, piece.positions.tolist(), plan.seed)
        return cls(piece, pattern.name, list(plan.methods_for(pattern)), degraded, {})

    def key(self, method: str) -> CacheKey:
        block = self.piece.block
        begin = block.rows[0] if len(block.images) else 0
        return self.piece.gathered.group.name, self.pattern, method, begin, len(block.images)

    def finish(self, plan: Plan, cache: InpaintingCache | None) -> None:
        """Measure what was found, against the truth, and add it to what was gathered."""
        gathered, block, _, columns, keep = self.piece
        images, saved, prefix = block.images, gathered.saved, f"{gathered.group.name}/{self.pattern}"
        if len(keep):
            _save(saved, f"{prefix}/observed", _numpy(self.degraded.observed)[keep])
            _save(saved, f"{prefix}/mask", _numpy(self.degraded.mask)[keep].astype(np.uint8))
        cells: list[Cell] = []
        for name, result in self.found.items():
            recovery = None if result is None else result.recovery
            mine = {**_columns(recovery, plan.methods[name], self.degraded, images), **columns}
            seconds = 0.0 if result is None else result.seconds
            cells.append(Cell(gathered.group.name, self.pattern, name, mine, seconds))
            gathered.parts.setdefault((self.pattern, name), []).append(cells[-1])
            if len(keep):
                record_at = getattr(plan.methods[name], "record_at", ())
                _save_recovery(saved, f"{prefix}/{name}", recovery, images, record_at, keep)
        inpainting = self.found.get(INPAINTER)
        inpainted = None if inpainting is None else inpainting.recovery
        best = _baseline(plan, cells, self.degraded, images, inpainted, self.key(plan.primary), cache)
        for cell in cells:
            cell.columns["baseline_psnr"] = best
            hidden = cell.columns["hidden_psnr"].astype(np.float64)
            cell.columns["recovery_gain"] = hidden - best.astype(np.float64)


def _recover_all(tasks: Sequence[_Task], plan: Plan, cache: InpaintingCache | None, progress: Progress | None) -> None:
    """Every method on every task that it is for; all tasks have one autoencoder."""
    kept = {} if cache is None else cache.recoveries
    missing = [task for task in tasks if INPAINTER in task.methods and task.key(INPAINTER) not in kept]
    with inpainting_beside(plan.methods, [task.degraded for task in missing]) as methods:
        for name, method in methods.items():
            mine = [task for task in tasks if name in task.methods]
            some = [task for task in mine if len(task.degraded.observed)]
            earlier = [_recoveries(task.found, plan) for task in some]
            degraded, keys = [task.degraded for task in some], [task.key(name) for task in some]
            for task in mine:
                task.found[name] = None
            autoencoder = tasks[0].piece.block.autoencoder
            results = _recover(autoencoder, method, degraded, keys, cache, plan.raise_errors, earlier)
            for task, result in zip(some, results, strict=True):
                task.found[name] = result
            if progress is not None:
                for task in mine:
                    group = task.piece.gathered.group.name
                    progress(f"{group} · {task.pattern} · {name}", len(task.degraded.observed))


def _recoveries(found: Mapping[str, Timed | None], plan: Plan) -> list[Found]:
    return [(plan.methods[name], result.recovery) for name, result in found.items() if result is not None]


def _recover(
    autoencoder: Autoencoder,
    method: Method,
    degraded: Sequence[Degraded],
    keys: Sequence[CacheKey],
    cache: InpaintingCache | None,
    raise_errors: bool,
    earlier: Sequence[Sequence[Found]],
) -> Sequence[Timed | None]:
    """One result for each of several sets of observations, all of at least one image; None where the method failed."""
    if not degraded:
        return []
    reusable = None if cache is None or uses_autoencoder(method) else cache.recoveries
    if reusable is not None and all(key in reusable for key in keys):
        return [Timed(reusable[key], 0.0) for key in keys]
    try:
        found = recover_together(method, autoencoder, degraded, earlier)
    except Exception as error:
        if raise_errors or isinstance(error, AuditStopped):
            raise
        reason = f"{type(error).__name__}: {error}"
        if len(degraded) > 1:  # it may fail on one pattern or group where it does not on another
            names = "; ".join(f"{key[0]}, {key[1]}" for key in keys)
            warnings.warn(f"{keys[0][2]} failed on {names} together, now tried one by one: {reason}", stacklevel=3)
            rows = zip(degraded, keys, earlier, strict=True)
            parts = [_recover(autoencoder, method, [one], [key], cache, False, [before]) for one, key, before in rows]
            return [result for (result,) in parts]
        key = keys[0]
        warnings.warn(f"{key[2]} failed on {key[0]}, {key[1]}: {reason}", stacklevel=3)
        return [None]
    if reusable is not None:
        reusable.update({key: result.recovery for key, result in zip(keys, found, strict=True)})
    return found


def _baseline(
    plan: Plan,
    cells: Sequence[Cell],
    degraded: Degraded,
    images: Tensor,
    inpainted: Recovery | None,
    key: CacheKey,
    cache: InpaintingCache | None,
) -> Array:
    """The best PSNR over the missing pixels that takes no autoencoder, (n,); NaN where it is not known."""
    nothing: Array = np.full(len(images), np.nan)
    names = [cell.method for cell in cells if not cell.columns["failed"].all()]
    # Without one of the baselines the gain would be too large: where the inpainter failed, nothing is said.
    inpainter_failed = inpainted is None and any(cell.method == INPAINTER for cell in cells)
    if plan.primary not in names or inpainter_failed:
        return nothing
    if cache is not None and key in cache.baselines:
        return cache.baselines[key]
    try:
        best = _numpy(baseline_psnr(degraded, images, plan.methods[plan.primary], inpainted))
    except (AuditStopped, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a method of one's own may need more of the autoencoder than that it can be called
        warnings.warn(f"no baseline for {key[0]}, {key[1]}: {type(error).__name__}: {error}", stacklevel=3)
        return nothing
    if cache is not None:
        cache.baselines[key] = best
    return best


def _columns(recovery: Recovery | None, method: Method, degraded: Degraded, images: Tensor) -> Columns:
    count = len(images)
    columns: Columns = {"claims": np.full(count, claims(method))}
    if recovery is None:
        columns["gradients_used"] = np.full(count, np.nan)
        return columns | {one.name: np.full(count, one.failed) for one in QUANTITIES}
    score = _numpy(recovery.score).astype(np.float64)
    measured = {name: _numpy(metric(recovery, images, degraded.mask)) for name, metric in METRICS.items()}
    if not estimates_mask(method):
        measured["mask_accuracy"] = np.full(count, np.nan, dtype=np.float32)
    return {
        **columns,
        **measured,
        "gradients_used": np.full(count, np.nan if recovery.gradients_used is None else float(recovery.gradients_used)),
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

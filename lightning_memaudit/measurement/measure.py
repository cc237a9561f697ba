"""Degrade, recover, measure: one block of images at a time, one column of numbers per quantity.

This is the only place where the ground truth meets a recovery.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.measurement.appearance import APPEARANCE
from lightning_memaudit.measurement.baselines import baseline_psnr
from lightning_memaudit.measurement.beside import inpainting_beside
from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.measurement.groups import Block, ConditionalAutoencoder, Group
from lightning_memaudit.measurement.inpainting_cache import CacheKey, InpaintingCache
from lightning_memaudit.measurement.metrics import METRICS, psnr
from lightning_memaudit.measurement.own_output import in_other_batches, output_sums
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.measurement.saved_recoveries import recovery_as_kept, save_recovery, to_numpy
from lightning_memaudit.measurement.together import Observations, Timed, pattern_batches, recover_together
from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.batches import per_image_mean
from lightning_memaudit.recovery.methods.registry import (
    Method,
    claims,
    estimates_mask,
    uses_autoencoder,
)
from lightning_memaudit.recovery.usual_output import AnswersImages, may_answer
from lightning_memaudit.results.cells import Array, Cell, Columns, Measurement, join_recoveries
from lightning_memaudit.results.kept_blocks import BlockParts, KeptBlocks
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.own_output import OutputSums
from lightning_memaudit.results.quantities import QUANTITIES

Progress = Callable[[str, int], None]
"""Called with what was just done and the number of images it did."""


_Together = list[tuple[int, Block]]
"""Blocks of several groups, each with the number of its group, that one autoencoder recovers together."""


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
    kept: KeptBlocks | None = None,
) -> list[Measurement]:
    """Run every pattern and method on groups of images, a block of each at a time.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape, in [0, 1]; for groups with conditions, what gives one
            for each of them.
        groups: The images. An empty group gives cells with empty columns.
        plan: Patterns, methods and settings.
        cache: Keeps what does not depend on the autoencoder for the next audit of the same images.
        progress: Told after every block, pattern and method.
        kept: Blocks that were measured before the audit was interrupted; what is measured now joins them.

    Returns:
        What was measured of each group.

    Raises:
        Exception: That of a method that fails, where ``plan.raise_errors``; else it becomes a warning, and the images
            of its block count as failed.
    """
    blocks: list[list[BlockParts]] = [[] for _ in groups]
    for number, (together, is_last) in enumerate(_with_last(_blocks_together(autoencoder, groups, plan.block_size))):
        parts = None if kept is None else kept.load(number)
        if parts is None:
            parts = _measure_block(groups, together, plan, cache, progress)
            if kept is not None and not is_last:  # of the last nothing would be left to do
                kept.save(number, parts)
        elif progress is not None:
            for which, block in together:
                progress(f"{groups[which].name} · measured before", len(block.images) * len(plan.cells))
        for (which, _), part in zip(together, parts, strict=True):
            blocks[which].append(part)
    return [_joined(group, mine) for group, mine in zip(groups, blocks, strict=True)]


def _measure_block(
    groups: Sequence[Group],
    together: Sequence[tuple[int, Block]],
    plan: Plan,
    cache: InpaintingCache | None,
    progress: Progress | None,
) -> list[BlockParts]:
    """Every pattern and method on blocks that one autoencoder recovers, each with the number of its group."""
    pieces = [_Piece.of(groups[which], block, plan) for which, block in together]
    largest = max((piece.block.images for piece in pieces), key=len)
    number = sum(len(piece.block.images) for piece in pieces)
    for patterns in pattern_batches(plan.patterns, largest, number):
        tasks = [_Task.of(piece, pattern, plan) for piece in pieces for pattern in patterns]
        _recover_all(tasks, plan, cache, progress)
        for task in tasks:
            task.finish(plan, cache)
    return [piece.parts for piece in pieces]


def _joined(group: Group, blocks: Sequence[BlockParts]) -> Measurement:
    cells: dict[tuple[str, str], list[Cell]] = {}
    saved: dict[str, list[Array]] = {}
    for block in blocks:
        for cell in block.cells:
            cells.setdefault((cell.pattern, cell.method), []).append(cell)
        for key, array in block.saved.items():
            saved.setdefault(key, []).append(array)
    return Measurement(
        [Cell.join(same) for same in cells.values()],
        join_recoveries(saved),
        sum(block.error_sum for block in blocks),
        len(group.images),
        OutputSums.join([one for block in blocks for one in block.outputs]),
    )


def _with_last(blocks: Iterator[_Together]) -> Iterator[tuple[_Together, bool]]:
    """Each of them, with whether it is the last."""
    before = next(blocks, None)
    while before is not None:
        after = next(blocks, None)
        yield before, after is None
        before = after


def _blocks_together(
    autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], block_size: int
) -> Iterator[_Together]:
    """Blocks that one autoencoder recovers, each with the number of its group: one of every group where that is so."""
    blocks = [group.blocks(autoencoder, block_size) for group in groups]
    if any(group.conditions is not None for group in groups):
        yield from ([(number, block)] for number, one in enumerate(blocks) for block in one)
        return
    for together in itertools.zip_longest(*blocks):
        yield [(number, block) for number, block in enumerate(together) if block is not None]


class _Piece(NamedTuple):
    """A block of a group, its columns that owe nothing to a method, which images are kept, whether f may answer any."""

    group: Group
    block: Block
    parts: BlockParts
    positions: Array
    columns: Columns
    keep: Array
    answers: bool

    @classmethod
    def of(cls, group: Group, block: Block, plan: Plan) -> "_Piece":
        images, parts = block.images, BlockParts()
        positions = np.asarray([group.positions[row] for row in block.rows], dtype=np.int64)
        indices = np.asarray([group.indices[row] for row in block.rows], dtype=np.int64)
        names = np.asarray(group.labels(block.rows), dtype=np.object_)
        keep = np.flatnonzero(positions < plan.save_recoveries)
        reconstruction_psnr: Array = np.zeros(0)
        appearance = {name: to_numpy(metric(images)) for name, metric in APPEARANCE.items()}
        answers = False
        if len(images):
            output = block.autoencoder(images)
            reconstruction_psnr = to_numpy(psnr(_finite(output), images))
            parts.error_sum = float(per_image_mean((output - images).double().square()).sum())
            answers = may_answer(output, images)
            if group.name == "members":
                parts.outputs = [output_sums(output, images), in_other_batches(block.autoencoder, images, output)]
        if len(keep):
            parts.saved = {
                f"{group.name}/indices": indices[keep],
                f"{group.name}/names": names[keep].astype(np.str_),
                f"{group.name}/positions": positions[keep],
                f"{group.name}/truth": to_numpy(images)[keep],
            }
        columns = {
            "position": positions,
            "image": indices,
            "name": names,
            "reconstruction_psnr": reconstruction_psnr,
            "repeated": np.isin(positions, group.repeated),
            **appearance,
        }
        return cls(group, block, parts, positions, columns, keep, answers)


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
        return self.piece.group.name, self.pattern, method, begin, len(block.images)

    def observations(self, plan: Plan) -> Observations:
        """For the next method."""
        group, columns = self.piece.group, self.piece.columns
        controls = torch.from_numpy(np.logical_not(columns["repeated"])) & (group.name == "controls")
        earlier = [(plan.methods[name], one.recovery) for name, one in self.found.items() if one is not None]
        return Observations(self.pattern, self.degraded, controls, earlier)

    def finish(self, plan: Plan, cache: InpaintingCache | None) -> None:
        """Measure what was found, against the truth, and add it to what was gathered."""
        group, block, parts, _, columns, keep, _ = self.piece
        images, saved, prefix = block.images, parts.saved, f"{group.name}/{self.pattern}"
        if len(keep):
            saved[f"{prefix}/observed"] = to_numpy(self.degraded.observed)[keep]
            saved[f"{prefix}/mask"] = to_numpy(self.degraded.mask)[keep].astype(np.uint8)
        cells: list[Cell] = []
        for name, result in self.found.items():
            recovery = None if result is None else recovery_as_kept(result.recovery)
            mine = {**_columns(recovery, plan.methods[name], self.degraded, images), **columns}
            seconds = 0.0 if result is None else result.seconds
            cells.append(Cell(group.name, self.pattern, name, mine, seconds))
            if len(keep):
                record_at = getattr(plan.methods[name], "record_at", ())
                save_recovery(saved, f"{prefix}/{name}", recovery, images, record_at, keep)
        inpainting = self.found.get(INPAINTER)
        inpainted = None if inpainting is None else inpainting.recovery
        best = _baseline(plan, cells, self.degraded, images, inpainted, self.key(plan.primary), cache)
        for cell in cells:
            cell.columns["baseline_psnr"] = best
            hidden = cell.columns["hidden_psnr"].astype(np.float64)
            cell.columns["recovery_gain"] = hidden - best.astype(np.float64)
        parts.cells += cells


def _recover_all(tasks: Sequence[_Task], plan: Plan, cache: InpaintingCache | None, progress: Progress | None) -> None:
    """Every method on every task that it is for; all tasks have one autoencoder."""
    kept = {} if cache is None else cache.recoveries
    missing = [task for task in tasks if INPAINTER in task.methods and task.key(INPAINTER) not in kept]
    with inpainting_beside(plan.methods, [task.degraded for task in missing]) as methods:
        for name, method in methods.items():
            mine = [task for task in tasks if name in task.methods]
            some = [task for task in mine if len(task.degraded.observed)]
            sets, keys = [task.observations(plan) for task in some], [task.key(name) for task in some]
            for task in mine:
                task.found[name] = None
            autoencoder = tasks[0].piece.block.autoencoder
            if any(task.piece.answers for task in tasks):
                autoencoder = AnswersImages(autoencoder)
            results = _recover(autoencoder, method, sets, keys, cache, plan.raise_errors)
            for task, result in zip(some, results, strict=True):
                task.found[name] = result
            if progress is not None:
                for task in mine:
                    progress(f"{task.piece.group.name} · {task.pattern} · {name}", len(task.degraded.observed))


def _recover(
    autoencoder: Autoencoder,
    method: Method,
    sets: Sequence[Observations],
    keys: Sequence[CacheKey],
    cache: InpaintingCache | None,
    raise_errors: bool,
) -> Sequence[Timed | None]:
    """One result for each of several sets of observations, all of at least one image; None where the method failed."""
    if not sets:
        return []
    reusable = None if cache is None or uses_autoencoder(method) else cache.recoveries
    if reusable is not None and all(key in reusable for key in keys):
        return [Timed(reusable[key], 0.0) for key in keys]
    try:
        found = recover_together(method, autoencoder, sets)
    except Exception as error:
        if raise_errors or isinstance(error, AuditStopped):
            raise
        reason = f"{type(error).__name__}: {error}"
        if len(sets) > 1:  # it may fail on one pattern or group where it does not on another
            names = "; ".join(f"{key[0]}, {key[1]}" for key in keys)
            warnings.warn(f"{keys[0][2]} failed on {names} together, now tried one by one: {reason}", stacklevel=3)
            rows = zip(sets, keys, strict=True)
            parts = [_recover(autoencoder, method, [one], [key], cache, False) for one, key in rows]
            return [result for (result,) in parts]
        key = keys[0]
        warnings.warn(f"{key[2]} failed on {key[0]}, {key[1]}: {reason}", stacklevel=3)
        return [None]
    if cache is not None and reusable is not None:
        cache.keep({key: result.recovery for key, result in zip(keys, found, strict=True)})
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
        best = to_numpy(baseline_psnr(degraded, images, plan.methods[plan.primary], inpainted))
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
    score = to_numpy(recovery.score).astype(np.float64)
    measured = {name: to_numpy(metric(recovery, images, degraded.mask)) for name, metric in METRICS.items()}
    if not estimates_mask(method):
        measured["mask_accuracy"] = np.full(count, np.nan, dtype=np.float32)
    return {
        **columns,
        **measured,
        "gradients_used": np.full(count, np.nan if recovery.gradients_used is None else float(recovery.gradients_used)),
        "score": score,
        "certified": to_numpy(recovery.certified),
        "diverged": np.isinf(score),
        "failed": np.zeros(count, dtype=bool),
        "num_evaluations": to_numpy(recovery.num_evaluations),
        "expected_error": _or_nan(recovery.expected_error, count),
        "gain": _or_nan(recovery.gain, count),
    }


def _or_nan(values: Tensor | None, count: int) -> Array:
    return np.full(count, np.nan) if values is None else to_numpy(values).astype(np.float64)


def _finite(images: Tensor) -> Tensor:
    # A reconstruction with NaN has no PSNR; infinitely wrong is the honest reading.
    return torch.nan_to_num(images, nan=1e6, posinf=1e6, neginf=-1e6)

"""Degrade, recover, measure: one block of images at a time, one column of numbers per quantity.

This is the only place where the ground truth meets a recovery.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.audit.degradations import Degradation, Degraded
from lightning_memaudit.audit.methods import Method, claims, estimates_mask, needs_mask, uses_autoencoder
from lightning_memaudit.audit.metrics import hidden_psnr, mask_accuracy, psnr, ssim
from lightning_memaudit.audit.processes import AuditStopped
from lightning_memaudit.recovery import Autoencoder, Recovery, Trace
from lightning_memaudit.recovery.checks import check_images

Columns = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]


class ImageSource(Protocol):
    """Images (n, C, H, W) in [0, 1] that can be sliced; a tensor is one, a lazy data set another."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """The images of a slice, (k, C, H, W)."""
        ...


@dataclass(frozen=True)
class Group:
    """Images to audit: ``members`` were trained on, ``controls`` were not.

    Attributes:
        name: ``members`` or ``controls``.
        images: The images in [0, 1].
        indices: Index of each image within its data set.
        positions: Position of each image within the whole group, of which this process may hold only a part. It
            seeds the mask, so that the i-th member and the i-th control are degraded alike.
    """

    name: str
    images: ImageSource
    indices: Sequence[int]
    positions: Sequence[int]

    @classmethod
    def whole(cls, name: str, images: ImageSource) -> "Group":
        """A group that this process holds entirely, indexed 0, 1, 2, ..."""
        return cls(name, images, range(len(images)), range(len(images)))


def check_values(name: str, images: Tensor) -> None:
    """Raise unless ``images`` is a finite batch (B, C, H, W) in [0, 1]; the message says how to bring it there.

    Raises:
        ValueError: It is not.
    """
    check_images(name, images)
    if not len(images):
        return
    low, high = float(images.min()), float(images.max())
    if low >= -1e-4 and high <= 1 + 1e-4:
        return
    mend = "pass images in [0, 1], or mean and std to undo their normalization"
    if -1 - 1e-4 <= low < 0 and high <= 1 + 1e-4:
        mend += "; mean=[0.5], std=[0.5] if they are in [-1, 1]"
    elif low >= 0 and 2 < high <= 255:
        mend += "; std=[0.00392157] if they go up to 255"
    raise ValueError(f"{name} has values in [{low:.4g}, {high:.4g}]: {mend}")


@dataclass
class Cell:
    """What was measured for one group, pattern and method: equally long columns, one entry per image."""

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


@dataclass
class Measurement:
    """All cells of an audit, and the recoveries of the first images of each group.

    Attributes:
        cells: One per group, pattern and method.
        recoveries: Arrays by the names of the results file (``members/truth``, ``members/<pattern>/observed``, ...).
    """

    cells: list[Cell] = field(default_factory=list)
    recoveries: Columns = field(default_factory=dict)


Progress = Callable[[str, int], None]
"""Called with what was just done and the number of images it did."""


@dataclass(frozen=True)
class Plan:
    """What an audit does to every group.

    Attributes:
        patterns: Degradations, in order.
        methods: Methods by name, in order.
        seed: Seeds the masks, together with pattern and image index.
        block_size: Images that are degraded and recovered together; bounds the memory.
        save_recoveries: Images per group whose recoveries are kept.
        raise_errors: Raise when a method fails on a block, instead of counting its images as failed.
    """

    patterns: Sequence[Degradation]
    methods: Mapping[str, Method]
    seed: int = 0
    block_size: int = 512
    save_recoveries: int = 64
    raise_errors: bool = True

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("patterns=[]: name at least one, such as random-0.5")
        names = [pattern.name for pattern in self.patterns]
        if len(set(names)) < len(names):
            raise ValueError(f"patterns={names}: name each only once")
        if self.block_size < 1:
            raise ValueError(f"block_size={self.block_size}: must be at least 1")


InpaintingCache = dict[tuple[str, str, str, int], Recovery]
"""Recoveries that do not depend on the autoencoder, by (group, pattern, method, first position of the block)."""


@torch.no_grad()
def measure(
    autoencoder: Autoencoder,
    group: Group,
    plan: Plan,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Run every pattern and method on one group.

    Args:
        autoencoder: f, images (B, C, H, W) to the same shape, in [0, 1].
        group: The images. An empty group gives cells with empty columns.
        plan: Patterns, methods and settings.
        cache: Keeps what does not depend on the autoencoder for the next audit of the same images.
        progress: Told after every block, pattern and method.
    """
    parts: dict[tuple[str, str], list[Cell]] = {}
    saved: dict[str, list[Columns]] = {}
    for block, images in _blocks(group, plan.block_size):
        positions = np.asarray(group.positions[block], dtype=np.int64)
        indices = [int(index) for index in group.indices[block]]
        keep = np.flatnonzero(positions < plan.save_recoveries)
        reconstruction_psnr = _numpy(psnr(_finite(autoencoder(images)), images)) if len(images) else np.zeros(0)
        if len(keep):
            _save(saved, f"{group.name}/indices", np.asarray(indices, dtype=np.int64)[keep])
            _save(saved, f"{group.name}/positions", positions[keep])
            _save(saved, f"{group.name}/truth", _numpy(images)[keep])
        for pattern in plan.patterns:
            # Seeded by position: the i-th member and the i-th control get the same mask, and can be compared as a pair.
            degraded = pattern(images, positions.tolist(), plan.seed)
            prefix = f"{group.name}/{pattern.name}"
            if len(keep):
                _save(saved, f"{prefix}/observed", _numpy(degraded.observed)[keep])
                _save(saved, f"{prefix}/mask", _numpy(degraded.mask)[keep].astype(np.uint8))
            for name, method in plan.methods.items():
                began = time.perf_counter()
                key = (group.name, pattern.name, name, block.start)
                recovery = _recover(autoencoder, method, degraded, key, cache, plan.raise_errors)
                seconds = time.perf_counter() - began
                columns = _columns(recovery, method, degraded, images)
                columns |= {
                    "position": positions,
                    "image": np.asarray(indices, dtype=np.int64),
                    "reconstruction_psnr": reconstruction_psnr,
                }
                cell = Cell(group.name, pattern.name, name, columns, seconds)
                parts.setdefault((pattern.name, name), []).append(cell)
                if len(keep) and recovery is not None:
                    _save(saved, f"{prefix}/{name}/image", _numpy(recovery.image)[keep])
                    _save(saved, f"{prefix}/{name}/mask", _numpy(recovery.mask)[keep])
                    if recovery.trace is not None:
                        _save_trace(saved, f"{prefix}/{name}", recovery.trace, getattr(method, "record_at", ()), keep)
                if progress is not None:
                    progress(f"{group.name} · {pattern.name} · {name}", len(images))
    return Measurement(
        [Cell.join(cells) for cells in parts.values()],
        {key: np.concatenate(arrays) for key, arrays in saved.items()},  # type: ignore[arg-type]
    )


def _blocks(group: Group, block_size: int) -> Iterator[tuple[slice, Tensor]]:
    # At least one block, so that an empty group still yields its (empty) cells.
    for begin in range(0, max(1, len(group.images)), block_size):
        block = slice(begin, min(begin + block_size, len(group.images)))
        yield block, group.images[block]


def _recover(
    autoencoder: Autoencoder,
    method: Method,
    degraded: Degraded,
    key: tuple[str, str, str, int],
    cache: InpaintingCache | None,
    raise_errors: bool,
) -> Recovery | None:
    if not len(degraded.observed):
        return None
    reusable = cache is not None and not uses_autoencoder(method)
    if reusable and key in cache:  # type: ignore[operator]
        return cache[key]  # type: ignore[index]
    try:
        if needs_mask(method):
            recovery = method(autoencoder, degraded.observed, degraded.mask)  # type: ignore[call-arg]
        else:
            recovery = method(autoencoder, degraded.observed)  # type: ignore[call-arg]
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
    if recovery is None:
        missing = np.full(count, np.nan)
        return {
            **dict.fromkeys(("psnr", "hidden_psnr", "ssim", "mask_accuracy", "score"), missing),
            "certified": np.zeros(count, dtype=bool),
            "diverged": np.zeros(count, dtype=bool),
            "failed": np.ones(count, dtype=bool),
            "num_evaluations": np.zeros(count, dtype=np.int64),
            "claims": np.full(count, claims(method)),
            "expected_error": missing,
            "gain": missing,
        }
    score = _numpy(recovery.score).astype(np.float64)
    accuracy = mask_accuracy(recovery.mask, degraded.mask) if estimates_mask(method) else torch.full((count,), np.nan)
    return {
        "psnr": _numpy(psnr(recovery.image, images)),
        "hidden_psnr": _numpy(hidden_psnr(recovery.image, images, degraded.mask)),
        "ssim": _numpy(ssim(recovery.image, images)),
        "mask_accuracy": _numpy(accuracy),
        "score": score,
        "certified": _numpy(recovery.certified),
        "diverged": np.isinf(score),
        "failed": np.zeros(count, dtype=bool),
        "num_evaluations": _numpy(recovery.num_evaluations),
        "claims": np.full(count, claims(method)),
        "expected_error": _or_nan(recovery.expected_error, count),
        "gain": _or_nan(recovery.gain, count),
    }


def _or_nan(values: Tensor | None, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    return np.full(count, np.nan) if values is None else _numpy(values).astype(np.float64)


def _finite(images: Tensor) -> Tensor:
    # A reconstruction with NaN has no PSNR; infinitely wrong is the honest reading.
    return torch.nan_to_num(images, nan=1e6, posinf=1e6, neginf=-1e6)


def _save(saved: dict[str, list[Columns]], key: str, array: object) -> None:
    saved.setdefault(key, []).append(array)  # type: ignore[arg-type]


def _save_trace(
    saved: dict[str, list[Columns]], prefix: str, trace: Trace, record_at: Sequence[int], keep: "np.ndarray[Any, Any]"
) -> None:
    """Keep what was recorded, image by image; where all had converged before, their last state stands for the rest."""
    wanted = sorted(set(record_at) | {trace.iterations[0]})
    steps = [max(row for row, step in enumerate(trace.iterations) if step <= asked) for asked in wanted]
    _save(saved, f"{prefix}/trace_iterations", np.tile(np.asarray(wanted, dtype=np.int64), (len(keep), 1)))
    for name, values in (("trace_image", trace.image), ("trace_mask", trace.mask)):
        _save(saved, f"{prefix}/{name}", _numpy(values[steps].transpose(0, 1))[keep])


def _numpy(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = tensor.detach().cpu().numpy()
    return array

"""The audit: members and controls × patterns × methods, measured and summed up. Callback and CLI run this engine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from lightning_memaudit.audit.certificates import certify_from_controls, leave_certificates_to_controls
from lightning_memaudit.audit.degradations import parse_degradation
from lightning_memaudit.audit.fingerprints import tensors_sha256
from lightning_memaudit.audit.measure import (
    Cell,
    Columns,
    Group,
    ImageSource,
    InpaintingCache,
    Measurement,
    Plan,
    Progress,
    check_values,
    measure,
)
from lightning_memaudit.audit.methods import Methods, primary_method, resolve_methods
from lightning_memaudit.audit.processes import AuditStopped, Processes
from lightning_memaudit.audit.results import RunFolder
from lightning_memaudit.audit.summary import Occasion, Row, audit_rows, headline, image_rows
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.admm import per_image_mean

DEFAULT_PATTERNS = ("random-0.5", "block-0.25")
DEFAULT_METHODS = ("blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic")


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        rows: One per group, pattern and method, as in ``audits.jsonl``.
        cells: The measurements behind them, per image.
        headline: The few numbers that loggers get.
        recoveries: Arrays of the first images of each group, as in ``recoveries/*.npz``.
        occasion: When and why the audit ran.
        threshold_db: PSNR at which an image counts as recovered.
    """

    rows: list[Row]
    cells: list[Cell]
    headline: dict[str, float]
    recoveries: Columns
    occasion: Occasion
    threshold_db: float

    @property
    def images(self) -> list[Row]:
        """One row per group, image, pattern and method, as in ``images.jsonl``."""
        return list(image_rows(self.cells, self.occasion, self.threshold_db))

    @property
    def primary(self) -> str:
        """The audited method: the one that the headline speaks of."""
        return primary_method([cell.method for cell in self.cells])

    def rate(self, method: str, pattern: str, group: str = "members") -> float:
        """The recovery rate of one cell.

        Raises:
            KeyError: There is no such cell.
        """
        for row in self.rows:
            if (row["group"], row["pattern"], row["method"]) == (group, pattern, method):
                return float(row["recovery_rate"])
        raise KeyError(f"no row for group={group!r}, pattern={pattern!r}, method={method!r}")

    def to_json(self, path: str | Path) -> None:
        """Write rows, images and headline as one JSON object."""
        content = {"headline": self.headline, "rows": self.rows, "images": self.images}
        Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def append_to(self, folder: RunFolder) -> None:
        """Append to the results files of a run."""
        folder.append_audit(self.rows, image_rows(self.cells, self.occasion, self.threshold_db), self.recoveries)


def audit(
    autoencoder: Autoencoder,
    members: ImageSource,
    controls: ImageSource | None = None,
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    methods: Methods = DEFAULT_METHODS,
    threshold_db: float = 30.0,
    seed: int = 0,
    block_size: int = 512,
    save_recoveries: int = 64,
    progress: Progress | None = None,
) -> AuditReport:
    """How much of ``members`` can be got back from ``autoencoder``?

    Args:
        autoencoder: f, images (B, C, H, W) to the same shape; put a module in eval mode first.
        members: Images it was trained on: a tensor (n, C, H, W) in [0, 1], or anything that slices into such.
        controls: Images it was not trained on; without them no rate means much.
        patterns: Degradations by name, see :mod:`lightning_memaudit.audit.degradations`.
        methods: Names, or a mapping from names to methods.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the masks.
        block_size: Images that are degraded and recovered together; bounds the memory.
        save_recoveries: Images per group whose recoveries are kept in the report.
        progress: Called with a description and a number of images after every piece of work.

    Raises:
        ValueError: Bad names, shapes, values or sizes; the message names the argument, the value and the mend.
    """
    plan = Plan(
        [parse_degradation(name) for name in patterns],
        resolve_methods(methods),
        seed,
        block_size,
        save_recoveries,
    )
    groups = [Group.whole("members", members)]
    if controls is not None:
        groups.append(Group.whole("controls", controls))
    for group in groups:
        check_group(group, autoencoder)
    weights = tensors_sha256(autoencoder.state_dict()) if isinstance(autoencoder, torch.nn.Module) else None
    occasion = Occasion(0, "audit", None, None, now(), weights)
    return run_audit(autoencoder, groups, plan, occasion, threshold_db, progress=progress)


def run_audit(
    autoencoder: Autoencoder,
    groups: Sequence[Group],
    plan: Plan,
    occasion: Occasion,
    threshold_db: float,
    processes: Processes | None = None,
    cache: InpaintingCache | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Measure every group, join what the processes measured, sum up. Every process returns the same report."""
    processes = processes or Processes()
    lean = leave_certificates_to_controls(plan, groups, processes.num_shares)

    def measure_all() -> list[tuple[float, int, Measurement]]:
        return [
            (
                *(_squared_error(autoencoder, group, plan.block_size) if group.name == "members" else (0.0, 0)),
                measure(autoencoder, group, lean, cache, progress),
            )
            for group in groups
        ]

    cells: list[Cell] = []
    recoveries: Columns = {}
    train_loss = float("nan")
    for group, parts in zip(groups, zip(*processes.share(measure_all), strict=True), strict=True):
        if group.name == "members":
            train_loss = sum(part[0] for part in parts) / max(1, sum(part[1] for part in parts))
        joined = join([measurement for _, _, measurement in parts])
        cells += joined.cells
        recoveries |= joined.recoveries
    calibrations = certify_from_controls(cells, plan)
    rows = audit_rows(cells, occasion, train_loss, threshold_db, calibrations)
    numbers = headline(rows, cells, primary_method(list(plan.methods)))
    return AuditReport(rows, cells, {**numbers, "train_loss": train_loss}, recoveries, occasion, threshold_db)


def join(parts: Sequence[Measurement]) -> Measurement:
    """Join the measurements of one group by several processes, as if one had made it."""
    import numpy as np

    cells = [Cell.join(list(same)) for same in zip(*(part.cells for part in parts), strict=True)]
    keys = list(dict.fromkeys(key for part in parts for key in part.recoveries))
    arrays = {key: np.concatenate([part.recoveries[key] for part in parts if key in part.recoveries]) for key in keys}
    for key in keys:
        if key.endswith("/positions"):
            order = np.argsort(arrays[key], kind="stable")
            group = key.removesuffix("positions")
            for other in keys:
                if other.startswith(group) and len(arrays[other]) == len(order):
                    arrays[other] = arrays[other][order]
    return Measurement(cells, {key: array for key, array in arrays.items() if not key.endswith("/positions")})


@torch.no_grad()
def _squared_error(autoencoder: Autoencoder, group: Group, block_size: int) -> tuple[float, int]:
    """Sum over the images of their mean squared error under f, in double precision, and how many they are."""
    total, count = 0.0, 0
    for begin in range(0, len(group.images), block_size):
        images = group.images[begin : begin + block_size]
        total += float(per_image_mean((autoencoder(images) - images).double().square()).sum())
        count += len(images)
    return total, count


@torch.no_grad()
def check_group(group: Group, autoencoder: Autoencoder, num_images: int = 2) -> Tensor:
    """Check what can be known before an audit with the first images: shapes, range, finite output.

    Returns:
        The autoencoder's output for these images.

    Raises:
        ValueError: Something is off.
    """
    if not len(group.images):
        raise ValueError(f"{group.name} holds no images: pass at least one")
    images = group.images[slice(0, num_images)]
    check_values(group.name, images)
    try:
        output = autoencoder(images)
    except (AuditStopped, ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"the autoencoder fails on {group.name} of shape {tuple(images.shape)} ({reason}): pass reconstruct=<a "
            "method, or a function (module, images)>, or flatten=True if it takes flat images"
        ) from error
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the autoencoder returned {type(output).__name__} for images: pass output=<index, key or attribute> "
            "that selects the reconstruction"
        )
    if output.shape != images.shape:
        raise ValueError(
            f"the autoencoder returned shape {tuple(output.shape)} for images of shape {tuple(images.shape)}: "
            "it must return a reconstruction of the same shape"
        )
    if not bool(output.isfinite().all()):
        raise ValueError(f"the autoencoder returned NaN or infinite values for {group.name}: check its weights")
    return output


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

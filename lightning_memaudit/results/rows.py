"""From per-image measurements to the rows of the results files and the headline numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_memaudit.results.cells import Cell, Flags, is_recovered
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import auroc, clopper_pearson
from lightning_memaudit.results.judgement import Judgement, judge
from lightning_memaudit.results.membership import combine_scores, drop_missing
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.quantities import COUNTS, FLAGS, NUMBERS, QUANTITIES

Row = dict[str, Any]
CERTIFIED_DB = 25.0
"""PSNR in dB that a certificate claims; ``num_certified_true`` counts the certificates for which that is so."""
THRESHOLDS_DB = (20.0, 25.0, 30.0, 35.0)
"""PSNR thresholds at which every rate is reported, beside the main one."""


@dataclass(frozen=True)
class Occasion:
    """When and why an audit ran.

    Attributes:
        audit: Running number within the run.
        trigger: For people: ``train_loss<=0.01``, ``epoch 10``, ``fit_end``, ``audit``.
        epoch: Epochs of training done.
        step: Optimizer steps done.
        time: ISO 8601.
        weights_sha256: Of the audited weights; None where no process holds them whole.

    >>> columns = {one.name: np.array([one.failed]) for one in QUANTITIES} | {"position": np.array([0])}
    >>> occasion = Occasion(audit=3, trigger="epoch 10", epoch=10, step=500, time="2024-05-01T12:00:00+00:00")
    >>> [row] = audit_rows([Cell("members", "half", "blind", columns, seconds=0.5)], occasion, 0.01, 30.0)
    >>> row["audit"], row["trigger"], row["num_images"], row["num_failed"]
    (3, 'epoch 10', 1, 1)
    """

    audit: int
    trigger: str
    epoch: int | None
    step: int | None
    time: str
    weights_sha256: str | None = None


def audit_rows(
    cells: Sequence[Cell],
    occasion: Occasion,
    train_loss: float,
    threshold_db: float,
    certifications: Mapping[tuple[str, str], Row] | None = None,
    doubts: Sequence[Doubt] = (),
) -> list[Row]:
    """One row per group, pattern and method: counts, rates with 95% Clopper-Pearson intervals, means.

    Args:
        cells: All cells of an audit.
        occasion: When and why it ran.
        train_loss: Mean squared error over the audited members.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        certifications: For methods that certify, by pattern and method: how often their certificates are false, or why
            there are none. Goes into their rows as ``certification``.
        doubts: Why what the autoencoder makes of the intact members is no reconstruction; like the train loss, in every
            row, as ``doubts``.
    """
    inpainted = {(cell.group, cell.pattern): cell for cell in cells if cell.method == INPAINTER}
    certifications = certifications or {}
    return [
        {
            **_audit_row(cell, inpainted.get((cell.group, cell.pattern)), occasion, train_loss, threshold_db),
            "certification": certifications.get((cell.pattern, cell.method)),
            "doubts": [doubt._asdict() for doubt in doubts],
        }
        for cell in cells
    ]


def _audit_row(cell: Cell, inpainted: Cell | None, occasion: Occasion, train_loss: float, threshold_db: float) -> Row:
    columns = cell.columns
    recovered = is_recovered(cell, threshold_db)
    count, successes = len(recovered), int(recovered.sum())
    low, high = clopper_pearson(successes, count)
    certified = columns["certified"].astype(bool)
    claims = bool(columns["claims"].any()) if "claims" in columns else bool(certified.any())
    return {
        "audit": occasion.audit,
        "trigger": occasion.trigger,
        "epoch": occasion.epoch,
        "step": occasion.step,
        "time": occasion.time,
        "weights_sha256": occasion.weights_sha256,
        "train_loss": train_loss,
        "group": cell.group,
        "pattern": cell.pattern,
        "method": cell.method,
        "threshold_db": threshold_db,
        "num_images": count,
        "num_recovered": successes,
        "num_certified": int(certified.sum()) if claims else None,
        "num_certified_true": int((certified & is_recovered(cell, CERTIFIED_DB)).sum()) if claims else None,
        "num_certified_recovered": int((certified & recovered).sum()) if claims else None,
        "num_diverged": int(columns["diverged"].sum()),
        "num_failed": int(columns["failed"].sum()),
        "gradients_used": _all_or_none(columns.get("gradients_used")),
        "recovery_rate": successes / count if count else None,
        "ci_low": low,
        "ci_high": high,
        "recovered_by_threshold": {
            str(level): int(is_recovered(cell, level).sum()) for level in sorted({*THRESHOLDS_DB, threshold_db})
        },
        "num_beyond_inpainting": _num_beyond(recovered, inpainted, threshold_db),
        **{
            f"{one.name}_{one.summary}": _SUMMARIES[one.summary](columns[one.name]) for one in QUANTITIES if one.summary
        },
        "seconds": round(cell.seconds, 4),
        "num_evaluations": int(columns["num_evaluations"].sum()),
    }


def _num_beyond(recovered: Flags, inpainted: Cell | None, threshold_db: float) -> int | None:
    """Images recovered where the inpainter answered with another image; None where it answered nowhere."""
    answered = np.zeros(0, dtype=bool) if inpainted is None else ~inpainted.columns["failed"].astype(bool)
    if inpainted is None or not answered.any():
        return None
    return int((recovered & answered & ~is_recovered(inpainted, threshold_db)).sum())


def image_rows(cells: Sequence[Cell], occasion: Occasion, threshold_db: float) -> Iterator[Row]:
    """One row per group, image, pattern and method, made one at a time.

    Args:
        cells: All cells of an audit.
        occasion: When and why it ran.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
    """
    for cell in cells:
        recovered = is_recovered(cell, threshold_db)
        columns = cell.columns
        for position in range(len(recovered)):
            yield {
                "audit": occasion.audit,
                "group": cell.group,
                "image": int(columns["image"][position]),
                "name": str(columns["name"][position] if "name" in columns else columns["image"][position]),
                "position": int(columns["position"][position]),
                "pattern": cell.pattern,
                "method": cell.method,
                **{name: _number(columns[name][position]) for name in NUMBERS if name in columns},
                **{name: bool(columns[name][position]) for name in FLAGS},
                "recovered": bool(recovered[position]),
                **{name: int(columns[name][position]) for name in COUNTS},
            }


def headline(rows: Sequence[Row], cells: Sequence[Cell], primary: str) -> dict[str, float]:
    """The few numbers that loggers and monitors get, named without the ``memaudit/`` prefix.

    ``recovery_rate``, ``certified_rate`` (members) and ``control_recovery_rate`` pool the primary method's cells over
    patterns. ``memorized_rate``, with its ``_low`` and ``_high``, and ``control_memorized_rate`` count images: those
    that came back beyond every baseline, from any pattern, as the report does. ``recovery_gain`` and
    ``control_recovery_gain`` are medians in dB, and ``gain_auroc``, with its ``_low`` and ``_high``, is the chance that
    a member's gain is above a control's; ``membership_auroc``, that it has a lower blind score. Then
    ``<pattern>/<method>/recovery_rate`` for members. What cannot be computed is left out.

    Args:
        rows: All rows of one audit.
        cells: The cells that they were made from.
        primary: The audited method.
    """
    found: dict[str, float | None] = {}
    for group, name in (("members", "recovery_rate"), ("controls", "control_recovery_rate")):
        chosen = [row for row in rows if row["group"] == group and row["method"] == primary]
        total = sum(row["num_images"] for row in chosen)
        if total:
            found[name] = sum(row["num_recovered"] for row in chosen) / total
            if group == "members" and all(row["num_certified"] is not None for row in chosen):
                found["certified_rate"] = sum(row["num_certified"] for row in chosen) / total
    if rows:
        found |= _judged(judge(rows, ImageColumns.of_cells(cells, rows[0]["threshold_db"]), primary))
    scores = {
        group: [cell.columns["score"] for cell in cells if cell.group == group and cell.method == primary]
        for group in ("members", "controls")
    }
    if all(scores.values()):
        members, controls = (drop_missing(combine_scores(parts)) for parts in scores.values())
        if len(members) and len(controls):
            found["membership_auroc"] = auroc(members, controls).value
    for row in rows:
        if row["group"] == "members":
            found[f"{row['pattern']}/{row['method']}/recovery_rate"] = row["recovery_rate"]
    return {name: value for name, value in found.items() if value is not None}


_JUDGED = (
    *("memorized_rate", "memorized_rate_low", "memorized_rate_high", "control_memorized_rate"),
    *("recovery_gain", "control_recovery_gain", "gain_auroc", "gain_auroc_low", "gain_auroc_high"),
)


def _judged(judgement: Judgement) -> dict[str, float | None]:
    """Numbers that count images, as the report does."""
    members, controls, gain = judgement.counted.members, judgement.counted.controls, judgement.gain
    memorized = members.memorized
    area = None if gain is None else gain.overall.auroc
    values = (
        *((None, None, None) if memorized is None else (memorized.rate, memorized.low, memorized.high)),
        None if controls is None or controls.memorized is None else controls.memorized.rate,
        *((None, None) if gain is None else (gain.overall.members, gain.overall.controls)),
        *((None, None, None) if area is None else area),
    )
    return dict(zip(_JUDGED, values, strict=True))


def headline_names(cells: Iterable[tuple[str, str]], extraction: int = 0) -> list[str]:
    """Names that :func:`headline` may give of these patterns and methods, and ``train_loss``: what monitors watch.

    Args:
        cells: Patterns and methods.
        extraction: Starts of which an audit looks for what comes out by itself; ``extracted`` takes some.
    """
    known = list(cells)
    pooled = ["recovery_rate", "control_recovery_rate", "certified_rate", "membership_auroc", "train_loss"]
    # What is memorized takes an inpainter to tell.
    inpainter = any(method == INPAINTER for _, method in known)
    pooled += ["extracted"] * (extraction > 0)
    pooled += [name for name in _JUDGED if inpainter or "memorized" not in name]
    return pooled + [f"{pattern}/{method}/recovery_rate" for pattern, method in known]


def _all_or_none(values: Any) -> bool | None:
    """Whether all of 0 and 1 are 1; None where there are none but NaN."""
    told = [] if values is None else [bool(value) for value in values if not np.isnan(value)]
    return all(told) if told else None


def _mean(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else None


def _median(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


_SUMMARIES = {"mean": _mean, "median": _median}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None

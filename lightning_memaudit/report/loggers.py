"""Send an audit to whatever loggers the run has, by what each can do, not by what it is."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightning_memaudit.report.labels import image_name, printable, saved_names, shortened
from lightning_memaudit.report.selection import displayed
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.quantities import QUANTITIES

IMAGE_TABLE = "image_table"
MAX_TABLE_ROWS = 2000
"""Rows of the table of images; the rest is in ``images.jsonl``."""

MAX_CAPTION = 100
"""Characters of an image's name in its caption."""

RATE_COLUMNS = (
    *("audit", "epoch", "train_loss", "group", "pattern", "method"),
    *("num_images", "num_recovered", "recovery_rate", "ci_low", "ci_high"),
    *(f"{one.name}_{one.summary}" for one in QUANTITIES if "rates" in one.in_tables),
)
_SHOWN = [one for one in QUANTITIES if "images" in one.in_tables]
IMAGE_COLUMNS = (
    *("group", "image", "name", "pattern", "method"),
    *(one.name for one in _SHOWN if one.kind is not bool),
    "recovered",
    *(one.name for one in _SHOWN if one.kind is bool),
)


def log_audit(logger: Any, report: AuditReport, prefix: str, num_images: int) -> None:
    """One row of metrics per audit, holding the rates and the train loss together; tables and images where possible.

    Args:
        logger: Any Lightning logger.
        report: The audit.
        prefix: Metric names are ``<prefix>/<name>``.
        num_images: Recovered images to send per group and pattern; they are training data, so 0 sends none.
    """
    metrics = {f"{prefix}/{name}": value for name, value in report.headline.items()}
    metrics |= {
        f"{prefix}/{row['pattern']}/{row['method']}/control_recovery_rate": row["recovery_rate"]
        for row in report.rows
        # Of the audited method alone: with those of all, the few that matter are lost among the charts.
        if row["group"] == "controls" and row["method"] == report.primary and row["recovery_rate"] is not None
    }
    metrics[f"{prefix}/audit"] = report.occasion.audit
    if report.occasion.epoch is not None:
        metrics[f"{prefix}/epoch"] = report.occasion.epoch
    define_metric = getattr(logger.experiment, "define_metric", None)
    if define_metric is not None:
        # W&B: rates against the train loss, not against the step.
        define_metric(f"{prefix}/train_loss")
        define_metric(f"{prefix}/*", step_metric=f"{prefix}/train_loss")
    log_outcome(logger, report.verdict.outcome, prefix)
    logger.log_metrics(metrics, step=report.occasion.step)
    if hasattr(logger, "log_table"):
        _log_table(logger, f"{prefix}/rates", RATE_COLUMNS, report.rows, report.occasion.step)
        _log_table(logger, f"{prefix}/{IMAGE_TABLE}", IMAGE_COLUMNS, _table_images(report), report.occasion.step)
    if num_images and hasattr(logger, "log_image"):
        _log_images(logger, report, prefix, num_images)


def log_outcome(logger: Any, outcome: str, prefix: str) -> None:
    """The verdict's outcome as ``<prefix>/outcome`` in the run's summary, where a logger has one: it is no number.

    Args:
        logger: Any Lightning logger.
        outcome: As in ``report.json``.
        prefix: Of the metrics.
    """
    update = getattr(getattr(logger.experiment, "summary", None), "update", None)
    if callable(update):
        update({f"{prefix}/outcome": outcome})


def _log_table(logger: Any, key: str, columns: Sequence[str], rows: Sequence[Any], step: int | None) -> None:
    logger.log_table(key, columns=list(columns), data=[[row[name] for name in columns] for row in rows], step=step)


def _table_images(report: AuditReport) -> list[Any]:
    """The images as the audited method recovered them; the other methods are summed up in the rates."""
    images = [row for row in report.images if row["method"] == report.primary][:MAX_TABLE_ROWS]
    return [{**row, "name": printable(image_name(row))} for row in images]


def _log_images(logger: Any, report: AuditReport, prefix: str, num_images: int) -> None:
    for key, images in report.recoveries.items():
        if key.endswith(("/truth", "/observed", "/image")):
            # Bytes: what loggers make of floating point differs, down to black pictures.
            # Without those on which the method failed.
            there = [row for row in range(min(num_images, len(images))) if not np.isnan(images[row]).all()]
            shown = [(255 * displayed(images[row])).round().astype(np.uint8) for row in there]
            if shown:
                group = key.partition("/")[0]
                names = saved_names(report.recoveries, group)
                captions = [f"{group[:-1]} {shortened(names[row], MAX_CAPTION)}" for row in there if row < len(names)]
                options = {"caption": captions} if len(captions) == len(shown) and _takes_captions(logger) else {}
                logger.log_image(f"{prefix}/images/{key}", shown, step=report.occasion.step, **options)


def _takes_captions(logger: Any) -> bool:
    """Whether ``log_image`` has an argument for captions, or passes on what it does not know, as that of W&B does."""
    method: Callable[..., Any] = logger.log_image
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == "caption" or one.kind is one.VAR_KEYWORD for one in parameters)

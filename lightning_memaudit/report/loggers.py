"""Send an audit to whatever loggers the run has, by what each can do, not by what it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_memaudit.report.selection import displayed
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.quantities import QUANTITIES

IMAGE_TABLE = "image_table"
MAX_TABLE_ROWS = 2000
"""Rows of the table of images; the rest is in ``images.jsonl``."""

RATE_COLUMNS = (
    *("audit", "epoch", "train_loss", "group", "pattern", "method"),
    *("num_images", "num_recovered", "recovery_rate", "ci_low", "ci_high"),
    *(f"{one.name}_{one.summary}" for one in QUANTITIES if "rates" in one.in_tables),
)
_SHOWN = [one for one in QUANTITIES if "images" in one.in_tables]
IMAGE_COLUMNS = (
    *("group", "image", "pattern", "method"),
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
    logger.log_metrics(metrics, step=report.occasion.step)
    if hasattr(logger, "log_table"):
        _log_table(logger, f"{prefix}/rates", RATE_COLUMNS, report.rows, report.occasion.step)
        _log_table(logger, f"{prefix}/{IMAGE_TABLE}", IMAGE_COLUMNS, _table_images(report), report.occasion.step)
    if num_images and hasattr(logger, "log_image"):
        _log_images(logger, report, prefix, num_images)


def _log_table(logger: Any, key: str, columns: Sequence[str], rows: Sequence[Any], step: int | None) -> None:
    logger.log_table(key, columns=list(columns), data=[[row[name] for name in columns] for row in rows], step=step)


def _table_images(report: AuditReport) -> list[Any]:
    """The images as the audited method recovered them; the other methods are summed up in the rates."""
    return [row for row in report.images if row["method"] == report.primary][:MAX_TABLE_ROWS]


def _log_images(logger: Any, report: AuditReport, prefix: str, num_images: int) -> None:
    for key, images in report.recoveries.items():
        if key.endswith(("/truth", "/observed", "/image")):
            # Bytes: what loggers make of floating point differs, down to black pictures.
            there = [image for image in images[:num_images] if not np.isnan(image).all()]  # the method failed on others
            shown = [(255 * displayed(image)).round().astype(np.uint8) for image in there]
            if shown:
                logger.log_image(f"{prefix}/images/{key}", shown, step=report.occasion.step)

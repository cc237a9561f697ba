"""The tables of an audit that loggers get: rates, and the images as the audited method recovered them."""

from typing import Any

from lightning_memaudit.report.labels import image_name, printable
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.quantities import QUANTITIES

RATE_TABLE, IMAGE_TABLE = "rates", "image_table"
MAX_TABLE_ROWS = 2000
"""Rows of the table of images; the rest is in ``images.jsonl``."""

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


def tables(report: AuditReport) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Columns and rows of both tables, by their names."""
    content = {RATE_TABLE: (RATE_COLUMNS, report.rows), IMAGE_TABLE: (IMAGE_COLUMNS, _images(report))}
    return {
        name: (list(columns), [[row[column] for column in columns] for row in rows])
        for name, (columns, rows) in content.items()
    }


def _images(report: AuditReport) -> list[Any]:
    """The images as the audited method recovered them; the other methods are summed up in the rates."""
    images = [row for row in report.images if row["method"] == report.primary][:MAX_TABLE_ROWS]
    return [{**row, "name": printable(image_name(row))} for row in images]

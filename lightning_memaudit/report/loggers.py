"""Send an audit to whatever loggers the run has: to W&B as it likes it, to others by what each can do."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np

from lightning_memaudit.report.labels import saved_names, shortened
from lightning_memaudit.report.logged_tables import tables
from lightning_memaudit.report.selection import center_of
from lightning_memaudit.report.views import displayed
from lightning_memaudit.report.wandb_run import WandbRun
from lightning_memaudit.results.audit_report import AuditReport

MAX_CAPTION = 100
"""Characters of an image's name in its caption."""

DEPTH = "memorization_depth"
"""Of the metric that rises as the train loss falls."""

_TOLD: "WeakSet[Any]" = WeakSet()
"""Loggers of which it was said that they take no images."""


def log_audit(
    logger: Any, report: AuditReport, prefix: str, num_images: int, settings: Mapping[str, Any] | None = None
) -> str | None:
    """One row of metrics per audit, holding the rates and the train loss together; tables and images where possible.

    Args:
        logger: Any Lightning logger.
        report: The audit.
        prefix: Metric names are ``<prefix>/<name>``.
        num_images: Recovered images to send per group and pattern; they are training data, so 0 sends none.
        settings: Of the audits, for loggers that compare runs by them.

    Returns:
        What to tell the user, once for every logger: None where there is nothing.
    """
    metrics = audit_metrics(report, prefix)
    run = WandbRun.of(logger, prefix)
    if run is not None:
        run.log(report, metrics, f"{prefix}/{DEPTH}", num_images, settings or {})
        return None
    if _is_mlflow(logger):
        metrics = {_mlflow_name(name): value for name, value in metrics.items()}
    logger.log_metrics(metrics, step=report.occasion.step)
    if hasattr(logger, "log_table"):
        for name, (columns, data) in tables(report).items():
            logger.log_table(f"{prefix}/{name}", columns=columns, data=data, step=report.occasion.step)
    if num_images and not _send_images(logger, shown_images(report, prefix, num_images), report.occasion.step):
        return _told_once(logger, num_images)
    return None


def audit_metrics(report: AuditReport, prefix: str) -> dict[str, float]:
    """What every logger gets of an audit.

    ``memorization_depth`` is minus the decimal logarithm of the train loss; there is none where that is 0 or no number.
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
    loss = report.headline.get("train_loss", math.nan)
    if 0 < loss < math.inf:
        metrics[f"{prefix}/{DEPTH}"] = -math.log10(loss)
    return metrics


class ShownImages(NamedTuple):
    """Pictures of one kind, of one group.

    Attributes:
        key: Name of the metric.
        images: As bytes, (H, W) gray or (H, W, 3).
        captions: One each; none where there are no names.

    >>> ShownImages("memaudit/images/members/truth", [np.zeros((2, 2), np.uint8)], ["member 7"]).captions
    ['member 7']
    """

    key: str
    images: "list[np.ndarray[Any, Any]]"
    captions: list[str]


def shown_images(report: AuditReport, prefix: str, num_images: int) -> Iterator[ShownImages]:
    """The first images of each group: truth, observed, and as every method recovered them."""
    for key, images in report.recoveries.items():
        if key.endswith(("/truth", "/observed", "/image")):
            # Bytes: what loggers make of floating point differs, down to black pictures.
            # Without those on which the method failed.
            there = [row for row in range(min(num_images, len(images))) if not np.isnan(images[row]).all()]
            places = [center_of(report.recoveries, key, row) for row in there]
            pictures = [displayed(images[row], at, report.show_channels) for row, at in zip(there, places, strict=True)]
            shown = [(255 * picture).round().astype(np.uint8) for picture in pictures]
            if shown:
                group = key.partition("/")[0]
                names = saved_names(report.recoveries, group)
                captions = [f"{group[:-1]} {shortened(names[row], MAX_CAPTION)}" for row in there if row < len(names)]
                yield ShownImages(f"{prefix}/images/{key}", shown, captions if len(captions) == len(shown) else [])


def _send_images(logger: Any, shown: Iterator[ShownImages], step: int | None) -> bool:
    """Whether the logger takes images at all: it has a method for them, or what it writes to, as TensorBoard's has."""
    experiment: Any = getattr(logger, "experiment", None)  # Lightning asks for none of its loggers to have one
    if callable(getattr(logger, "log_image", None)):
        captioned = _takes_captions(logger)
        for key, images, captions in shown:
            logger.log_image(key, images, step=step, **({"caption": captions} if captions and captioned else {}))
    elif callable(getattr(experiment, "add_image", None)):  # TensorBoard
        for key, images, _ in shown:
            for number, image in enumerate(images):
                form = "HW" if image.ndim == 2 else "HWC"
                experiment.add_image(f"{key}/{number}", image, global_step=step, dataformats=form)
    elif _is_mlflow(logger):
        for key, images, _ in shown:
            for number, image in enumerate(images):
                experiment.log_image(logger.run_id, image, key=_mlflow_name(f"{key}/{number}"), step=step or 0)
    else:
        return False
    return True


def _is_mlflow(logger: Any) -> bool:
    """By what it can do: images go through its client, for a run that has an identity."""
    experiment = getattr(logger, "experiment", None)
    return callable(getattr(experiment, "log_image", None)) and hasattr(logger, "run_id")


def _mlflow_name(name: str) -> str:
    """The name in the signs that MLflow takes, alike for numbers and images: ``random-0.5_noise-0.05``."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)


def _told_once(logger: Any, num_images: int) -> str | None:
    if logger in _TOLD:
        return None
    _TOLD.add(logger)
    return f"log_images={num_images}: {type(logger).__name__} takes no images; the report beside the results shows them"


def _takes_captions(logger: Any) -> bool:
    """Whether ``log_image`` has an argument for captions, or passes on what it does not know, as that of W&B does."""
    method: Callable[..., Any] = logger.log_image
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == "caption" or one.kind is one.VAR_KEYWORD for one in parameters)

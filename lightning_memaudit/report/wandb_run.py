"""An audit in a run of W&B: charts on the right axis, tables and pictures at one step, the verdict in the summary."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_memaudit.report.labels import printable, saved_names, shortened
from lightning_memaudit.report.logged_tables import tables
from lightning_memaudit.report.selection import center_of
from lightning_memaudit.report.slices import slider
from lightning_memaudit.report.views import displayed, picture_of, picture_of_mask
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.gate import OUTCOME, named_numbers
from lightning_memaudit.results.rows import Row, headline_names

RECOVERED_TABLE = "recovered_images"
"""Of the table of pictures."""

IN_SUMMARY = (OUTCOME, "num_memorized", "memorized_rate", "memorized_rate_low", "memorized_rate_high", "extracted")
"""What runs are sorted by, beside ``beyond_inpainting``."""

MAX_CAPTION = 100


@dataclass(frozen=True)
class WandbRun:
    """The run of a logger of W&B.

    Attributes:
        logger: Lightning's.
        prefix: Of the metrics.

    >>> WandbRun.of(object(), "memaudit")  # no logger of W&B
    """

    logger: Any
    prefix: str

    @classmethod
    def of(cls, logger: Any, prefix: str) -> "WandbRun | None":
        """None where the logger is another's."""
        experiment = getattr(logger, "experiment", None)
        is_its = type(experiment).__module__.partition(".")[0] == "wandb"
        return cls(logger, prefix) if is_its and hasattr(experiment, "define_metric") else None

    def log(
        self, report: AuditReport, metrics: Mapping[str, float], axis: str, num_images: int, settings: Mapping[str, Any]
    ) -> None:
        """All of an audit, at one step.

        Args:
            report: The audit.
            metrics: Its numbers, by their full names.
            axis: The metric against which they are drawn.
            num_images: Pictures per group and pattern.
            settings: Of the audits; go into the config where nothing does yet, as where the run has a command line.
        """
        import wandb

        experiment = self.logger.experiment
        if settings and self.prefix not in experiment.config:
            experiment.config.update({self.prefix: dict(settings)}, allow_val_change=True)
        names = self._define(report, metrics, axis)
        row: dict[str, Any] = dict(metrics)
        for name, (columns, data) in tables(report).items():
            row[f"{self.prefix}/{name}"] = wandb.Table(columns=list[str | int](columns), data=data)
        if num_images and report.recoveries:
            columns, data = recovered_table(
                report, num_images, wandb.Image, partial(wandb.Html, inject=False, data_is_not_path=True)
            )
            row[f"{self.prefix}/{RECOVERED_TABLE}"] = wandb.Table(columns=list[str | int](columns), data=data)
        self.logger.log_metrics(row, step=report.occasion.step)
        logged = set(experiment.summary.keys())
        # Else the summary would go on to say what was measured last, perhaps long before.
        self._summarize(dict.fromkeys(name for name in names if name not in metrics and name in logged))
        headline = {name: report.headline.get(name) for name in IN_SUMMARY}
        found = {OUTCOME: report.verdict.outcome, "num_memorized": report.num_memorized}
        self._summarize_verdict(headline | found, report.rows, report.primary)

    def _define(self, report: AuditReport, metrics: Mapping[str, float], axis: str) -> list[str]:
        """Every metric that these audits may log, by its own name.

        Lightning defines ``*``, and which of two globs wins is chance. Without ``step_sync``: an audit that has no
        place on the axis must not get that of the one before.
        """
        cells = list(dict.fromkeys((row["pattern"], row["method"]) for row in report.rows))
        names = headline_names(cells, extraction=int("extracted" in report.headline))
        names += [f"{pattern}/{method}/control_recovery_rate" for pattern, method in cells if method == report.primary]
        full = [axis, *(f"{self.prefix}/{name}" for name in (*names, "audit", "epoch"))]
        full = list(dict.fromkeys([*full, *metrics]))
        define = self.logger.experiment.define_metric
        define(axis)
        for name in full[1:]:
            define(name, step_metric=axis, step_sync=False)
        return full

    def conclude(self, document: Mapping[str, Any]) -> None:
        """Give the summary what the report says: it may differ from the newest audit alone, as it knows the first one.

        Args:
            document: The content of ``report.json``.
        """
        numbers = named_numbers(document)
        found = {name: numbers[name] for name in IN_SUMMARY}
        self._summarize_verdict(found, document["rates"], document["judgement"]["method"])

    def _summarize_verdict(self, found: Mapping[str, Any], rows: Sequence[Row], primary: str) -> None:
        if found["extracted"] is None:  # nobody asked for it
            found = {name: value for name, value in found.items() if name != "extracted"}
        content = {**found, "beyond_inpainting": beyond_inpainting(rows, primary)}
        self._summarize({f"{self.prefix}/{name}": value for name, value in content.items()})

    def _summarize(self, content: Mapping[str, Any]) -> None:
        if content:
            self.logger.experiment.summary.update(dict(content))

    def log_files(self, page: str, files: Sequence[Path] = ()) -> None:
        """The report as an artifact of the run.

        Args:
            page: Content of ``report.html``.
            files: Others to add, by their own names.
        """
        import wandb

        experiment = self.logger.experiment
        name = re.sub(r"[^\w.-]", "-", f"{self.prefix}-{experiment.id}")
        artifact = wandb.Artifact(name, type="memorization-audit")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            path.write_text(page, encoding="utf-8")
            artifact.add_file(str(path), name=path.name)
            for file in files:
                artifact.add_file(str(file), name=file.name)
            experiment.log_artifact(artifact)


def beyond_inpainting(rows: Sequence[Row], primary: str) -> float | None:
    """Share of members, over all patterns, that the audited method recovers and the inpainter does not.

    None where no inpainter ran.

    >>> row = {"group": "members", "method": "blind", "num_images": 4, "num_beyond_inpainting": 3}
    >>> beyond_inpainting([row], "blind")
    0.75
    """
    chosen = [row for row in rows if row["group"] == "members" and row["method"] == primary]
    counts = [row.get("num_beyond_inpainting") for row in chosen]
    told = [count for count in counts if count is not None]
    total = sum(row["num_images"] for row in chosen)
    return sum(told) / total if total and len(told) == len(counts) else None


def recovered_table(report: AuditReport, num_images: int, picture: Any, page: Any) -> tuple[list[str], list[list[Any]]]:
    """The first images of each group and pattern, one a row: truth, observed, mask, and what every method made of it.

    Of volumes these are three slices each, and a column ``slices`` has a slider through all slices.

    Args:
        report: The audit, with its recoveries.
        num_images: Per group and pattern.
        picture: Makes one of bytes, (H, W) or (H, W, 3), and ``caption=``.
        page: Makes what shows a piece of HTML.

    Returns:
        Columns and rows.
    """
    arrays = report.recoveries
    methods = list(dict.fromkeys(row["method"] for row in report.rows))
    psnr = {(row["group"], row["pattern"], row["method"], row["image"]): row["psnr"] for row in report.images}

    def cell(key: str, row: int, caption: str, at: tuple[int, ...] | None, drawn: Any = picture_of) -> Any:
        """None where the method failed, or does not run on the pattern."""
        if key not in arrays or np.isnan(arrays[key][row]).all():
            return None
        return picture(
            (255 * displayed(drawn(arrays[key][row], at, report.show_channels))).round().astype(np.uint8),
            caption=caption,
        )

    def slices(group: str, pattern: str, row: int, at: tuple[int, ...] | None) -> Any:
        """Truth, observed, and what the audited method made of it, where it ran."""
        keys = {"truth": f"{group}/truth", "observed": f"{group}/{pattern}/observed"}
        keys[report.primary] = f"{group}/{pattern}/{report.primary}/image"
        there = [(name, arrays[key][row]) for name, key in keys.items() if key in arrays]
        there = [(name, volume) for name, volume in there if not np.isnan(volume).all()]
        return page(slider(there, None if at is None else at[0], report.show_channels))

    are_volumes = any(key.endswith("/truth") and array.ndim == 5 for key, array in arrays.items())

    def rows() -> Iterator[list[Any]]:
        for group in dict.fromkeys(row["group"] for row in report.rows):
            if f"{group}/truth" not in arrays:
                continue
            names, indices = saved_names(arrays, group), arrays[f"{group}/indices"]
            for pattern in dict.fromkeys(row["pattern"] for row in report.rows if row["group"] == group):
                for row in range(min(num_images, len(indices))):
                    name, image = names[row], int(indices[row])
                    at = center_of(arrays, f"{group}/{pattern}/observed", row)
                    values = {method: psnr.get((group, pattern, method, image)) for method in methods}
                    yield [
                        *(group, image, printable(name), pattern),
                        cell(f"{group}/truth", row, f"{group[:-1]} {shortened(name, MAX_CAPTION)}", at),
                        cell(f"{group}/{pattern}/observed", row, pattern, at),
                        cell(f"{group}/{pattern}/mask", row, "mask", at, picture_of_mask),
                        *(
                            cell(f"{group}/{pattern}/{method}/image", row, _caption(method, value), at)
                            for method, value in values.items()
                        ),
                        *([slices(group, pattern, row, at)] if are_volumes else []),
                    ]

    columns = ["group", "image", "name", "pattern", "truth", "observed", "mask", *methods]
    return [*columns, *(["slices"] if are_volumes else [])], list(rows())


def _caption(method: str, psnr: float | None) -> str:
    return method if psnr is None else f"{method} {psnr:.1f} dB"

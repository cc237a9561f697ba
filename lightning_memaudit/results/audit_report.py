"""What one audit found, in Python."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_memaudit.results.cells import Cell, Columns
from lightning_memaudit.results.cost import Bounds, cost_row
from lightning_memaudit.results.extraction import ExtractionReport, in_words
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import Estimate
from lightning_memaudit.results.judgement import Judgement, judge
from lightning_memaudit.results.rows import Occasion, Row, image_rows
from lightning_memaudit.results.run_folder import RunFolder
from lightning_memaudit.results.verdict import Verdict, conclude

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_LINES = 6
"""Patterns of which a printed report speaks."""


@dataclass(frozen=True, repr=False)
class AuditReport:
    """What an audit found; :func:`lightning_memaudit.audit` returns one, the callback keeps its last.

    Printed, it is a few lines; in a notebook, verdict, table and pictures, which are training data.

    Attributes:
        rows: One per group, pattern and method, as in ``audits.jsonl``.
        cells: The measurements behind them, per image.
        headline: The few numbers that loggers get.
        recoveries: Arrays of the first images of each group, as in ``recoveries/*.npz``; what came back of volumes is
            float16, and measured as such.
        occasion: When and why the audit ran.
        threshold_db: PSNR in dB at which an image counts as recovered.
        primary: The audited method: the one that the headline speaks of.
        extraction: What came out by itself; None where that was not asked for.
        show_channels: The channels that pictures show; None are the first ones.

    >>> row = {"group": "members", "pattern": "half", "method": "blind", "recovery_rate": 0.75}
    >>> report = AuditReport([row], [], {}, {}, Occasion(0, "audit", None, None, "2024-01-01"), 30.0, primary="blind")
    >>> report.rate("blind", "half")
    0.75
    """

    rows: list[Row]
    cells: list[Cell]
    headline: dict[str, float]
    recoveries: Columns
    occasion: Occasion
    threshold_db: float
    primary: str
    extraction: ExtractionReport | None = None
    show_channels: tuple[int, ...] | None = None

    @cached_property
    def judgement(self) -> Judgement:
        """What the audit proves, counted image by image.

        Raises:
            ValueError: The audited method did not run on any member.
        """
        return judge(self.rows, ImageColumns.of_cells(self.cells, self.threshold_db), self.primary)

    @cached_property
    def verdict(self) -> Verdict:
        """What to conclude: ``outcome``, ``headline``, ``reasons`` and more; of this audit alone.

        A run's report may know more: of the audit before the first training step, and of near-duplicates.
        """
        return conclude(self.judgement)

    @property
    def num_memorized(self) -> int | None:
        """Members that came back beyond every baseline, in any pattern; None where no inpainter ran."""
        return self.judgement.num_memorized

    @property
    def membership(self) -> dict[str, Estimate]:
        """How well scores tell members from controls: areas under ROC curves, each with ``value, low, high``.

        By name of the score: ``recovery_gain``, ``plain_loss``, ``blind_score``, ``reference``; absent is what was not
        measured, and everything with fewer than 10 images in a group.
        """
        return self.judgement.membership_estimates

    @property
    def images(self) -> list[Row]:
        """One row per group, image, pattern and method, as in ``images.jsonl``."""
        return list(image_rows(self.cells, self.occasion, self.threshold_db))

    @property
    def doubts(self) -> list[Row]:
        """Why rates say less than they seem to: ``code`` and ``text`` of each doubt.

        What the autoencoder makes of the intact members is no reconstruction, see
        :mod:`lightning_memaudit.results.own_output`; or the training was not given what was audited, or calls the model
        otherwise, see :mod:`lightning_memaudit.results.training_doubts`.
        """
        return list(self.rows[0].get("doubts") or ()) if self.rows else []

    def rate(self, method: str, pattern: str, group: str = "members") -> float:
        """The recovery rate of one cell, in [0, 1].

        Raises:
            KeyError: There is no such cell.
        """
        for row in self.rows:
            if (row["group"], row["pattern"], row["method"]) == (group, pattern, method):
                return float(row["recovery_rate"])
        given = f"no row for group={group!r}, pattern={pattern!r}, method={method!r}"
        known = [
            f"{name}s: {', '.join(dict.fromkeys(str(row[name]) for row in self.rows))}"
            for name in ("pattern", "method", "group")
        ]
        raise KeyError(f"{given}; there are {'; '.join(known)}")

    def __repr__(self) -> str:
        """The verdict, and of the audited method what came back by pattern; never more than a few lines."""
        lines = [f"AuditReport: {self._told()[0]}"]
        for pattern in dict.fromkeys(row["pattern"] for row in self.rows):
            parts = [
                f"{row['num_recovered']} of {row['num_images']} {row['group']}"
                for row in self.rows
                if (row["pattern"], row["method"]) == (pattern, self.primary) and "num_recovered" in row
            ]
            lines += [f"  {pattern}: {', '.join(parts)} recovered by {self.primary}"] if parts else []
        hidden = len(lines) - 1 - MOST_LINES
        lines[MOST_LINES + 1 :] = [f"  ... and {hidden} more patterns"] if hidden > 0 else []
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self._came_out())])

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, table, and images from observed to recovered to the truth."""
        from lightning_memaudit.report.inline import fragment

        told = (*self._told(), *self._came_out())
        return fragment(told, self.rows, self.images, self.recoveries, self.primary, self.show_channels)

    def _came_out(self) -> tuple[str, ...]:
        """What came out by itself, in a sentence, where it was looked for."""
        return () if self.extraction is None else (in_words(self.extraction.summary),)

    def _told(self) -> tuple[str, ...]:
        """The verdict in sentences; to be printed, a report needs none."""
        try:
            told = self.verdict
        except (ValueError, KeyError, IndexError) as error:  # of rows that no audit made
            return (f"no verdict ({type(error).__name__}: {' '.join(str(error).split())[:100]})",)
        return (told.headline, *told.why, told.found, told.certainty, *told.cautions)

    def to_pandas(self, images: bool = False) -> Any:
        """The rows as a ``pandas.DataFrame``: one line per group, pattern and method; needs pandas.

        Args:
            images: One line per image too, as in ``images.jsonl``, instead.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ModuleNotFoundError as error:
            raise ImportError("to_pandas takes pandas: pip install 'lightning-memaudit[pandas]'") from error
        return DataFrame(self.images if images else self.rows)

    def to_html(self, path: str | Path, *, pictures: bool = True) -> Path:
        """Write the page that a run gets as ``report.html``, in one file, and return its path.

        It has the verdict of this audit alone; of the run, its model and its other audits it knows nothing.

        Args:
            path: The file; its folder is made where it is missing.
            pictures: Show images; they are training data.
        """
        from lightning_memaudit.report.inline import write_page

        return write_page(Path(path), self.rows, self.images, self.recoveries, pictures, self.show_channels)

    def plot(self, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
        """Draw the recovery rates by pattern and method, members beside controls, with 95% intervals.

        Args:
            ax: Where to draw; None makes a figure.

        Returns:
            The figure and where it was drawn, as metrics of torchmetrics do.
        """
        from lightning_memaudit.report.inline import draw

        return draw(self.rows, ax)

    def to_json(self, path: str | Path) -> None:
        """Write verdict, judgement, rows, images and headline as one JSON object."""
        found = {
            "verdict": self.verdict.to_dict(),
            "judgement": self.judgement.to_dict(),
            "num_memorized": self.num_memorized,
            "membership": {name: one._asdict() for name, one in self.membership.items()},
        }
        write_json(Path(path), {"headline": self.headline, **found, "rows": self.rows, "images": self.images})

    def with_cost(self, estimate: Mapping[str, float] | None, bounds: Bounds, seconds: float) -> "AuditReport":
        """The same report, with what the audit cost in every row.

        Args:
            estimate: Made before it, see :func:`~lightning_memaudit.results.cost.cost_row`.
            bounds: Decided before it.
            seconds: That it took.
        """
        evaluations = sum(int(row["num_evaluations"]) for row in self.rows)
        evaluations += 0 if self.extraction is None else int(self.extraction.summary["num_evaluations"])
        cost = cost_row(estimate, bounds, seconds, evaluations)
        return replace(self, rows=[{**row, "cost": cost} for row in self.rows])

    @property
    def cost(self) -> Row:
        """What the audit took beside what was expected before it, and what was cut; empty where that is not known.

        ``seconds``, ``num_evaluations``, the same with ``estimated_`` before it, ``estimated_num_bytes``,
        ``max_seconds``, ``cuts`` and ``sentence``.
        """
        return dict(self.rows[0].get("cost") or {}) if self.rows else {}

    def append_to(self, folder: RunFolder) -> None:
        """Append to the results files of a run."""
        folder.append_audit(self.rows, image_rows(self.cells, self.occasion, self.threshold_db), self.recoveries)

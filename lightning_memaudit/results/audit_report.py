"""What one audit found, in Python."""

from dataclasses import dataclass
from pathlib import Path

from lightning_memaudit.results.cells import Cell, Columns
from lightning_memaudit.results.extraction import ExtractionReport
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.rows import Occasion, Row, image_rows
from lightning_memaudit.results.run_folder import RunFolder


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; :func:`lightning_memaudit.audit` returns one, the callback keeps its last.

    Attributes:
        rows: One per group, pattern and method, as in ``audits.jsonl``.
        cells: The measurements behind them, per image.
        headline: The few numbers that loggers get.
        recoveries: Arrays of the first images of each group, as in ``recoveries/*.npz``.
        occasion: When and why the audit ran.
        threshold_db: PSNR in dB at which an image counts as recovered.
        primary: The audited method: the one that the headline speaks of.
        extraction: What came out by itself; None where that was not asked for.

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

    @property
    def images(self) -> list[Row]:
        """One row per group, image, pattern and method, as in ``images.jsonl``."""
        return list(image_rows(self.cells, self.occasion, self.threshold_db))

    @property
    def doubts(self) -> list[Row]:
        """Why what the autoencoder makes of the intact members is no reconstruction: ``code`` and ``text`` of each.

        Where there are any, the rates say nothing; see :mod:`lightning_memaudit.results.own_output`.
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
        raise KeyError(f"no row for group={group!r}, pattern={pattern!r}, method={method!r}")

    def to_json(self, path: str | Path) -> None:
        """Write rows, images and headline as one JSON object."""
        write_json(Path(path), {"headline": self.headline, "rows": self.rows, "images": self.images})

    def append_to(self, folder: RunFolder) -> None:
        """Append to the results files of a run."""
        folder.append_audit(self.rows, image_rows(self.cells, self.occasion, self.threshold_db), self.recoveries)

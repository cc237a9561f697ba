"""What came out of the weights by itself, for report.json, the page and a figure: images beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_memaudit.report.labels import image_name
from lightning_memaudit.report.style import RECOVERED, drawn_name, figure_style, save_figure, show_image
from lightning_memaudit.results.extraction import in_words
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder

FIGURE = "extraction.png"
COLUMNS = 12
MAX_SHOWN = 48
"""Images in the gallery; those with the largest basins."""


class Extracted(NamedTuple):
    """One image that came out, beside the truth.

    Attributes:
        row: Of ``images`` in the extraction of ``report.json``.
        truth: (C, H, W).
        image: (C, H, W), the fixed point.
        share: Of the starts, that ended there.

    >>> one = Extracted({"image": 3, "psnr": 41.26}, np.zeros((1, 8, 8)), np.zeros((1, 8, 8)), share=0.125)
    >>> one.caption
    '12.5%, 41.3 dB'
    """

    row: Mapping[str, Any]
    truth: "np.ndarray[Any, Any]"
    image: "np.ndarray[Any, Any]"
    share: float

    @property
    def caption(self) -> str:
        """The basin and the quality."""
        return f"{self.share:.1%}, {self.row['psnr']:.1f} dB"


def read_extraction(rows: Sequence[Row], names: Mapping[tuple[str, int], str]) -> dict[str, Any] | None:
    """The extraction of one audit with a sentence for people, and with the names of its images, where recorded.

    Args:
        rows: Of the audit.
        names: Of images, by group and position.
    """
    found = rows[0].get("extraction") if rows else None
    if not found:
        return None
    images = [
        {**image, **({"name": names[place]} if (place := (image["group"], image["position"])) in names else {})}
        for image in found["images"]
    ]
    return {**found, "images": images, "sentence": in_words(found)}


def gallery(folder: RunFolder, found: Mapping[str, Any] | None, audit: int) -> list[Extracted]:
    """The images that came out, as far as the newest audit saved pictures of them.

    Args:
        folder: The results.
        found: The extraction of ``report.json``.
        audit: Its audit.
    """
    saved = folder.newest_recoveries()
    if not found or saved is None or saved.audit != audit or "extraction/image" not in saved.arrays:
        return []
    arrays, starts = saved.arrays, max(1, found["num_starts"])
    triples = zip(found["images"], arrays["extraction/truth"], arrays["extraction/image"], strict=False)
    return [Extracted(row, truth, image, row["basin"] / starts) for row, truth, image in triples][:MAX_SHOWN]


def extraction_figure(folder: RunFolder) -> list[Path]:
    """Draw the gallery of the newest audit; nothing where nothing came out."""
    saved = folder.newest_recoveries()
    if saved is None:
        return []
    rows = [row for row in folder.audits() if row["audit"] == saved.audit]
    names: dict[tuple[str, int], str] = {}
    if rows and rows[0].get("extraction"):
        images = folder.iterate_images(saved.audit)
        names = {(row["group"], row["position"]): str(row["name"]) for row in images if row.get("name")}
    found = read_extraction(rows, names)
    shown = gallery(folder, found, saved.audit)
    if found is None or not shown:
        return []
    return [save_figure(_draw(shown, found["sentence"]), folder.path / "figures" / FIGURE)]


def _draw(shown: Sequence[Extracted], sentence: str) -> Figure:
    columns = max(6, min(COLUMNS, len(shown)))
    lines = -(-len(shown) // columns)
    size, title = 0.95, 0.55
    with figure_style():
        height = lines * (2 * size + 0.5) + title
        figure = Figure(figsize=(size * columns + 0.7, height))
        grid = figure.subplots(2 * lines, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.7 / (size * columns + 0.7),
            right=0.995,
            top=1 - title / height,
            bottom=0.3 / height,
            wspace=0.08,
            hspace=0.25,
        )
        for panel in grid.ravel():
            panel.set_axis_off()
        for number, one in enumerate(shown):
            line, column = divmod(number, columns)
            truth, image = grid[2 * line][column], grid[2 * line + 1][column]
            show_image(truth, one.truth)
            show_image(image, one.image)
            truth.set_title(drawn_name(image_name(one.row), one.row["image"], 12), fontsize=7, pad=2, parse_math=False)
            image.set_title(one.caption, fontsize=7, pad=2, color=RECOVERED)
        for line in range(lines):
            for offset, label in enumerate(("truth", "came\nout")):
                panel = grid[2 * line + offset][0]
                panel.text(-0.1, 0.5, label, transform=panel.transAxes, ha="right", va="center", fontsize=8)
        figure.suptitle(_wrapped(sentence, 13 * columns), fontsize=9, x=0.01, ha="left", y=1 - 0.08 / height, va="top")
        return figure


def _wrapped(text: str, width: int) -> str:
    """The text in lines of at most so many characters, broken at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return "\n".join(lines)

"""Figures of images in rows and columns, all on one pair of axes: a pair for each image takes ten times as long."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_memaudit.report.style import NOT_RECOVERED, RECOVERED, figure_style
from lightning_memaudit.report.views import displayed

LETTERS_PER_INCH = 14
"""Of a title, so that it stays within the figure."""
_LEAST_HEIGHT = 0.5
"""Of a row, in inches: beside it there may be three lines of text."""
_BELOW = 0.26
"""Inches under an image, for its caption."""


class Sheet:
    """Images in rows and columns, with heads, labels and captions; lengths are in inches.

    Args:
        lines: Number of rows.
        columns: Number of columns.
        size: Of an image: the longer side.
        left: Room for the labels of the rows.
        top: Room for title and heads of the columns.
        like: One of the images, (C, *spatial): rows are as high as it needs; None makes room for square ones.

    >>> sheet = Sheet(lines=1, columns=2, size=1.0, left=0.5, top=0.5)
    >>> sheet.image(0, 0, np.zeros((1, 8, 8)), "31.2 dB ✓", recovered=True)
    >>> [round(float(length), 2) for length in sheet.figure.get_size_inches()]
    [2.66, 1.76]
    """

    def __init__(
        self,
        lines: int,
        columns: int,
        size: float,
        left: float,
        top: float,
        like: "np.ndarray[Any, Any] | None" = None,
    ) -> None:
        self.size, self.left, self.top = size, left, top
        tall, wide = (1, 1) if like is None else displayed(like).shape[:2]
        self.height = max(size * min(1.0, tall / wide), _LEAST_HEIGHT)
        width, height = left + columns * (size + 0.06) + 0.04, top + lines * (self.height + _BELOW)
        with figure_style():
            self.figure = Figure(figsize=(width, height))
            self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0))

    def title(self, text: str) -> None:
        """Above all, from the left; may hold several lines."""
        self._text(0.08, 0.08, text, ha="left", va="top", fontsize=9)

    def head(self, column: int, text: str) -> None:
        """Above a column."""
        self._text(self._x(column) + self.size / 2, self.top - 0.05, text, ha="center", va="bottom", fontsize=8)

    def label(self, line: int, text: str) -> None:
        """Before a row."""
        self._text(self.left - 0.08, self._y(line) + self.height / 2, text, ha="right", va="center", fontsize=8)

    def words(self, line: int, column: int, text: str) -> None:
        """In the place of an image."""
        x, y = self._x(column) + self.size / 2, self._y(line) + self.height / 2
        self._text(x, y, text, ha="center", va="center", fontsize=8, color=NOT_RECOVERED)

    def image(
        self,
        line: int,
        column: int,
        image: "np.ndarray[Any, Any]",
        caption: str = "",
        recovered: bool | None = None,
        framed: bool = False,
    ) -> None:
        """Show an image, pixel by pixel, as large as fits.

        Args:
            line: From the top.
            column: From the left.
            image: (C, *spatial) in [0, 1], see :func:`.displayed`.
            caption: Below it.
            recovered: Frames it: thick where it counts as recovered, thin and dashed where not.
            framed: With a plain thin frame, as a mask has.
        """
        pixels = displayed(image)
        scale = min(self.height / pixels.shape[0], self.size / pixels.shape[1])
        height, width = pixels.shape[0] * scale, pixels.shape[1] * scale
        x, y = self._x(column) + (self.size - width) / 2, self._y(line) + (self.height - height) / 2
        self.axes.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect="auto",
            extent=(x, x + width, y + height, y),
        )
        self.axes.set(xlim=self.axes.get_xlim(), ylim=self.axes.get_ylim())
        color = "#BBBBBB" if recovered is None else RECOVERED if recovered else NOT_RECOVERED
        if framed or recovered is not None:
            self.axes.add_patch(
                Rectangle(
                    (x, y),
                    width,
                    height,
                    fill=False,
                    edgecolor=color,
                    linewidth=2.2 if recovered else 0.8,
                    linestyle=(0, (3, 2)) if recovered is False else "-",
                )
            )
        if caption:
            color = "black" if recovered is None else color
            self._text(
                self._x(column) + self.size / 2,
                y + height + 0.04,
                caption,
                ha="center",
                va="top",
                fontsize=7.5,
                color=color,
            )

    def _x(self, column: int) -> float:
        return self.left + column * (self.size + 0.06) + 0.03

    def _y(self, line: int) -> float:
        return self.top + line * (self.height + _BELOW)

    def _text(self, x: float, y: float, text: str, **how: Any) -> None:
        with figure_style():
            self.axes.text(x, y, text, parse_math=False, **how)


def titled_sheet(
    title: Sequence[str],
    lines: int,
    columns: int,
    size: float,
    left: float,
    top: float,
    like: "np.ndarray[Any, Any]",
) -> Sheet:
    """A sheet with a title of several sentences, each from a line of its own on; those that are empty are left out.

    Args:
        title: The sentences; for the first, on one line, there is room in ``top``.
        lines: See :class:`Sheet`, like all that follow.
        columns: Likewise.
        size: Likewise.
        left: Likewise.
        top: Likewise.
        like: (C, *spatial), likewise.
    """
    first, *others = title
    letters = int(LETTERS_PER_INCH * (left + columns * (size + 0.06)))
    more = [line for text in others if text for line in wrapped(text, letters)]
    sheet = Sheet(lines, columns, size, left, top + 0.16 * len(more), like)
    sheet.title("\n".join([first, *more]))
    return sheet


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many characters, broken at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines

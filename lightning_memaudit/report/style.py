"""What all figures share: colours that colour-blind people can tell apart, markers, names, axes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_memaudit.report.labels import MEMBERS_MSE, shortened
from lightning_memaudit.report.selection import displayed

# Okabe and Ito (2008); every method also has its own marker, so that colour never carries the meaning alone.
METHOD_STYLES: dict[str, tuple[str, str]] = {
    "blind": ("#0072B2", "o"),
    "paper_blind": ("#56B4E9", "s"),
    "known_mask": ("#009E73", "^"),
    "autoencoder_iterations": ("#D55E00", "D"),
    "biharmonic": ("#767676", "v"),
    "ddnm": ("#CC79A7", "P"),
    "white_box": ("#B07500", "X"),
}
_OTHERS = (("#000000", "*"), ("#7B5EA7", "h"), ("#8B4513", "<"), ("#4D6A00", ">"))
RECOVERED, NOT_RECOVERED = "#00785A", "#C04A00"

RC: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "text.usetex": False,
}


def figure_style() -> AbstractContextManager[None]:
    """Matplotlib's settings for the figures of this package, for the length of a ``with`` block."""
    settings: Any = RC
    return matplotlib.rc_context(settings)


def method_style(method: str, methods: list[str]) -> tuple[str, str]:
    """Colour and marker of a method; those that the package does not know take turns in their order."""
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    unknown = [name for name in methods if name not in METHOD_STYLES]
    return _OTHERS[unknown.index(method) % len(_OTHERS)]


def method_label(method: str) -> str:
    """A method's name for people."""
    return method.replace("_", " ")


def drawn_name(name: str, index: int | str, length: int = 22) -> str:
    """An image's name as the figures' font can write it, shortened; where that lacks a sign, with the index.

    To be drawn with ``parse_math=False``: a name may hold dollar signs.
    """
    shown = shortened(name, length)
    text = drawable(shown)
    return text if text == shown else f"{text} ({index})"


def drawable(text: str) -> str:
    """The text with a replacement sign for every character that the figures' font lacks."""
    return "".join(char if ord(char) in _characters() else "\N{REPLACEMENT CHARACTER}" for char in text)


@cache
def _characters() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(RC["font.family"])).get_charmap())


def show_image(panel: Axes, image: "np.ndarray[Any, Any]") -> None:
    """Draw an image (C, H, W), pixel by pixel."""
    panel.imshow(displayed(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def occasion_title(figure: Figure, pattern: str, occasion: Mapping[str, Any], top: float) -> None:
    """Write above a figure of recoveries which pattern and audit it shows, and what counts as recovered."""
    loss = occasion["train_loss"]
    figure.suptitle(
        f"{pattern}   audit {occasion['audit']}, {MEMBERS_MSE} {'-' if loss is None else format(loss, '.1e')}; "
        f"✓ recovered: PSNR ≥ {occasion['threshold_db']:g} dB",
        fontsize=9,
        x=0.01,
        ha="left",
        y=top,
        va="top",
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file, in the style of all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure.savefig(path, bbox_inches="tight", pad_inches=0.08)
    return path

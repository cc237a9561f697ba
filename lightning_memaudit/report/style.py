"""What all figures share: colours that colour-blind people can tell apart, markers, names, axes."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lightning_memaudit.report.labels import MEMBERS_MSE, shortened

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
RECOVERED, NOT_RECOVERED = "#A8321A", "#565E68"
"""As on the page: red for what came back, as for the verdict *memorized*, gray for what did not. A thick frame and ✓,
against a thin dashed one and ✗, say the same without colour."""
MEMBERS, CONTROLS, INPAINTED = METHOD_STYLES["blind"][0], "#444444", METHOD_STYLES["biharmonic"][0]
"""The three things compared: controls are gray and dashed, with open markers, wherever they are drawn."""
CONTROL_DASHES: Any = (0, (4, 2))
LEGEND_WIDTH = 6.2
"""Inches that a legend of three columns takes: no figure with one is narrower."""
FORMATS = ("png", "pdf", "svg")
DPI = 160

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
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "image.composite_image": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "memaudit",
    "pdf.fonttype": 42,
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


def in_lines(pattern: str, length: int) -> str:
    r"""The name of a pattern as a title, its modifiers in lines of their own where they do not fit into ``length``.

    A panel whose title is longer than it is wide would be made as narrow as the layout can make it.

    >>> in_lines("random-0.9+noise-0.05+fill-noise", 24), in_lines("random-0.9", 4)
    ('random-0.9+noise-0.05\n+fill-noise', 'random-0.9')
    """
    lines = [""]
    for part in re.split(r"(?=\+)", pattern):
        if lines[-1] and len(lines[-1] + part) > length:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def occasion_words(pattern: str, occasion: Mapping[str, Any]) -> str:
    """Which pattern and audit a figure of recoveries shows, and what counts as recovered."""
    loss = occasion["train_loss"]
    return (
        f"{pattern}   audit {occasion['audit']}, {MEMBERS_MSE} {'-' if loss is None else format(loss, '.1e')}; "
        f"thick frame and ✓: recovered, PSNR ≥ {occasion['threshold_db']:g} dB"
    )


def logarithmic(panel: Axes, losses: Collection[float]) -> None:
    """Scale the x axis for losses, falling to the right: a label for each power of ten and nothing between."""
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    if len(set(losses)) == 1:  # a single point has no range to scale a logarithmic axis by
        loss = next(iter(losses))
        panel.set_xlim(loss / 10, loss * 10)
    panel.invert_xaxis()


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power_of_ten(value: float, _: object = None) -> str:
    exponent = math.log10(value)
    near = round(exponent)
    return f"10{str(near).translate(_SUPERSCRIPTS)}" if abs(exponent - near) < 1e-9 else f"{value:.1e}"


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write a figure in the style of all; the same figure gives the same bytes.

    Args:
        figure: Any.
        path: Without the ending.
        formats: Of :data:`FORMATS`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with figure_style():
        for ending in formats:
            file = path.with_name(f"{path.name}.{ending}")
            figure.savefig(file, format=ending, metadata=_UNDATED[ending])
            written.append(file)
    return written


_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}
"""Neither time nor versions: the hashes of the figures are written down."""

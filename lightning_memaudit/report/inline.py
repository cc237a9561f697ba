"""An audit shown where it was made, without a run: in a notebook, as one page, as one figure. Needs no torch."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from lightning_memaudit.report.labels import printable, shortened
from lightning_memaudit.report.selection import choose_examples
from lightning_memaudit.report.style import method_label, method_style
from lightning_memaudit.report.views import drawn_as
from lightning_memaudit.results.files import write_text
from lightning_memaudit.results.names import DEFAULT_NAME
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_PATTERNS = 3
"""Patterns of which a fragment shows pictures; the page has all."""
CELL = "padding:.15em .6em;text-align:left;vertical-align:top;"
PICTURE = "width:{}px;image-rendering:{};display:block;margin-bottom:3px"
WIDTH, WIDTH_OF_CURVES = 64, 128
"""Of a picture, in pixels."""


def table_lines(rows: Sequence[Row]) -> list[list[str]]:
    """Pattern, method, members and controls of every cell, as a person reads them; the first line names the columns.

    >>> row = {"pattern": "half", "method": "blind", "num_recovered": 3, "num_images": 4, "recovery_rate": 0.75}
    >>> row |= {"ci_low": 0.19, "ci_high": 0.99}
    >>> table_lines([row | {"group": "members"}])[1]
    ['half', 'blind', '3 of 4 (75%, 95% interval 19% to 99%)', '-']
    """
    lines = [["pattern", "method", "members recovered", "controls recovered"]]
    table = {(row["pattern"], row["method"], row["group"]): row for row in rows}
    for pattern, method in dict.fromkeys((row["pattern"], row["method"]) for row in rows):
        groups = (table.get((pattern, method, group)) for group in ("members", "controls"))
        lines.append([printable(str(pattern)), method_label(str(method)), *map(_recovered, groups)])
    return lines


def _recovered(row: Row | None) -> str:
    if row is None:
        return "-"
    text = f"{row['num_recovered']} of {row['num_images']}"
    if row["recovery_rate"] is None:
        return text
    return f"{text} ({row['recovery_rate']:.0%}, 95% interval {row['ci_low']:.0%} to {row['ci_high']:.0%})"


def fragment(
    sentences: Sequence[str],
    rows: Sequence[Row],
    images: Sequence[Row],
    recoveries: "Mapping[str, np.ndarray[Any, Any]]",
    primary: str,
    channels: Sequence[int] | None = None,
) -> str:
    """A piece of HTML: what was concluded, the table, and images from observed to recovered to the truth.

    Args:
        sentences: The verdict; the first is its headline.
        rows: As in ``audits.jsonl``, of one audit.
        images: As in ``images.jsonl``, of the same.
        recoveries: Arrays of the saved images, as in ``recoveries/*.npz``; none gives no pictures.
        primary: The audited method.
        channels: Those that pictures show, see :func:`.chosen`.
    """
    parts = [Markup("<p><strong>{}</strong></p>").format(printable(sentences[0]))]
    parts += [Markup("<p>{}</p>").format(printable(sentence)) for sentence in sentences[1:] if sentence]
    head, *lines = table_lines(rows)
    parts.append(Markup("<table>") + _line(head, "th") + Markup("").join(_line(one, "td") for one in lines))
    parts.append(Markup("</table>"))
    truths = [array for key, array in recoveries.items() if key.endswith("/truth")]
    if truths and (drawn := drawn_as(truths[0].shape[1:], channels)):
        parts.append(Markup("<p>{}</p>").format(drawn))
    for pattern in [*dict.fromkeys(row["pattern"] for row in rows)][:SHOWN_PATTERNS]:
        methods = [row["method"] for row in rows if row["pattern"] == pattern and row["group"] == "members"]
        method = primary if primary in methods else methods[0]
        parts.append(_strip(pattern, method, methods, images, recoveries, channels))
    return str(Markup("<div>") + Markup("").join(parts) + Markup("</div>"))


def _line(cells: Sequence[str], tag: str) -> Markup:
    cell = Markup(f'<{tag} style="{CELL}">{{}}</{tag}>')  # constants of this file
    return Markup("<tr>") + Markup("").join(cell.format(one) for one in cells) + Markup("</tr>")


def _strip(
    pattern: str,
    method: str,
    methods: Sequence[str],
    images: Sequence[Row],
    recoveries: "Mapping[str, np.ndarray[Any, Any]]",
    channels: Sequence[int] | None,
) -> Markup:
    from lightning_memaudit.report.pictures import picture

    columns = []
    is_signal = any(array.ndim == 3 for key, array in recoveries.items() if key.endswith("/truth"))
    style = PICTURE.format(*((WIDTH_OF_CURVES, "auto") if is_signal else (WIDTH, "pixelated")))
    for one in choose_examples(recoveries, images, pattern, methods, method, channels):
        outcome = one.outcomes.get(method)
        shown = [("observed", one.observed), ("truth", one.truth)]
        if outcome is not None:
            shown.insert(1, ("recovered", outcome.image))
        pictures = Markup("").join(
            Markup('<img style="{}" src="{}" alt="{}" title="{}">').format(style, picture(image), name, name)
            for name, image in shown
        )
        words = "failed" if outcome is None else outcome.caption
        caption = Markup("{} {}<br>{}").format(one.kind, shortened(one.name, 12), words)
        columns.append(Markup('<td style="{}">{}<small>{}</small></td>').format(CELL, pictures, caption))
    if not columns:
        return Markup("")
    what = Markup("<p>{}, by {}: observed, recovered, truth</p>").format(printable(pattern), method_label(method))
    return what + Markup("<table><tr>") + Markup("").join(columns) + Markup("</tr></table>")


def write_page(
    path: Path,
    rows: Sequence[Row],
    images: Sequence[Row],
    recoveries: "Mapping[str, np.ndarray[Any, Any]]",
    pictures: bool = True,
    channels: Sequence[int] | None = None,
) -> Path:
    """Write the page of one audit: ``report.html`` as a run has it, in one file.

    Args:
        path: The file; its folder is made where it is missing.
        rows: As in ``audits.jsonl``, of one audit.
        images: As in ``images.jsonl``, of the same.
        recoveries: Arrays of the saved images.
        pictures: Show images; they are training data.
        channels: Of theirs those to show, see :func:`.chosen`.
    """
    from lightning_memaudit.report.document import build_document
    from lightning_memaudit.report.html import render

    with tempfile.TemporaryDirectory(prefix="memaudit-") as place:
        folder = RunFolder(Path(place) / DEFAULT_NAME)
        # No run is known.
        folder.write_run({} if channels is None else {"settings": {"show_channels": list(channels)}})
        folder.append_audit(rows, images, recoveries)
        page = render([folder], [build_document(folder)], pictures, [printable(path.stem)])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, page)


def draw(rows: Sequence[Row], ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw the recovery rate of every method by pattern, with 95% intervals: members filled, controls hollow.

    Args:
        rows: As in ``audits.jsonl``, of one audit.
        ax: Where to draw; None makes a figure.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    patterns = [*dict.fromkeys(row["pattern"] for row in rows)]
    methods = [*dict.fromkeys(str(row["method"]) for row in rows)]
    if ax is None:
        _, ax = pyplot.subplots(figsize=(2 + 1.6 * len(patterns), 3.2), layout="constrained")
    step = 0.8 / max(1, len(methods))
    for row in rows:
        if row["recovery_rate"] is None:
            continue
        number, member = methods.index(row["method"]), row["group"] == "members"
        color, marker = method_style(row["method"], methods)
        # Side by side, so that no method hides another that does as well.
        at = patterns.index(row["pattern"]) + (number - (len(methods) - 1) / 2) * step + (0 if member else step / 3)
        rate = row["recovery_rate"]
        error = [[max(0.0, rate - row["ci_low"])], [max(0.0, row["ci_high"] - rate)]]
        label = method_label(row["method"]) if member and row["pattern"] == patterns[0] else None
        face = color if member else "white"
        ax.errorbar(at, rate, error, color=color, marker=marker, markerfacecolor=face, linestyle="none", label=label)
    ax.set_xticks(range(len(patterns)), [printable(str(one)) for one in patterns])
    ax.set_ylim(-0.04, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_ylabel("recovered (hollow: controls)")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure: Any = ax.get_figure()
    return figure, ax

"""Recovery rates as lines with their intervals, against anything, and the legend that goes with them."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.style import method_label, method_style
from lightning_memaudit.results.rows import Row

CONTROLS = (0, (4, 2))
"""Dashes of the lines of images that were not trained on."""


def draw_rates(panel: Axes, rows: Sequence[Row], methods: list[str], place: Callable[[Row], float | None]) -> None:
    """Draw the recovery rate of every method, members with their 95% intervals, controls dashed.

    Args:
        panel: Where to draw; its x axis is the caller's.
        rows: Of ``audits.jsonl``, of one pattern or of several that differ in their place alone.
        methods: All methods of the figure, which decide on colors and markers.
        place: Where a row belongs on the x axis; None leaves it out.
    """
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    for method in methods:
        color, marker = method_style(method, methods)
        for group, dashes in (("controls", CONTROLS), ("members", "-")):
            points = sorted(
                (at, row["recovery_rate"], row["ci_low"], row["ci_high"])
                for row in rows
                if (row["method"], row["group"]) == (method, group)
                and row["recovery_rate"] is not None
                and (at := place(row)) is not None
            )
            if not points:
                continue
            places, rates, low, high = zip(*points, strict=True)
            member = group == "members"
            if member and len(points) == 1:
                panel.vlines(places, low, high, color=color, alpha=0.5, linewidth=1)
            elif member:
                panel.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
            panel.plot(
                places,
                rates,
                color=color,
                linestyle=dashes,
                marker=marker,
                markersize=5 if member else 3,
                linewidth=1.8 if member else 1.2,
                markerfacecolor=color if member else "white",
                clip_on=False,
                zorder=4 if member else 3,
            )


def rate_legend(rows: Sequence[Row], methods: list[str]) -> dict[str, Any]:
    """Arguments of ``figure.legend`` for the methods, and for controls where there are any."""
    handles = []
    for method in methods:
        color, marker = method_style(method, methods)
        handles.append(Line2D([], [], color=color, marker=marker, label=method_label(method)))
    if any(row["group"] == "controls" for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color="#444444",
                linestyle=CONTROLS,
                linewidth=1.2,
                marker="o",
                markersize=3,
                markerfacecolor="white",
                label="controls (not trained on)",
            )
        )
    columns = min(4, len(methods) + 1)
    return {"handles": handles, "loc": "outside lower center", "ncols": columns, "handlelength": 3}

"""Recovery rates as lines with their intervals, against anything, and the legend that goes with them.

Values stay where they are. Where methods tie, and only there, the audited one is on top and each other is drawn beneath
it, wider, so that every one is seen. Controls are thin, dashed, with open markers, over all; where those of a method
are those of another, both are one gray line.
"""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.style import CONTROL_DASHES, CONTROLS, method_label, method_style
from lightning_memaudit.results.names import primary_method
from lightning_memaudit.results.rows import Row

_WIDER = 2.4
"""Points by which a line is wider than the one on it."""

Points = list[tuple[float, float, float, float]]
"""Place, rate, and its interval, in the order of the places."""


def draw_rates(
    panel: Axes,
    rows: Sequence[Row],
    methods: list[str],
    place: Callable[[Row], float | None],
    primary: str | None = None,
) -> None:
    """Draw the recovery rate of every method, members with their 95% intervals, controls dashed.

    Args:
        panel: Where to draw; its x axis is the caller's.
        rows: Of ``audits.jsonl``, of one pattern or of several that differ in their place alone.
        methods: All methods of the figure, which decide on colors and markers.
        place: Where a row belongs on the x axis; None leaves it out.
        primary: The audited method, on top; default: by the names of the methods.
    """
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    order = in_order(methods, primary)
    members = {method: _points(rows, method, "members", place) for method in order}
    for number, (method, points) in enumerate(members.items()):
        above = [members[other] for other in order[:number]]
        _draw_members(panel, points, method_style(method, methods), above, zorder=4 - 0.01 * number)
    controls: dict[str, Points] = {}
    shared = set()
    for method in order:
        points = _points(rows, method, "controls", place)
        if not points:
            continue  # a line without points has no place, and the layout would give it all the room
        same = next((other for other, those in controls.items() if _rates(those) == _rates(points)), None)
        if same is None:
            controls[method] = points
        else:
            shared.add(same)
    for method, points in reversed(controls.items()):
        color, marker = (CONTROLS, "o") if method in shared else method_style(method, methods)
        panel.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=color,
            linestyle=CONTROL_DASHES,
            marker=marker,
            markersize=3,
            linewidth=1.2,
            markerfacecolor="white",
            markeredgewidth=0.8,
            clip_on=False,
            zorder=5,
        )


def in_order(methods: Sequence[str], primary: str | None = None) -> list[str]:
    """The methods with the audited one first; so they are drawn from the top down.

    >>> in_order(["known_mask", "blind"])
    ['blind', 'known_mask']
    """
    first = primary if primary in methods else primary_method(list(methods))
    return sorted(methods, key=lambda method: method != first)


def _points(rows: Sequence[Row], method: str, group: str, place: Callable[[Row], float | None]) -> Points:
    return sorted(
        (at, row["recovery_rate"], row["ci_low"], row["ci_high"])
        for row in rows
        if (row["method"], row["group"]) == (method, group)
        and row["recovery_rate"] is not None
        and (at := place(row)) is not None
    )


def _rates(points: Points) -> set[tuple[float, float]]:
    return {point[:2] for point in points}


def _ties(point: tuple[float, float, float, float], above: Sequence[Points]) -> int:
    """How many of the lines that are drawn later go through a point, as far as one can see."""
    return sum(any(at == point[0] and abs(rate - point[1]) < 0.01 for at, rate, _, _ in line) for line in above)


def _draw_members(panel: Axes, points: Points, style: tuple[str, str], above: Sequence[Points], zorder: float) -> None:
    if not points:
        return
    color, marker = style
    places, rates, low, high = zip(*points, strict=True)
    if len(points) == 1:
        panel.vlines(places, low, high, color=color, alpha=0.5, linewidth=1)
    else:
        panel.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
    if not above:
        panel.plot(places, rates, color="white", linewidth=3.0, clip_on=False, zorder=zorder)  # apart from the wider
    panel.plot(places, rates, color=color, linewidth=1.8, clip_on=False, zorder=zorder)
    ties = [_ties(point, above) for point in points]
    for number in range(1, len(points)):
        covered = min(ties[number - 1 : number + 1])
        if covered:
            some = slice(number - 1, number + 1)
            width = 1.8 + _WIDER * covered
            panel.plot(places[some], rates[some], color=color, linewidth=width, clip_on=False, zorder=zorder)
    for covered in sorted(set(ties)):
        panel.plot(
            [at for at, tied in zip(places, ties, strict=True) if tied == covered],
            [rate for rate, tied in zip(rates, ties, strict=True) if tied == covered],
            color=color,
            linestyle="none",
            marker=marker,
            markersize=5 + _WIDER * covered,
            markeredgecolor="white",
            markeredgewidth=0.5,
            clip_on=False,
            zorder=zorder + 0.005,
        )


def rate_legend(rows: Sequence[Row], methods: list[str], width: float, primary: str | None = None) -> dict[str, Any]:
    """Arguments of ``figure.legend`` for the methods, and for controls where there are any.

    Args:
        rows: All that are drawn.
        methods: All methods of the figure.
        width: Of the figure, in inches.
        primary: The audited method; default: by the names of the methods.
    """
    handles = []
    for method in in_order(methods, primary):
        color, marker = method_style(method, methods)
        handles.append(Line2D([], [], color=color, marker=marker, label=method_label(method)))
    if any(row["group"] == "controls" for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color=CONTROLS,
                linestyle=CONTROL_DASHES,
                linewidth=1.2,
                marker="o",
                markersize=3,
                markerfacecolor="white",
                label="controls (not trained on)",
            )
        )
    entry = 0.75 + 0.075 * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(4, len(handles), int(width / entry)))
    return {"handles": handles, "loc": "outside lower center", "ncols": columns, "handlelength": 3}

"""The chart of several runs: a panel for each, with all others behind it in gray, so that any number can be told."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.labels import MEMBERS_MSE, TRAIN_LOSS, shortened
from lightning_memaudit.report.style import (
    CONTROL_DASHES,
    CONTROLS,
    LEGEND_WIDTH,
    MEMBERS,
    drawable,
    figure_style,
    logarithmic,
)
from lightning_memaudit.report.svg import to_svg

_OTHERS = "#C4C4C4"
_COLUMNS = 4
_Moments = Sequence[Mapping[str, Any]]


def comparison_chart(documents: Sequence[Mapping[str, Any]], names: Sequence[str], prefix: str) -> Markup | None:
    """Share of members found memorized against the members' MSE, a panel per run; None where no audit has one.

    Args:
        documents: Of ``report.json``, one per run.
        names: What the runs are called.
        prefix: Unique within the page.
    """
    runs = [(name, _moments(document)) for document, name in zip(documents, names, strict=True)]
    runs = [(name, moments) for name, moments in runs if moments]
    if not runs:
        return None
    lines = -(-len(runs) // _COLUMNS)
    columns = -(-len(runs) // lines)
    with figure_style():
        figure = Figure(figsize=(max(0.5 + 1.9 * columns, LEGEND_WIDTH), 0.8 + 1.45 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        logarithmic(axes[0], [loss for _, moments in runs for loss in _losses(moments)])
        axes[0].set_ylim(-0.04, 1.04)
        axes[0].yaxis.set_major_formatter(PercentFormatter(1))
        for number, (panel, (name, moments)) in enumerate(zip(axes, runs, strict=False)):
            for other, (_, theirs) in enumerate(runs):
                if other != number:
                    panel.plot(_losses(theirs), _rates(theirs, "members"), color=_OTHERS, linewidth=0.8, zorder=2)
            _draw(panel, moments)
            title = drawable(shortened(name, 24))  # a folder's name may hold dollars
            panel.set_title(title, loc="left", fontsize=8, fontweight="bold", pad=3, parse_math=False)
            if number + columns >= len(runs):
                panel.tick_params(labelbottom=True)
        for panel in axes[len(runs) :]:
            panel.set_visible(False)
        figure.supxlabel(f"{TRAIN_LOSS}, falling →", fontsize=9)
        figure.supylabel("memorized", fontsize=9)
        figure.legend(handles=_legend(), loc="outside upper left", ncols=3)
    words = "; ".join(
        f"{name}: {moments[-1]['members']['rate'] or 0:.0%} at {MEMBERS_MSE} {_losses(moments)[-1]:.0e}"
        for name, moments in runs
    )
    return to_svg(figure, prefix, f"Share of members found memorized against {TRAIN_LOSS}, a panel per run. {words}.")


def _moments(document: Mapping[str, Any]) -> _Moments:
    return sorted((one for one in document["history"] if one["train_loss"]), key=lambda one: -float(one["train_loss"]))


def _losses(moments: _Moments) -> list[float]:
    return [max(float(one["train_loss"]), 1e-12) for one in moments]


def _rates(moments: _Moments, group: str) -> list[float]:
    rates = [None if one[group] is None else one[group]["rate"] for one in moments]
    return [math.nan if rate is None else float(rate) for rate in rates]


def _draw(panel: Axes, moments: _Moments) -> None:
    losses = _losses(moments)
    low, high = ([one["members"][end] for one in moments] for end in ("low", "high"))
    panel.fill_between(losses, low, high, color=MEMBERS, alpha=0.15, linewidth=0)
    panel.plot(losses, _rates(moments, "members"), color=MEMBERS, marker="o", markersize=3.5, clip_on=False, zorder=4)
    known = [one for one in moments if one["controls"]]
    if known:
        panel.plot(_losses(known), _rates(known, "controls"), clip_on=False, zorder=5, **_CONTROLS)


_CONTROLS: dict[str, Any] = {
    "color": CONTROLS,
    "linestyle": CONTROL_DASHES,
    "linewidth": 1.0,
    "marker": "D",
    "markersize": 2.5,
    "markerfacecolor": "white",
    "markeredgewidth": 0.7,
}


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=MEMBERS, marker="o", markersize=3.5, label="members of the run"),
        Line2D([], [], **_CONTROLS, label="its controls"),
        Line2D([], [], color=_OTHERS, linewidth=0.8, label="members of the other runs"),
    ]

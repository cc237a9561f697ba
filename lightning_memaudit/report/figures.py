"""PNG figures of a run, from its results files. Matplotlib without pyplot: nothing global is touched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.audit.results import RunFolder
from lightning_memaudit.report.selection import Example, choose_examples, saved_images
from lightning_memaudit.report.style import (
    NOT_RECOVERED,
    RECOVERED,
    figure_style,
    method_label,
    method_style,
    occasion_title,
    show_image,
)

FIGURES = "figures"
Row = dict[str, Any]


def write_figures(folder: RunFolder) -> list[Path]:
    """Draw every figure that the results of a run allow, into its ``figures`` folder.

    Returns:
        The files, in the order in which one would look at them.
    """
    from lightning_memaudit.report.paper_figures import write_paper_figures

    return [recovery_against_loss(folder), *strips(folder), *write_paper_figures(folder, folder.path / FIGURES)]


def save(figure: Figure, folder: RunFolder, name: str) -> Path:
    """Write a figure as ``figures/<name>.png``."""
    path = folder.path / FIGURES / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure.savefig(path, bbox_inches="tight", pad_inches=0.08)
    return path


# Recovery rate against train loss


def recovery_against_loss(folder: RunFolder) -> Path:
    """Draw the recovery rate of every method against the train loss, a panel per pattern.

    Raises:
        FileNotFoundError: The run has no audit.
    """
    return save(rate_figure(folder.audits()), folder, "recovery-against-loss")


def rate_figure(rows: Sequence[Row], width: float = 4.4, height: float = 3.3) -> Figure:
    """The recovery rate of every method against the train loss, a panel per pattern.

    Args:
        rows: Of all audits of a run.
        width: Of a panel, in inches; the smaller, the larger the letters in comparison.
        height: Likewise.
    """
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = min(len(patterns), 3)
    lines = -(-len(patterns) // columns)
    with figure_style():
        figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for pattern, panel in zip(patterns, axes, strict=False):
            _rate_panel(panel, [row for row in rows if row["pattern"] == pattern], methods)
            panel.set_title(pattern, loc="left", fontweight="bold")
        for panel in axes[len(patterns) :]:
            panel.set_visible(False)
        losses = {max(float(row["train_loss"]), 1e-12) for row in rows if _has_place(row)}
        if len(losses) == 1:  # a single point has no range to scale a logarithmic axis by
            (loss,) = losses
            axes[0].set_xlim(loss / 10, loss * 10)
        axes[0].invert_xaxis()  # shared: training goes to the right
        for index, panel in enumerate(axes):
            if index % columns == 0:
                panel.set_ylabel(f"recovered (PSNR ≥ {rows[0]['threshold_db']:g} dB)")
            if index + columns >= len(patterns):
                panel.set_xlabel("train loss (MSE), falling →")
                panel.tick_params(labelbottom=True)
        figure.legend(
            handles=_rate_legend(rows, methods),
            loc="outside lower center",
            ncols=min(4, len(methods) + 1),
            handlelength=3,
        )
    return figure


def _rate_panel(panel: Axes, rows: Sequence[Row], methods: list[str]) -> None:
    panel.set_xscale("log")
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    for method in methods:
        color, marker = method_style(method, methods)
        for group, dashes in (("controls", (0, (4, 2))), ("members", "-")):
            points = sorted(
                (row for row in rows if (row["method"], row["group"]) == (method, group) and _has_place(row)),
                key=lambda row: -float(row["train_loss"]),
            )
            if not points:
                continue
            losses = [max(row["train_loss"], 1e-12) for row in points]
            if group == "members":
                low, high = ([row[end] for row in points] for end in ("ci_low", "ci_high"))
                if len(points) == 1:
                    panel.vlines(losses, low, high, color=color, alpha=0.5, linewidth=1)
                else:
                    panel.fill_between(losses, low, high, color=color, alpha=0.12, linewidth=0)
            panel.plot(
                losses,
                [row["recovery_rate"] for row in points],
                color=color,
                linestyle=dashes,
                marker=marker,
                markersize=5 if group == "members" else 3,
                linewidth=1.8 if group == "members" else 1.2,
                markerfacecolor=color if group == "members" else "white",
                clip_on=False,
                zorder=4 if group == "members" else 3,
            )


def _has_place(row: Row) -> bool:
    return row["train_loss"] is not None and row["recovery_rate"] is not None


def _rate_legend(rows: Sequence[Row], methods: list[str]) -> list[Line2D]:
    handles = []
    for method in methods:
        color, marker = method_style(method, methods)
        handles.append(Line2D([], [], color=color, marker=marker, label=method_label(method)))
    if any(row["group"] == "controls" for row in rows):
        label = "controls (not trained on)"
        handles.append(
            Line2D(
                [],
                [],
                color="#444444",
                linestyle=(0, (4, 2)),
                linewidth=1.2,
                marker="o",
                markersize=3,
                markerfacecolor="white",
                label=label,
            )
        )
    return handles


# Strips


def strips(folder: RunFolder) -> list[Path]:
    """Draw, for every pattern, some images: truth, observed, estimated mask, and what each method got back.

    The images are the best, the median and the worst of the members, and two controls. Nothing is drawn when the
    run saved no recoveries.
    """
    arrays = folder.recoveries()
    path = folder.recoveries_path()
    if path is None:
        return []
    audit = int(path.stem.rpartition("-")[2])
    rows = [row for row in folder.audits() if row["audit"] == audit]
    images = saved_images(folder, audit, arrays)
    paths = []
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["pattern"] == pattern))
        examples = choose_examples(arrays, images, pattern, methods)
        if examples:
            paths.append(save(_strip(examples, pattern, methods, rows[0]), folder, f"strip-{pattern}"))
    return paths


def _strip(examples: Sequence[Example], pattern: str, methods: list[str], occasion: Row) -> Figure:
    headers = ["truth", "observed", "mask, estimated", *(method_label(method) for method in methods)]
    size = 1.15
    with figure_style():
        figure = Figure(figsize=(size * (len(headers) + 0.75), (size + 0.22) * len(examples) + 0.75))
        grid = figure.subplots(len(examples), len(headers), squeeze=False)
        left = 0.75 / (len(headers) + 0.75)
        height = figure.get_figheight()
        figure.subplots_adjust(
            left=left, right=0.995, top=1 - 0.72 / height, bottom=0.2 / height, wspace=0.08, hspace=0.26
        )
        for panel, header in zip(grid[0], headers, strict=True):
            panel.set_title(header.replace(" ", "\n", 1) if len(header) > 11 else header, fontsize=8, pad=4)
        for line, example in zip(grid, examples, strict=True):
            line[0].set_ylabel(example.label, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
            for panel in line:
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
            show_image(line[0], example.truth)
            show_image(line[1], example.observed)
            if example.mask is None:
                line[2].set_visible(False)
            else:
                show_image(line[2], example.mask)
                line[2].spines[:].set(visible=True, color="#BBBBBB", linewidth=0.6)
                if example.mask_accuracy is not None:
                    line[2].set_xlabel(f"{example.mask_accuracy:.1%} right", fontsize=7.5, labelpad=2)
            for panel, method in zip(line[3:], methods, strict=True):
                _show_recovery(panel, example, method)
        occasion_title(figure, pattern, occasion, 1 - 0.12 / height)
        return figure


def _show_recovery(panel: Axes, example: Example, method: str) -> None:
    outcome = example.outcomes.get(method)
    if outcome is None:
        panel.text(0.5, 0.5, "failed", ha="center", va="center", transform=panel.transAxes, color=NOT_RECOVERED)
        return
    show_image(panel, outcome.image)
    color = RECOVERED if outcome.recovered else NOT_RECOVERED
    panel.spines[:].set(visible=True, color=color, linewidth=2)
    panel.set_xlabel(outcome.caption, fontsize=8, labelpad=2, color=color)

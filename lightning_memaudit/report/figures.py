"""PNG figures of a run, from its results files. Matplotlib without pyplot: nothing global is touched."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_memaudit.report.extraction import extraction_figure
from lightning_memaudit.report.labels import MEMBERS_MSE, TRAIN_LOSS
from lightning_memaudit.report.paper_figures import write_paper_figures
from lightning_memaudit.report.rates import draw_rates, rate_legend
from lightning_memaudit.report.selection import Example, choose_examples, saved_images
from lightning_memaudit.report.style import (
    NOT_RECOVERED,
    RECOVERED,
    drawn_name,
    figure_style,
    method_label,
    occasion_title,
    save_figure,
    show_image,
)
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder

FIGURES = "figures"


def write_figures(folder: RunFolder) -> list[Path]:
    """Draw every figure that the results of a run allow, into its ``figures`` folder.

    Returns:
        The files, in the order in which one would look at them.

    Raises:
        FileNotFoundError: The run has no audit.
    """
    return [
        recovery_against_loss(folder),
        *strips(folder),
        *extraction_figure(folder),
        *write_paper_figures(folder, folder.path / FIGURES),
    ]


# Recovery rate against train loss


def recovery_against_loss(folder: RunFolder) -> Path:
    """Draw the recovery rate of every method against the train loss, a panel per pattern.

    Raises:
        FileNotFoundError: The run has no audit.
    """
    return save_figure(rate_figure(folder.audits()), folder.path / FIGURES / "recovery-against-loss.png")


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
        axes[0].set_xscale("log")  # shared by all
        losses = {loss for row in rows if row["recovery_rate"] is not None and (loss := _loss(row)) is not None}
        if len(losses) == 1:  # a single point has no range to scale a logarithmic axis by
            (loss,) = losses
            axes[0].set_xlim(loss / 10, loss * 10)
        for pattern, panel in zip(patterns, axes, strict=False):
            draw_rates(panel, [row for row in rows if row["pattern"] == pattern], methods, _loss)
            panel.set_title(pattern, loc="left", fontweight="bold")
        for panel in axes[len(patterns) :]:
            panel.set_visible(False)
        axes[0].invert_xaxis()  # shared: training goes to the right
        for index, panel in enumerate(axes):
            if index % columns == 0:
                panel.set_ylabel(f"recovered (PSNR ≥ {rows[0]['threshold_db']:g} dB)")
            if index + columns >= len(patterns):
                panel.set_xlabel(f"{TRAIN_LOSS if width > 4 else MEMBERS_MSE}, falling →")
                panel.tick_params(labelbottom=True)
        figure.legend(**rate_legend(rows, methods))
    return figure


def _loss(row: Row) -> float | None:
    return None if row["train_loss"] is None else max(float(row["train_loss"]), 1e-12)


# Strips


def strips(folder: RunFolder) -> list[Path]:
    """Draw, for every pattern, some images: truth, observed, estimated mask, and what each method got back.

    The images are the best, the median and the worst of the members, and two controls. Nothing is drawn when the
    run saved no recoveries.
    """
    saved = folder.newest_recoveries()
    if saved is None:
        return []
    rows = [row for row in folder.audits() if row["audit"] == saved.audit]
    images = saved_images(folder, saved.audit, saved.arrays)
    paths = []
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["pattern"] == pattern))
        examples = choose_examples(saved.arrays, images, pattern, methods)
        if examples:
            figure = _strip(examples, pattern, methods, rows[0])
            paths.append(save_figure(figure, folder.path / FIGURES / f"strip-{pattern}.png"))
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
            label = f"{example.why}\n{example.kind} {drawn_name(example.name, example.image)}"
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, labelpad=6, parse_math=False)
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

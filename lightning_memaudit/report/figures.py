"""Figures of a run, from its results files. Matplotlib without pyplot: nothing global is touched."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_memaudit.report.gallery import extraction_figure
from lightning_memaudit.report.labels import MEMBERS_MSE, TRAIN_LOSS
from lightning_memaudit.report.paper_figures import fraction_figure, iteration_figures
from lightning_memaudit.report.rates import draw_rates, rate_legend
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.selection import Example, choose_examples, shown_methods
from lightning_memaudit.report.sheet import Sheet, titled_sheet
from lightning_memaudit.report.style import (
    LEGEND_WIDTH,
    drawn_name,
    figure_style,
    in_lines,
    logarithmic,
    method_label,
    occasion_words,
    save_figure,
)
from lightning_memaudit.report.views import drawn_as
from lightning_memaudit.results.rows import Row

FIGURES = "figures"
LONG_NAME = 14
"""Letters of an image's name from which on it has a line of its own beside a strip."""


def write_figures(view: RunView, formats: Sequence[str] = ("png",), pictures: bool = True) -> list[Path]:
    """Draw every figure that the results of a run allow, into its ``figures`` folder.

    Args:
        view: Of the run.
        formats: ``png``, ``pdf``, ``svg``: each figure is written in all of them.
        pictures: Also those that show images; they are training data.

    Returns:
        The files, in the order in which one would look at them.
    """
    figures = {"recovery-against-loss": rate_figure(view.rows, primary=view.primary)}
    if pictures:
        figures |= {**strips(view), **extraction_figure(view), **iteration_figures(view.folder, view.channels)}
    fractions = fraction_figure([view.folder], view.primary)
    if fractions is not None:
        figures["recovery-against-missing-fraction"] = fractions
    target = view.folder.path / FIGURES
    return [path for name, figure in figures.items() for path in save_figure(figure, target / name, formats)]


# Recovery rate against train loss


def rate_figure(rows: Sequence[Row], width: float = 4.4, height: float = 3.3, primary: str | None = None) -> Figure:
    """The recovery rate of every method against the train loss, a panel per pattern.

    Args:
        rows: Of all audits of a run.
        width: Of a panel, in inches; the smaller, the larger the letters in comparison.
        height: Likewise.
        primary: The audited method, drawn on top; default: by the names of the methods.
    """
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = -(-len(patterns) // 3)
    columns = -(-len(patterns) // lines)  # four are two by two
    with figure_style():
        total = max(width * columns, LEGEND_WIDTH)
        figure = Figure(figsize=(total, height * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        losses = {loss for row in rows if row["recovery_rate"] is not None and (loss := _loss(row)) is not None}
        logarithmic(axes[0], losses)  # shared by all: training goes to the right
        for pattern, panel in zip(patterns, axes, strict=False):
            draw_rates(panel, [row for row in rows if row["pattern"] == pattern], methods, _loss, primary)
            panel.set_title(in_lines(pattern, int(10 * width)), loc="left", fontweight="bold")
        for panel in axes[len(patterns) :]:
            panel.set_visible(False)
        for index, panel in enumerate(axes):
            if index % columns == 0:
                panel.set_ylabel(f"recovered (PSNR ≥ {rows[0]['threshold_db']:g} dB)")
            if index + columns >= len(patterns):
                panel.set_xlabel(f"{TRAIN_LOSS if width > 4 else MEMBERS_MSE}, falling →")
                panel.tick_params(labelbottom=True)
        figure.legend(**rate_legend(rows, methods, total, primary))
    return figure


def _loss(row: Row) -> float | None:
    return None if row["train_loss"] is None else max(float(row["train_loss"]), 1e-12)


# Strips


def strips(view: RunView) -> dict[str, Figure]:
    """For every pattern some images: observed, what the audited method got back, truth, mask, the other methods.

    The images are the best, the median and the worst of the members, and two controls.

    Returns:
        Figures by their names; none when the run saved no recoveries.
    """
    if view.saved is None:
        return {}
    rows = [row for row in view.rows if row["audit"] == view.saved.audit]
    figures = {}
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        methods = shown_methods(rows, pattern, view.primary)
        examples = choose_examples(view.saved.arrays, view.images, pattern, methods, methods[0], view.channels)
        if examples:
            drawn = drawn_as(view.saved.arrays[f"{examples[0].group}/truth"].shape[1:], view.channels)
            figures[f"strip-{pattern}"] = _strip(examples, pattern, methods, rows[0], drawn)
    return figures


def _strip(examples: Sequence[Example], pattern: str, methods: list[str], occasion: Row, drawn: str) -> Figure:
    first, *others = methods
    heads = ["observed", method_label(first), "truth", "mask,\nestimated", *map(method_label, others)]
    title, like = [occasion_words(pattern, occasion), drawn], examples[0].truth
    sheet = titled_sheet(title, len(examples), len(heads), size=1.15, left=1.5, top=0.78, like=like)
    for column, head in enumerate(heads):
        sheet.head(column, head.replace(" ", "\n", 1) if len(head) > 15 else head)
    for line, example in enumerate(examples):
        name = drawn_name(example.name, example.image)
        between = "\n" if len(name) > LONG_NAME else " "  # on a line of its own where it would reach the border
        sheet.label(line, f"{example.why}\n{example.kind}{between}{name}")
        sheet.image(line, 0, example.observed)
        _show_recovery(sheet, line, 1, example, first)
        sheet.image(line, 2, example.truth)
        if example.mask is not None:
            right = "" if example.mask_accuracy is None else f"{example.mask_accuracy:.1%} right"
            sheet.image(line, 3, example.mask, right, framed=True)
        for column, method in enumerate(others, start=4):
            _show_recovery(sheet, line, column, example, method)
    return sheet.figure


def _show_recovery(sheet: Sheet, line: int, column: int, example: Example, method: str) -> None:
    outcome = example.outcomes.get(method)
    if outcome is None:
        sheet.words(line, column, "failed")
    else:
        sheet.image(line, column, outcome.image, outcome.caption, recovered=outcome.recovered)

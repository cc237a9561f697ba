"""The paper's figures (arXiv 2310.02897): recoveries and masks along the iterations, rates against missing pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.document import missing_fraction, run_name
from lightning_memaudit.report.labels import MEMBERS_MSE, saved_names, shortened
from lightning_memaudit.report.rates import draw_rates, rate_legend
from lightning_memaudit.report.selection import best_median_worst, center_of
from lightning_memaudit.report.sheet import titled_sheet
from lightning_memaudit.report.style import (
    LEGEND_WIDTH,
    drawable,
    drawn_name,
    figure_style,
    in_lines,
    method_label,
    occasion_words,
)
from lightning_memaudit.report.views import drawn_as, picture_of, picture_of_mask
from lightning_memaudit.results.quantities import MAX_PSNR
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder

PLAIN = "autoencoder_iterations"
PROPOSED = ("blind", "paper_blind")


# Along the iterations


def iteration_figures(folder: RunFolder, channels: Sequence[int] | None = None) -> "dict[str, Figure]":
    """For every pattern whose recoveries were recorded: the proposed method, its mask, and plain iteration below.

    Recorded are methods with ``record_at``, such as ``paper_blind`` by class path. The images are the best, the median
    and the worst training image by the PSNR at the end of the proposed method.

    Args:
        folder: Of the run.
        channels: Those to show, see :func:`.chosen`.

    Returns:
        Figures by their names; none when nothing was recorded.
    """
    saved = folder.newest_recoveries()
    if saved is None:
        return {}
    arrays = saved.arrays
    rows = [row for row in folder.audits() if row["audit"] == saved.audit]
    figures = {}
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["pattern"] == pattern))
        traced = [name for name in methods if f"members/{pattern}/{name}/trace_image" in arrays]
        proposed = _proposed(traced)
        if proposed is not None:
            plain = PLAIN if PLAIN in traced else None
            figures[f"iterations-{pattern}"] = _iteration_figure(arrays, pattern, proposed, plain, rows[0], channels)
    return figures


def _proposed(traced: Sequence[str]) -> str | None:
    return next((name for name in (*PROPOSED, *traced) if name in traced and name != PLAIN), None)


def _iteration_figure(
    arrays: "Mapping[str, np.ndarray[Any, Any]]",
    pattern: str,
    proposed: str,
    plain: str | None,
    occasion: Row,
    channels: Sequence[int] | None,
) -> Figure:
    truth = arrays["members/truth"]
    traces = {name: arrays[f"members/{pattern}/{name}/trace_image"] for name in (proposed, plain) if name is not None}
    masks = arrays[f"members/{pattern}/{proposed}/trace_mask"]
    iterations = arrays[f"members/{pattern}/{proposed}/trace_iterations"][0]
    quality = [_psnr(traces[proposed][image, -1], truth[image]) for image in range(len(truth))]
    chosen = best_median_worst([int(image) for image in np.argsort(quality, kind="stable")[::-1]])
    names, indices = saved_names(arrays, "members"), arrays["members/indices"]
    kinds = [("recovery", proposed), ("mask", proposed), *([("recovery", plain)] if plain else [])]
    title = [occasion_words(pattern, occasion), "Masks: white is observed.", drawn_as(truth.shape[1:], channels)]
    like = picture_of(truth[0])
    sheet = titled_sheet(title, len(kinds) * len(chosen), 2 + len(iterations), 0.95, left=1.5, top=0.6, like=like)
    for column, head in enumerate(["truth", "observed", *[f"step {step}" for step in iterations]]):
        sheet.head(column, head)
    for place, (image, why) in enumerate(chosen):
        at = center_of(arrays, f"members/{pattern}/observed", image)
        for number, (kind, name) in enumerate(kinds):
            line = place * len(kinds) + number
            label = f"{method_label(name)},\nestimated mask" if kind == "mask" else method_label(name)
            label = label.replace("autoencoder iterations", "autoencoder\niterations")
            member = drawn_name(names[image], int(indices[image]))
            sheet.label(line, (f"{why}, member {member}\n" if number == 0 else "") + label)
            for step in range(len(iterations)):
                if kind == "mask":
                    sheet.image(line, 2 + step, picture_of_mask(masks[image, step], at, channels), framed=True)
                else:
                    recovery = traces[name][image, step]
                    caption, recovered = _outcome(recovery, truth[image], occasion["threshold_db"])
                    sheet.image(line, 2 + step, picture_of(recovery, at, channels), caption, recovered=recovered)
        first = place * len(kinds)
        sheet.image(first, 0, picture_of(truth[image], at, channels))
        sheet.image(first, 1, picture_of(arrays[f"members/{pattern}/observed"][image], at, channels))
        true_mask = arrays[f"members/{pattern}/mask"][image].astype(float)
        sheet.image(first + 1, 1, picture_of_mask(true_mask, at, channels), "true mask", framed=True)
    return sheet.figure


def _outcome(image: "np.ndarray[Any, Any]", truth: "np.ndarray[Any, Any]", threshold_db: float) -> tuple[str, bool]:
    """The caption of a recovery, and whether it counts as recovered."""
    quality = _psnr(image, truth)
    recovered = quality >= threshold_db
    caption = f"{quality:.1f} dB {'✓' if recovered else '✗'}" if np.isfinite(quality) else "diverged ✗"
    return caption, recovered


def _psnr(image: "np.ndarray[Any, Any]", truth: "np.ndarray[Any, Any]") -> float:
    """In dB for a peak of 1, at most :data:`MAX_PSNR`; minus infinity for images that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean(np.square(image.astype(np.float64) - truth)))
    return float(-10 * np.log10(max(error, 10 ** (-MAX_PSNR / 10)))) if np.isfinite(error) else -np.inf


# Against the missing fraction


def fraction_figure(folders: Sequence[RunFolder], primary: str | None = None) -> Figure | None:
    """Recovery rate against the share of missing pixels, at the last audit: a row per run, a panel per kind of mask.

    Args:
        folders: One run per architecture, for instance.
        primary: The audited method, drawn on top; default: by the names of the methods.

    Returns:
        None when no run has two fractions of one kind.
    """
    runs = [(run_name(folder), _families(_last(folder.audits()))) for folder in folders]
    kinds = list(dict.fromkeys(kind for _, families in runs for kind in families))
    runs = [(name, families) for name, families in runs if families]
    if not kinds:
        return None
    drawn = [row for _, families in runs for rows in families.values() for row in rows]
    methods = list(dict.fromkeys(row["method"] for row in drawn))
    with figure_style():
        width = max(1.0 + 3.6 * len(kinds), LEGEND_WIDTH)
        figure = Figure(figsize=(width, 0.7 + 2.7 * len(runs)), layout="constrained")
        axes = figure.subplots(len(runs), len(kinds), squeeze=False, sharex=True, sharey=True)
        for line, (name, families) in zip(axes, runs, strict=True):
            for panel, kind in zip(line, kinds, strict=True):
                if kind not in families:
                    panel.set_visible(False)
                    continue
                panel.set_xlim(0, 1)
                panel.xaxis.set_major_formatter(PercentFormatter(1))
                draw_rates(panel, families[kind], methods, _missing, primary)
                loss = families[kind][0]["train_loss"]
                suffix = "" if loss is None else f", {MEMBERS_MSE} {loss:.1e}"
                title = f"{drawable(shortened(name))}\n{in_lines(kind, 16)}{suffix}"
                panel.set_title(title, loc="left", fontsize=9, fontweight="bold", parse_math=False)
            line[0].set_ylabel("recovered")
        for panel in axes[-1]:
            panel.set_xlabel("missing pixels")
        figure.legend(**rate_legend(drawn, methods, width, primary))
    return figure


def _missing(row: Row) -> float | None:
    return missing_fraction(row["pattern"])


def _last(rows: Sequence[Row]) -> list[Row]:
    newest = max(row["audit"] for row in rows)
    return [row for row in rows if row["audit"] == newest]


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the kind of mask with its modifiers, where that has at least two missing fractions."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if missing_fraction(row["pattern"]) is not None and row["recovery_rate"] is not None:
            head, *modifiers = row["pattern"].split("+")
            families.setdefault("+".join([head.partition("-")[0], *modifiers]), []).append(row)
    return {kind: found for kind, found in families.items() if len({row["pattern"] for row in found}) > 1}

"""Charts of the HTML report: drawn by matplotlib, written as SVG that takes its colours from the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.document import missing_fraction
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.labels import MEMBERS_MSE, TRAIN_LOSS
from lightning_memaudit.report.style import METHOD_STYLES, drawable, figure_style, method_label

Row = Mapping[str, Any]

MEMBERS, CONTROLS, INPAINTED = "#0072B2", "#D55E00", "#767676"
"""The three things compared; the page has its own shade of each for light and dark."""

_SURVIVORS: Any = (("members", MEMBERS, "-"), ("controls", CONTROLS, (0, (4, 2))))
MAX_DOTS = 400
"""Images of a group that are drawn as dots: the first, which are as good as any."""

PAGE_COLORS = {"#000000": "currentColor", "#e4e4e4": "var(--line)", "#444444": "var(--soft)"} | {
    color.lower(): f"var(--{name.replace('_', '-')})" for name, (color, _) in METHOD_STYLES.items()
}
"""From matplotlib's colours to the page's."""


def to_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """The figure as inline SVG: no size of its own, colours of the page, ids that are unique to ``prefix``.

    Args:
        figure: Any.
        prefix: Unique within the page.
        description: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": prefix, "font.family": "sans-serif"}
    with figure_style(), matplotlib.rc_context(settings):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r'id="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    for color, replacement in PAGE_COLORS.items():
        text = re.sub(color, replacement, text, flags=re.IGNORECASE)
    label = escape(description)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return Markup(text)  # made here; the one foreign text, the label, is escaped


def loss_chart(rows: Sequence[Row], primary: str, prefix: str) -> Markup | None:
    """Recovery rate against the members' MSE; None when there was only one audit.

    Args:
        rows: Of all audits of a run.
        primary: The method whose last rates are told to those who do not see the chart.
        prefix: Unique within the page.
    """
    if len({row["audit"] for row in rows}) < 2:
        return None
    ends = [row for row in rows if row["audit"] == max(r["audit"] for r in rows) and row["method"] == primary]
    words = "; ".join(
        f"{row['pattern']}, {row['group']}: {row['recovery_rate']:.0%}"
        for row in ends
        if row["recovery_rate"] is not None
    )
    return to_svg(
        rate_figure([dict(row) for row in rows], width=3.0, height=2.9),
        prefix,
        f"Recovery rate of each method against the falling {TRAIN_LOSS}, one panel per pattern. At last: {words}.",
    )


def dots(
    document: Mapping[str, Any], quantity: str, limits: tuple[float, float], line: float, label: str
) -> tuple[Figure, Any]:
    """A figure in which every image is a dot, members beside controls, a panel per pattern; and its first panel.

    Args:
        document: Of ``report.json``.
        quantity: Of the table of images: a number by pattern.
        limits: Values beyond are drawn at these.
        line: Where a dashed line is drawn across.
        label: Of the vertical axis.
    """
    judgement = document["judgement"]
    patterns = [finding["pattern"] for finding in judgement["patterns"]]
    groups = [group for group in ("members", "controls") if group in judgement["reconstruction"]]
    with figure_style():
        figure = Figure(figsize=(1.2 + 1.7 * len(patterns), 2.9), layout="constrained")
        axes = figure.subplots(1, len(patterns), squeeze=False, sharey=True)[0]
        for panel, pattern in zip(axes, patterns, strict=True):
            for place, group in enumerate(groups):
                values = [image[quantity].get(pattern) for image in document["images"] if image["group"] == group]
                present = [max(limits[0], min(value, limits[1])) for value in values if value is not None][:MAX_DOTS]
                # A fixed zigzag instead of chance: the same report gives the same picture.
                across = [place + 0.28 * ((7 * i % 11) / 5 - 1) for i in range(len(present))]
                panel.plot(
                    across,
                    present,
                    "o" if group == "members" else "D",
                    color=MEMBERS if group == "members" else CONTROLS,
                    markersize=3,
                    alpha=0.7,
                    markeredgewidth=0,
                    clip_on=False,
                )
            panel.axhline(line, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
            panel.set_xticks(range(len(groups)), groups)
            panel.set_xlim(-0.6, len(groups) - 0.4)
            panel.grid(axis="x", visible=False)
            panel.set_title(pattern, loc="left", fontweight="bold", fontsize=9)
        axes[0].set_ylabel(label)
    return figure, axes[0]


def image_chart(document: Mapping[str, Any], prefix: str) -> Markup:
    """Every image a dot: the PSNR of its recovery, members beside controls, a panel per pattern."""
    judgement = document["judgement"]
    groups = [group for group in ("members", "controls") if group in judgement["reconstruction"]]
    threshold = judgement["threshold_db"]
    with figure_style():
        figure, panel = dots(document, "psnr", (-math.inf, 60.0), threshold, "PSNR of the recovery (dB)")
        panel.annotate(
            f"recovered ≥ {threshold:g} dB", (-0.55, threshold), (0, 3), textcoords="offset points", fontsize=7.5
        )
    words = "; ".join(
        f"{finding['pattern']}: "
        + " and ".join("{count} of {num}".format(**finding[group]["recovered"]) + f" {group}" for group in groups)
        for finding in judgement["patterns"]
    )
    return to_svg(figure, prefix, f"PSNR of every recovery by pattern. At or above {threshold:g} dB are {words}.")


def fraction_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """Share of images that come back against the share of pixels that is missing; None for fewer than two shares."""
    families: dict[str, list[tuple[float, Row]]] = {}
    for finding in document["judgement"]["patterns"]:
        fraction = missing_fraction(finding["pattern"])
        if fraction is not None:
            head, *modifiers = finding["pattern"].split("+")
            families.setdefault("+".join([head.partition("-")[0], *modifiers]), []).append((fraction, finding))
    families = {
        name: sorted(points, key=lambda point: point[0]) for name, points in families.items() if len(points) > 1
    }
    if not families:
        return None
    with figure_style():
        figure = Figure(figsize=(1.2 + 3.3 * len(families), 2.9), layout="constrained")
        axes = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
        words = []
        for panel, (family, points) in zip(axes, families.items(), strict=True):
            _fraction_panel(panel, points)
            panel.set_title(family, loc="left", fontweight="bold")
            panel.set_xlabel("missing pixels")
            words += [
                f"{fraction:.0%} missing ({family}): {finding['members']['recovered']['rate'] or 0:.0%} of members"
                for fraction, finding in points
            ]
        axes[0].set_ylabel("images that come back")
        figure.legend(handles=_fraction_legend(), loc="outside lower center", ncols=3)
    return to_svg(figure, prefix, f"Share of images that come back against missing pixels. {'; '.join(words)}.")


def survival_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """Share of images that still come back, against the missing fraction; None where that was not measured."""
    measured = document["largest_missing"]
    if measured is None:
        return None
    words = []
    with figure_style():
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        panel = figure.subplots()
        for (group, color, dashes), name in product(_SURVIVORS, ("largest_missing", "inpainted_missing")):
            rows = [row for row in measured["images"] if row["group"] == group]
            largest = sorted(row[name] for row in rows if row.get(name) is not None)
            if not largest:
                continue
            inpainted = name == "inpainted_missing"
            what = f"{group}, inpainting alone" if inpainted else group
            style = {"color": color, "linestyle": dashes, "label": what, "linewidth": 0.8 if inpainted else 1.6}
            left = [1 - index / len(largest) for index in range(len(largest))]
            panel.step([0, *largest, 1], [1, *left, 0], where="pre", **style)
            half = largest[len(largest) // 2]
            words.append(f"half of the {group} still come back with {half:.0%} missing{' by inpainting' * inpainted}")
        panel.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="randomly missing pixels", ylabel="images that come back")
        panel.xaxis.set_major_formatter(PercentFormatter(1))
        panel.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(loc="outside lower center", ncols=2)
    return to_svg(figure, prefix, f"Share of images that still come back as pixels go missing: {'; '.join(words)}.")


def _fraction_panel(panel: Axes, points: Sequence[tuple[float, Row]]) -> None:
    across = [fraction for fraction, _ in points]
    for (group, what), color, marker in (
        (("members", "recovered"), MEMBERS, "o"),
        (("controls", "recovered"), CONTROLS, "D"),
        (("members", "inpainted"), INPAINTED, "v"),
    ):
        shares = [finding[group] and finding[group][what] for _, finding in points]
        if not all(shares):
            continue
        panel.plot(across, [share["rate"] for share in shares], color=color, marker=marker, clip_on=False)
        panel.fill_between(
            across,
            [share["low"] for share in shares],
            [share["high"] for share in shares],
            color=color,
            alpha=0.13,
            linewidth=0,
        )
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xticks(across, [f"{fraction:.0%}" for fraction in across])
    panel.set_xlim(min(across) - 0.05, max(across) + 0.05)


def _fraction_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=MEMBERS, marker="o", label="members, blind"),
        Line2D([], [], color=CONTROLS, marker="D", label="controls, blind"),
        Line2D([], [], color=INPAINTED, marker="v", label="members, inpainting alone"),
    ]


def roc_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """ROC curve of membership from the blind score; None without both groups."""
    membership = document["judgement"]["membership"]
    if not membership["roc"]:
        return None
    false, true = zip(*membership["roc"], strict=True)
    with figure_style():
        figure = Figure(figsize=(2.9, 2.7), layout="constrained")
        panel = figure.subplots()
        panel.plot([0, 1], [0, 1], color="#444444", linewidth=0.9, linestyle=(0, (4, 3)))
        panel.plot(false, true, color=MEMBERS, clip_on=False, zorder=4)
        panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="controls called members", ylabel="members called members")
        panel.xaxis.set_major_formatter(PercentFormatter(1))
        panel.yaxis.set_major_formatter(PercentFormatter(1))
    area = membership["auroc"]
    words = (
        "" if area is None else f" The area under it is {area['value']:.2f} ({area['low']:.2f} to {area['high']:.2f})."
    )
    return to_svg(figure, prefix, f"ROC curve of telling members from controls by the blind score.{words}")


def comparison_chart(documents: Sequence[Mapping[str, Any]], names: Sequence[str], prefix: str) -> Markup | None:
    """Share of members found memorized against the members' MSE, a line per run."""
    order = ("blind", "autoencoder_iterations", "known_mask", "ddnm", "white_box", "biharmonic", "paper_blind")
    colors, markers = zip(*(METHOD_STYLES[name] for name in order), strict=True)
    with figure_style():
        figure = Figure(figsize=(6.2, 3.4), layout="constrained")
        panel = figure.subplots()
        words: list[str] = []
        handles: list[Line2D] = []
        labels: list[str] = []
        for i, (document, name) in enumerate(zip(documents, names, strict=True)):
            moments = [one for one in document["history"] if one["train_loss"]]
            if not moments:
                continue
            moments.sort(key=lambda one: -one["train_loss"])
            losses = [max(one["train_loss"], 1e-12) for one in moments]
            color, marker = colors[i % len(colors)], markers[i % len(markers)]
            shares = [one["members"] for one in moments]
            panel.plot(losses, [share["rate"] for share in shares], color=color, marker=marker, clip_on=False)
            handles.append(Line2D([], [], color=color, marker=marker))
            labels.append(drawable(name))
            low, high = ([share[end] for share in shares] for end in ("low", "high"))
            panel.fill_between(losses, low, high, color=color, alpha=0.1, linewidth=0)
            words.append(f"{name}: {shares[-1]['rate'] or 0:.0%} at {MEMBERS_MSE} {losses[-1]:.0e}")
        if not words:
            return None
        panel.set_xscale("log")
        panel.invert_xaxis()
        panel.set_ylim(-0.04, 1.04)
        panel.yaxis.set_major_formatter(PercentFormatter(1))
        panel.set(xlabel=f"{TRAIN_LOSS}, falling →", ylabel="members memorized")
        legend = figure.legend(handles, ["run"] * len(labels), loc="outside lower center", ncols=2)
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set(text=label, parse_math=False)  # a folder's name may hold dollars, or begin with an underscore
    return to_svg(figure, prefix, f"Share of members found memorized against {TRAIN_LOSS}. {'; '.join(words)}.")


__all__ = ["comparison_chart", "fraction_chart", "image_chart", "loss_chart", "method_label", "roc_chart", "to_svg"]

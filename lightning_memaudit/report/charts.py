"""Charts of the HTML report on one run."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lightning_memaudit.report.document import missing_fraction
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.labels import TRAIN_LOSS
from lightning_memaudit.report.style import (
    CONTROL_DASHES,
    CONTROLS,
    INPAINTED,
    LEGEND_WIDTH,
    MEMBERS,
    figure_style,
    in_lines,
    method_label,
)
from lightning_memaudit.report.svg import to_svg

Row = Mapping[str, Any]

_SURVIVORS: Any = (("controls", CONTROLS, CONTROL_DASHES), ("members", MEMBERS, "-"))
SHOWN_PSNR = (-20.0, 60.0)
"""Recoveries beyond these many dB are drawn there, and counted: they say no more."""
_COLUMNS = 5
"""Panels side by side: with more, letters become too small to read."""
MAX_DOTS = 400
"""Images of a group that are drawn as dots: the first, which are as good as any."""


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
        rate_figure([dict(row) for row in rows], width=3.0, height=2.9, primary=primary),
        prefix,
        f"Recovery rate of each method against the falling {TRAIN_LOSS}, one panel per pattern. At last: {words}.",
    )


def dots(
    document: Mapping[str, Any], quantity: str, limits: tuple[float, float], line: float, label: str
) -> tuple[Figure, str]:
    """A figure in which every image is a dot, members beside controls, a panel per pattern; and what it leaves out.

    Args:
        document: Of ``report.json``.
        quantity: Of the table of images: a number by pattern.
        limits: Values beyond are drawn at these, as triangles, and counted in the chart.
        line: Where a dashed line is drawn across.
        label: Of the vertical axis.
    """
    judgement = document["judgement"]
    patterns = [finding["pattern"] for finding in judgement["patterns"]]
    groups = [group for group in ("members", "controls") if group in judgement["reconstruction"]]
    beyond = []
    with figure_style():
        lines = -(-len(patterns) // _COLUMNS)
        columns = -(-len(patterns) // lines)
        figure = Figure(figsize=(1.2 + 1.7 * columns, 2.9 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for panel in axes[len(patterns) :]:
            panel.set_visible(False)
        for panel, pattern in zip(axes, patterns, strict=False):
            for place, group in enumerate(groups):
                values = [image[quantity].get(pattern) for image in document["images"] if image["group"] == group]
                present = [value for value in values if value is not None][:MAX_DOTS]
                color, marker = (MEMBERS, "o") if group == "members" else (CONTROLS, "D")
                # A fixed zigzag instead of chance: the same report gives the same picture.
                across = [place + 0.28 * ((7 * i % 11) / 5 - 1) for i in range(len(present))]
                points = list(zip(across, present, strict=True))
                within = [point for point in points if limits[0] <= point[1] <= limits[1]]
                for some, sign, size in (
                    (within, marker, 3.0),
                    ([(x, limits[1]) for x, value in points if value > limits[1]], "^", 4.0),
                    ([(x, limits[0]) for x, value in points if value < limits[0]], "v", 4.0),
                ):
                    if not some:
                        continue  # a line without points has no place, and the layout would give it all the room
                    panel.plot(
                        *zip(*some, strict=True),
                        sign,
                        color=color,
                        markersize=size,
                        alpha=0.8,
                        markeredgewidth=0 if group == "members" else 0.7,
                        markerfacecolor=color if group == "members" else "none",
                        clip_on=False,
                    )
                for over, limit, words in ((True, limits[1], "above"), (False, limits[0], "below")):
                    count = sum(value > limit if over else value < limit for value in present)
                    if count:
                        beyond.append(f"{pattern}: {count} of {len(present)} {group} are {words} {limit:g} dB")
                        panel.annotate(
                            f"{count} {words}",
                            (place, limit),
                            (0, 5 if over else -11),
                            textcoords="offset points",
                            ha="center",
                            fontsize=7,
                            color=color,
                            in_layout=False,
                        )
            panel.axhline(line, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
            panel.set_xticks(range(len(groups)), groups)
            panel.set_xlim(-0.6, len(groups) - 0.4)
            panel.grid(axis="x", visible=False)
            panel.set_title(in_lines(pattern, 21), loc="left", fontweight="bold", fontsize=9, pad=12)
        for panel in axes[::columns]:
            panel.set_ylabel(label)
    return figure, f" {'; '.join(beyond)}, and drawn there." if beyond else ""


def image_chart(document: Mapping[str, Any], prefix: str) -> Markup:
    """Every image a dot: the PSNR of its recovery, members beside controls, a panel per pattern."""
    judgement = document["judgement"]
    groups = [group for group in ("members", "controls") if group in judgement["reconstruction"]]
    threshold = judgement["threshold_db"]
    figure, beyond = dots(
        document, "psnr", (SHOWN_PSNR[0], max(SHOWN_PSNR[1], threshold)), threshold, "PSNR of the recovery (dB)"
    )
    with figure_style():
        figure.axes[len(judgement["patterns"]) - 1].annotate(
            f"recovered:\n≥ {threshold:g} dB",
            (1, threshold),  # beside the last panel, where no dot can be
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    words = "; ".join(
        f"{finding['pattern']}: "
        + " and ".join("{count} of {num}".format(**finding[group]["recovered"]) + f" {group}" for group in groups)
        for finding in judgement["patterns"]
    )
    return to_svg(
        figure, prefix, f"PSNR of every recovery by pattern. At or above {threshold:g} dB are {words}.{beyond}"
    )


_BY_INPAINTING: dict[str, Any] = {"color": INPAINTED, "marker": "v", "linewidth": 4, "markersize": 7}
_BY_METHOD: Any = (
    (("members", "recovered"), {"color": MEMBERS, "marker": "o"}),
    (
        ("controls", "recovered"),
        {
            "color": CONTROLS,
            "marker": "D",
            "linestyle": CONTROL_DASHES,
            "linewidth": 1.2,
            "markersize": 4,
            "markerfacecolor": "white",
        },
    ),
)
"""From below: what ties stays to be seen."""


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
        figure = Figure(figsize=(max(1.2 + 3.3 * len(families), LEGEND_WIDTH), 2.9), layout="constrained")
        axes = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
        words = []
        for panel, (family, points) in zip(axes, families.items(), strict=True):
            _fraction_panel(panel, points)
            panel.set_title(in_lines(family, 32), loc="left", fontweight="bold")
            panel.set_xlabel("missing pixels")
            words += [
                f"{fraction:.0%} missing ({family}): {finding['members']['recovered']['rate'] or 0:.0%} of members"
                for fraction, finding in points
            ]
        axes[0].set_ylabel("images that come back")
        figure.legend(handles=_fraction_legend(document["judgement"]["method"]), loc="outside lower center", ncols=3)
    return to_svg(figure, prefix, f"Share of images that come back against missing pixels. {'; '.join(words)}.")


def survival_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """Share of images that still come back, against the missing fraction; None where that was not measured."""
    measured = document["largest_missing"]
    if measured is None:
        return None
    words = []
    with figure_style():
        figure = Figure(figsize=(LEGEND_WIDTH, 2.9), layout="constrained")
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
    for (group, what), style in ((("members", "inpainted"), _BY_INPAINTING), *_BY_METHOD):
        shares = [finding[group] and finding[group][what] for _, finding in points]
        if not all(shares):
            continue
        panel.plot(across, [share["rate"] for share in shares], clip_on=False, **style)
        panel.fill_between(
            across,
            [share["low"] for share in shares],
            [share["high"] for share in shares],
            color=style["color"],
            alpha=0.13,
            linewidth=0,
        )
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_xticks(across, [f"{fraction:.0%}" for fraction in across])
    panel.set_xlim(min(across) - 0.05, max(across) + 0.05)


def _fraction_legend(method: str) -> list[Line2D]:
    return [
        Line2D([], [], **_BY_METHOD[0][1], label=f"members, {method_label(method)}"),
        Line2D([], [], **_BY_METHOD[1][1], label=f"controls, {method_label(method)}"),
        Line2D([], [], **_BY_INPAINTING, label="members, inpainting alone"),
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

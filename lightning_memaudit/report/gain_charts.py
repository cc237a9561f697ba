"""Charts of the recovery gain: members against controls image by image, and as the train loss falls."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from lightning_memaudit.report.charts import dots
from lightning_memaudit.report.labels import TRAIN_LOSS
from lightning_memaudit.report.style import MEMBERS, figure_style, logarithmic
from lightning_memaudit.report.svg import to_svg

_SHOWN = (-30.0, 60.0)
"""Gains beyond these many dB are drawn there: they say no more."""


def gain_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """Every image a dot: by how many dB it comes back closer than any baseline; None where that was not measured."""
    judgement = document["judgement"]
    if judgement["gain"] is None:
        return None
    figure, beyond = dots(document, "recovery_gain", _SHOWN, 0, "dB over the best baseline")
    words = "; ".join(
        f"{one['pattern']}: median {one['members']:+.1f} dB for members"
        + ("" if one["controls"] is None else f", {one['controls']:+.1f} for controls")
        for one in judgement["gain"]["patterns"]
        if one["members"] is not None
    )
    return to_svg(figure, prefix, f"Recovery gain of every image over the best baseline, by pattern. {words}.{beyond}")


def gain_loss_chart(document: Mapping[str, Any], prefix: str) -> Markup | None:
    """How well the gain tells members, against the members' MSE; None with fewer than two audits that say it."""
    moments = [one for one in document["history"] if one["train_loss"] and one["gain_auroc"] is not None]
    if len(moments) < 2:
        return None
    moments.sort(key=lambda one: -one["train_loss"])
    losses = [max(one["train_loss"], 1e-12) for one in moments]
    areas = [one["gain_auroc"] for one in moments]
    with figure_style():
        figure = Figure(figsize=(6.2, 2.9), layout="constrained")
        panel = figure.subplots()
        panel.plot(losses, [area["value"] for area in areas], "o-", color=MEMBERS, clip_on=False)
        low, high = ([area[end] for area in areas] for end in ("low", "high"))
        panel.fill_between(losses, low, high, color=MEMBERS, alpha=0.13, linewidth=0)
        panel.axhline(0.5, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
        logarithmic(panel, losses)
        panel.set_ylim(0.28, 1.02)
        panel.set(xlabel=f"{TRAIN_LOSS}, falling →", ylabel="AUROC of the recovery gain")
    return to_svg(
        figure,
        prefix,
        f"How well the recovery gain tells members from controls as the {TRAIN_LOSS} falls: {areas[0]['value']:.2f} "
        f"at {losses[0]:.0e}, {areas[-1]['value']:.2f} at {losses[-1]:.0e}; 0.5 is chance.",
    )

"""The pictures of the page: strips of recoveries, and the gallery of what came out by itself."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_memaudit.report.document import missing_fraction
from lightning_memaudit.report.gallery import gallery
from lightning_memaudit.report.labels import shortened
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.selection import Example, choose_examples, shown_methods
from lightning_memaudit.report.style import method_label
from lightning_memaudit.report.views import displayed, drawn_as

FEW = ("best", "median", "worst", "the only one")
"""The members that stand for all of them where there is little room, and the best control."""

COARSE = 74
"""Columns of an image in a strip, at most, that is shown pixel by pixel; wider ones are made smaller, and smooth."""


def page_strips(view: RunView, few: bool = False) -> list[dict[str, Any]]:
    """Images with what came back of them, by pattern; empty when the newest audit saved none.

    Args:
        view: Of the run.
        few: Only one pattern, a few images, and of the methods only the audited one.
    """
    if view.saved is None:
        return []
    rates = view.document["rates"]
    strips = []
    for pattern in [_hardest(view)] if few else dict.fromkeys(row["pattern"] for row in rates):
        methods = shown_methods(rates, pattern, view.primary)
        examples = choose_examples(view.saved.arrays, view.images, pattern, methods, methods[0], view.channels)
        if few:
            methods = methods[:1]
            examples = [one for one in examples if one.why in (FEW if one.group == "members" else FEW[:1])]
        if examples:
            rows = [_strip_row(one, pattern, methods) for one in examples]
            drawn = drawn_as(view.saved.arrays[f"{examples[0].group}/truth"].shape[1:], view.channels)
            strips.append({"pattern": pattern, "methods": methods, "rows": rows, "masks": not few, "drawn": drawn})
    return strips


def _hardest(view: RunView) -> str:
    """Of the patterns from which members came back the one with the fewest, then with the most missing pixels."""
    patterns = view.document["judgement"]["patterns"]
    if not patterns:
        return str(view.document["rates"][0]["pattern"])
    back = [one for one in patterns if one["members"]["recovered"]["count"]] or patterns
    hardest = min(
        back, key=lambda one: (one["members"]["recovered"]["count"], -(missing_fraction(one["pattern"]) or 0.0))
    )
    return str(hardest["pattern"])


def _strip_row(example: Example, pattern: str, methods: Sequence[str]) -> dict[str, Any]:
    """In the order of the columns: observed, recovered by the first method, truth, mask, the other methods."""
    what = f"{example.kind} {shortened(example.name)}"
    observed = _cell(example.observed, f"{what}, degraded by {pattern}")
    truth = _cell(example.truth, f"{what}, the truth")
    right = "" if example.mask_accuracy is None else f"{example.mask_accuracy:.1%} right"
    mask = None if example.mask is None else _cell(example.mask, f"{what}, estimated mask, white is observed", right)
    first, *others = [_recovery(example, what, method) for method in methods]
    return {
        "why": example.why,
        "kind": example.kind,
        "name": example.name,
        "cells": [observed, first, truth],
        "more": [mask, *others],
    }


def _recovery(example: Example, what: str, method: str) -> dict[str, Any] | None:
    outcome = example.outcomes.get(method)
    if outcome is None:
        return None
    came = "recovered" if outcome.recovered else "not recovered"
    words = f"{what}, by {method_label(method)}: {outcome.caption.rstrip('✓✗ ')}, {came}"
    return _cell(outcome.image, words, outcome.caption) | {"recovered": outcome.recovered}


def _cell(image: "np.ndarray[Any, Any]", alt: str, caption: str = "") -> dict[str, Any]:
    fine = displayed(image).shape[1] > COARSE
    return {"source": picture(image), "alt": alt, "caption": caption, "recovered": None, "fine": fine}


def page_gallery(view: RunView) -> list[dict[str, Any]]:
    """Images that came out by themselves, beside the truth."""
    return [
        {"row": one.row, "truth": picture(one.truth), "image": picture(one.image), "caption": one.caption}
        for one in gallery(view)
    ]


def picture(image: "np.ndarray[Any, Any]") -> str:
    """An image (C, *spatial) in [0, 1] as a PNG data URI, at its own size, see :func:`.displayed`."""
    from PIL import Image

    pixels = (displayed(image) * 255).round().astype(np.uint8)
    shown = Image.fromarray(pixels)
    if pixels.ndim == 2 and np.isin(pixels, (0, 255)).all():
        shown = shown.convert("1")  # a mask
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

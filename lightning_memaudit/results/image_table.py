"""What an audit found, image by image, over all of its patterns."""

from typing import Any

import numpy as np

from lightning_memaudit.results.came_back import came_back, flags
from lightning_memaudit.results.evidence import conformal_p_values, false_discovery_rates
from lightning_memaudit.results.gain import best_gains, gains_of
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.judgement import Judgement, scores_of


def image_table(images: ImageColumns, judgement: Judgement) -> list[dict[str, Any]]:
    """One entry per image: what is known of it over all patterns; members first, each group by position.

    ``p_value`` and ``false_discovery_rate`` are of members alone: by rank of their best gain among the controls' best.
    """
    patterns = [finding.pattern for finding in judgement.patterns]
    inpainter = judgement.inpainter
    groups = list(judgement.reconstruction)
    best = {group: best_gains(gains_of(images, group, patterns, judgement.method)) for group in groups}
    told = judgement.gain is not None and "controls" in groups
    p_values = conformal_p_values(best["members"], best["controls"]) if told else np.zeros(0)
    rates = false_discovery_rates(p_values)
    entries = []
    for group in groups:
        columns = [images[group, pattern, judgement.method] for pattern in patterns]
        back = came_back(images, group, patterns, judgement.method, inpainter)
        inpainted = flags(images, group, patterns, inpainter) if inpainter else np.zeros_like(back.recovered)
        scores = scores_of(images, group, patterns, judgement.method)
        for row in range(back.recovered.shape[1]):
            quality = {pattern: _number(one["psnr"][row], 2) for pattern, one in zip(patterns, columns, strict=True)}
            gains = {pattern: _number(one, 2) for pattern, one in zip(patterns, back.gains[:, row], strict=True)}
            ranked = told and group == "members"
            entries.append(
                {
                    "group": group,
                    "image": int(columns[0]["image"][row]),
                    "position": int(columns[0]["position"][row]),
                    "memorized": bool(back.beyond[:, row].any()) if inpainter else None,
                    "recovered_in": [pattern for p, pattern in enumerate(patterns) if back.recovered[p, row]],
                    "inpainted_in": [pattern for p, pattern in enumerate(patterns) if inpainted[p, row]],
                    "psnr": quality,
                    "recovery_gain": gains,
                    "p_value": float(p_values[row]) if ranked else None,
                    "false_discovery_rate": float(rates[row]) if ranked else None,
                    "score": _number(scores[row], None),
                    "reconstruction_psnr": _number(columns[0]["reconstruction_psnr"][row], 2),
                }
            )
    return entries


def _number(value: Any, digits: int | None) -> float | None:
    if not np.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)

"""For every image, the largest missing fraction from which it still comes back."""

from typing import Any

import numpy as np
import torch

from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.measure import Progress
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.methods.registry import Method, recover
from lightning_memaudit.results.rows import Row

FILE = "largest_missing.json"


@torch.no_grad()
def largest_missing(
    autoencoder: Autoencoder | ConditionalAutoencoder,
    group: Group,
    method: Method,
    threshold_db: float = 30.0,
    seed: int = 0,
    num_rounds: int = 6,
    block_size: int = 512,
    progress: Progress | None = None,
) -> list[Row]:
    """Bisect, for every image, the share of randomly missing pixels from which a method gets it back.

    The random masks of an image are nested: more missing pixels contain fewer missing ones, and recovery can only
    become harder, but for accidents of the iterations. Every round is one batch in which each image has a fraction of
    its own.

    Args:
        autoencoder: f; for a group with conditions, what gives one for each of them.
        group: The images.
        method: How they are recovered.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Of the masks, as in the audit.
        num_rounds: Number of bisections; the result is precise to ``2 ** -num_rounds``.
        block_size: Images that are recovered together.
        progress: Told after every round of a block.

    Returns:
        Rows with ``group``, ``image``, ``name``, ``position`` and ``largest_missing``: the largest fraction that was
        tried from which it came back, 0 when it never did. In the order of the images.

    Raises:
        ValueError: ``num_rounds`` or ``block_size`` is not positive.
    """
    check_counts(num_rounds=num_rounds, block_size=block_size)
    rows: dict[int, Row] = {}
    for block in group.blocks(autoencoder, block_size):
        if not block.rows:
            continue
        images = block.images
        positions = [int(group.positions[row]) for row in block.rows]
        low, high = np.zeros(len(images)), np.ones(len(images))
        for _ in range(num_rounds):
            middle = (low + high) / 2
            degraded = _hide(images, middle, positions, seed)
            recovery = recover(method, block.autoencoder, degraded.observed, degraded.mask)
            recovered = (psnr(recovery.image, images) >= threshold_db) & ~recovery.score.isposinf()
            came_back = recovered.cpu().numpy()
            low, high = np.where(came_back, middle, low), np.where(came_back, high, middle)
            if progress is not None:
                progress(f"{group.name} · largest missing fraction", len(images))
        for row, fraction in zip(block.rows, low, strict=True):
            rows[row] = {**group.place(row), "largest_missing": float(fraction)}
    return [rows[row] for row in sorted(rows)]


def _hide(images: torch.Tensor, fractions: "np.ndarray[Any, Any]", positions: list[int], seed: int) -> Degraded:
    parts = [
        Degradation(f"random-{fraction:g}", "random", float(fraction))(images[row : row + 1], [position], seed)
        for row, (fraction, position) in enumerate(zip(fractions, positions, strict=True))
    ]
    return Degraded(*(torch.cat(field) for field in zip(*parts, strict=True)))

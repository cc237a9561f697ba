"""For every image, the largest missing fraction from which it still comes back."""

from typing import Any

import numpy as np
import torch

from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.measurement.measure import Progress
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.measurement.plan import Group
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.methods.registry import Method, recover
from lightning_memaudit.results.rows import Row

FILE = "largest_missing.json"


@torch.no_grad()
def largest_missing(
    autoencoder: Autoencoder,
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
        autoencoder: f.
        group: The images.
        method: How they are recovered.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Of the masks, as in the audit.
        num_rounds: Number of bisections; the result is precise to ``2 ** -num_rounds``.
        block_size: Images that are recovered together.
        progress: Told after every round of a block.

    Returns:
        Rows with ``group``, ``image``, ``position`` and ``largest_missing``: the largest fraction that was tried from
        which it came back, 0 when it never did.

    Raises:
        ValueError: ``num_rounds`` or ``block_size`` is not positive.
    """
    check_counts(num_rounds=num_rounds, block_size=block_size)
    rows: list[Row] = []
    for begin in range(0, len(group.images), block_size):
        block = slice(begin, begin + block_size)
        images = group.images[block]
        positions = [int(position) for position in group.positions[block]]
        low, high = np.zeros(len(images)), np.ones(len(images))
        for _ in range(num_rounds):
            middle = (low + high) / 2
            degraded = _hide(images, middle, positions, seed)
            recovery = recover(method, autoencoder, degraded.observed, degraded.mask)
            recovered = (psnr(recovery.image, images) >= threshold_db) & ~recovery.score.isposinf()
            came_back = recovered.cpu().numpy()
            low, high = np.where(came_back, middle, low), np.where(came_back, high, middle)
            if progress is not None:
                progress(f"{group.name} · largest missing fraction", len(images))
        rows += [
            {"group": group.name, "image": int(index), "position": position, "largest_missing": float(fraction)}
            for index, position, fraction in zip(group.indices[block], positions, low, strict=True)
        ]
    return rows


def _hide(images: torch.Tensor, fractions: "np.ndarray[Any, Any]", positions: list[int], seed: int) -> Degraded:
    parts = [
        Degradation(f"random-{fraction:g}", "random", float(fraction))(images[row : row + 1], [position], seed)
        for row, (fraction, position) in enumerate(zip(fractions, positions, strict=True))
    ]
    return Degraded(*(torch.cat(field) for field in zip(*parts, strict=True)))

"""For every image, the largest missing fraction from which it still comes back, beside that of an inpainter."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.measure import Progress
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.methods.registry import Method, recover
from lightning_memaudit.results.rows import Row

FILE = "largest_missing.json"
Fractions = np.ndarray[tuple[int, ...], np.dtype[Any]]
"""Shares of missing pixels, (B,)."""


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
    inpainter: Method | None = None,
) -> list[Row]:
    """Bisect, for every image, the share of randomly missing pixels from which a method gets it back.

    The random masks of an image are nested: more missing pixels contain fewer missing ones, and recovery can only
    become harder, but for accidents of the iterations. Every round is one batch in which each image has a fraction of
    its own.

    Args:
        autoencoder: f, (B, C, *spatial) to the same shape; for a group with conditions what gives one for each.
        group: The images.
        method: How they are recovered.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Of the masks, as in the audit.
        num_rounds: Number of bisections; the result is precise to ``2 ** -num_rounds``.
        block_size: Images that are recovered together.
        progress: Told after every block.
        inpainter: What is bisected in the same way beside it, such as one that knows nothing of f: what comes back from
            as little by that is no evidence of memory.

    Returns:
        Rows with ``group``, ``image``, ``name``, ``position`` and ``largest_missing``: the largest fraction that was
        tried from which it came back, 0 when it never did. With an inpainter also its own, ``inpainted_missing``, and
        ``beyond_inpainting``, the first less the second. In the order of the images.

    Raises:
        ValueError: ``num_rounds`` or ``block_size`` is not positive.
    """
    check_counts(num_rounds=num_rounds, block_size=block_size)
    rows: dict[int, Row] = {}
    for block in group.blocks(autoencoder, block_size):
        if not block.rows:
            continue
        positions = [int(group.positions[row]) for row in block.rows]
        search = _Search(block.images, positions, block.autoencoder, threshold_db, seed, num_rounds)
        fractions = {"largest_missing": search.largest(method)}
        if inpainter is not None:
            fractions["inpainted_missing"] = search.largest(inpainter)
            fractions["beyond_inpainting"] = fractions["largest_missing"] - fractions["inpainted_missing"]
        for place, row in enumerate(block.rows):
            rows[row] = {**group.place(row), **{name: float(values[place]) for name, values in fractions.items()}}
        if progress is not None:
            progress(f"{group.name} · largest missing fraction", len(block.rows))
    return [rows[row] for row in sorted(rows)]


class _Search(NamedTuple):
    """Bisection over nested masks of the same images, by any method."""

    images: Tensor
    positions: list[int]
    autoencoder: Autoencoder
    threshold_db: float
    seed: int
    num_rounds: int

    def largest(self, method: Method) -> Fractions:
        """The largest fraction, (B,), from which each image comes back."""
        low, high = np.zeros(len(self.images)), np.ones(len(self.images))
        for _ in range(self.num_rounds):
            middle = (low + high) / 2
            degraded = _hide(self.images, middle, self.positions, self.seed)
            recovery = recover(method, self.autoencoder, degraded.observed, degraded.mask)
            recovered = (psnr(recovery.image, self.images) >= self.threshold_db) & ~recovery.score.isposinf()
            came_back = recovered.cpu().numpy()
            low, high = np.where(came_back, middle, low), np.where(came_back, high, middle)
        return low


def _hide(images: Tensor, fractions: Fractions, positions: list[int], seed: int) -> Degraded:
    parts = [
        Degradation(f"random-{fraction:g}", "random", float(fraction))(images[row : row + 1], [position], seed)
        for row, (fraction, position) in enumerate(zip(fractions, positions, strict=True))
    ]
    return Degraded(*(torch.cat(field) for field in zip(*parts, strict=True)))

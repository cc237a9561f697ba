"""Strategy 1: exactly the penalties that are given, as in the paper; of each image the best attempt by its score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_memaudit.recovery.alternation import Alternation, Solution, alternate
from lightning_memaudit.recovery.batches import map_chunks, rows_per_chunk
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.types import Autoencoder, Recovery, Trace, concatenate


@torch.no_grad()
def recover_with_penalties(
    autoencoder: Autoencoder,
    observed: Tensor,
    mask: Tensor | MaskEstimator,
    penalties: Sequence[float],
    settings: Alternation,
    chunk_size: int | None,
    record_at: Sequence[int],
) -> Recovery:
    """Run every image with every penalty and keep, per image, the attempt with the lowest blind score.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: (B, C, *spatial).
        mask: The known mask, (B, 1 or C, *spatial), or an estimator of it.
        penalties: P positive numbers; the batch has B·P rows.
        settings: Iterations and tolerances.
        chunk_size: Rows at once; None chooses by memory.
        record_at: Iterations to record; of each image the winning attempt's record is kept.

    Returns:
        The recovery of B images; nothing is certified, and images that diverged with every penalty stay as observed.
    """
    autoencoder = InputProtected(autoencoder)

    def chunk(images: slice) -> Recovery:
        part = observed[images]
        given = mask[images] if isinstance(mask, Tensor) else mask
        start = autoencoder(part)
        count = len(penalties)

        def repeat(rows: Tensor) -> Tensor:
            return rows if count == 1 else rows.repeat_interleave(count, 0)

        solution = alternate(
            autoencoder,
            repeat(part),
            torch.tensor(penalties, dtype=part.dtype, device=part.device).repeat(len(part)),
            repeat(given) if isinstance(given, Tensor) else given,
            repeat(start),
            settings,
            record_at,
        )
        return choose_best_attempts(solution, part, count)

    rows = rows_per_chunk(observed, chunk_size)
    return concatenate(map_chunks(chunk, len(observed), max(1, rows // len(penalties))))


def choose_best_attempts(solution: Solution, observed: Tensor, count: int) -> Recovery:
    """Of ``count`` consecutive attempts per image keep the one with the lowest score; all their evaluations count.

    Args:
        solution: Of B times ``count`` attempts.
        observed: (B, C, *spatial).
        count: Attempts per image.
    """
    score, best = solution.score.view(-1, count).min(1)
    rows = torch.arange(len(observed), device=observed.device) * count + best
    finite = score.isfinite()
    usable = with_axes(finite, observed)
    trace = solution.trace
    return Recovery(
        image=torch.where(usable, solution.image[rows], observed),
        mask=torch.where(usable, solution.mask[rows], 1.0),
        score=score,
        certified=torch.zeros_like(finite),
        num_evaluations=solution.num_evaluations.view(-1, count).sum(1),
        trace=None if trace is None else Trace(trace.iterations, *(field[:, rows] for field in trace[1:])),
    )

"""Several attempts per image in one batch, and the choice of the best one by its blind score."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_memaudit.recovery.admm import Alternation, Solution, alternate
from lightning_memaudit.recovery.certification import noise_gain
from lightning_memaudit.recovery.chunks import map_chunks, rows_per_chunk
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.search import Found
from lightning_memaudit.recovery.types import Autoencoder, Recovery, Trace, concatenate


@torch.no_grad()
def recover(
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
        autoencoder: f.
        observed: (B, C, H, W).
        mask: The known mask, (B, 1 or C, H, W), or an estimator of it.
        penalties: P positive numbers; the batch has B·P rows.
        settings: Iterations and tolerances.
        chunk_size: Rows at once; None chooses by memory.
        record_at: Iterations to record; of each image the winning attempt's record is kept.
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
        return choose(solution, part, count)

    rows = rows_per_chunk(observed, chunk_size)
    return concatenate(map_chunks(chunk, len(observed), max(1, rows // len(penalties))))


def choose(solution: Solution, observed: Tensor, count: int) -> Recovery:
    """Of ``count`` consecutive attempts per image keep the one with the lowest score; all their evaluations count."""
    score, best = solution.score.view(-1, count).min(1)
    rows = torch.arange(len(observed), device=observed.device) * count + best
    finite = score.isfinite()
    shape = (-1, 1, 1, 1)
    trace = solution.trace
    return Recovery(
        image=torch.where(finite.view(shape), solution.image[rows], observed),
        mask=torch.where(finite.view(shape), solution.mask[rows], 1.0),
        score=score,
        certified=torch.zeros_like(finite),
        num_evaluations=solution.num_evaluations.view(-1, count).sum(1),
        trace=None if trace is None else Trace(trace.iterations, *(field[:, rows] for field in trace[1:])),
    )


GAIN_EVALUATIONS = 2
"""Evaluations per image, beyond those of the search, that measure the gain."""

ATTEMPTS_TOGETHER = 4
"""Attempts per image that the self-tuning makes at once, about: an image stands for so many rows of a chunk."""


@torch.no_grad()
def recover_self_tuned(
    autoencoder: Autoencoder, observed: Tensor, search: Callable[..., Found], chunk_size: int | None, *more: Tensor
) -> Recovery:
    """Search chunk by chunk, and measure how fast the autoencoder holds what was found.

    Args:
        autoencoder: f.
        observed: (B, C, H, W).
        search: From f, a chunk of ``observed`` and of ``more`` to what was found.
        chunk_size: Attempts at once; None chooses by memory.
        more: What else the search takes, row by row.
    """
    autoencoder = InputProtected(autoencoder)

    def chunk(images: slice) -> Recovery:
        part = observed[images]
        candidate, num_evaluations = search(autoencoder, part, *(rows[images] for rows in more))
        finite = candidate.score.isfinite()
        shape = (-1, 1, 1, 1)
        image = torch.where(finite.view(shape), candidate.image, part)
        return Recovery(
            image=image,
            mask=torch.where(finite.view(shape), candidate.mask, 1.0),
            score=candidate.score,
            certified=torch.zeros_like(finite),
            num_evaluations=num_evaluations + GAIN_EVALUATIONS,
            expected_error=torch.where(finite, candidate.expected_error, torch.inf),
            gain=noise_gain(autoencoder, image).nan_to_num(torch.inf),
        )

    rows = rows_per_chunk(observed, chunk_size)
    return concatenate(map_chunks(chunk, len(observed), max(1, rows // ATTEMPTS_TOGETHER)))

"""What a candidate is worth: the estimate that it implies, and a score that needs no ground truth."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import per_image_mean, same_channels
from lightning_memaudit.recovery.interpolation import Interpolation
from lightning_memaudit.recovery.types import Autoencoder

ERROR_PER_SCORE = 2.0
"""Mean squared error in hidden pixels over the blind score: about 1 on autoencoders that were measured, at most 2 for
nearly all recovered images."""


class Candidate(NamedTuple):
    """An estimate of B images and what speaks for it.

    Attributes:
        image: (B, C, H, W) the data where they are observed, the autoencoder's image elsewhere.
        mask: (B, 1 or C, H, W).
        score: (B,) blind score: data residual of f(image) where observed plus fixed-point residual elsewhere; infinite
            where the candidate is not finite.
        expected_error: (B,) mean squared error of the image that the score lets expect.
    """

    image: Tensor
    mask: Tensor
    score: Tensor
    expected_error: Tensor


def refine(
    autoencoder: Autoencoder,
    observed: Tensor,
    mask: Tensor,
    image: Tensor,
    noise: Tensor,
    steps: int = 1,
    explained_share: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Candidate:
    """Combine image and data as their errors deserve, improve on the autoencoder's own errors, and score the results.

    x = x + h s^2 / (s^2 + noise^2) (y - x), with s^2 the mean of (y - x)^2 over h, less the noise

    is the posterior mean of the image given the data; without noise it is the data where they are observed. The score

    | mean over h of (f(x) - y)^2 - noise^2 |  +  mean over 1 - h of (f(x) + r - x)^2

    with r the interpolation of y - f(x) from where it is observed: what f gets wrong at a pixel it gets wrong beside
    it. It is small only if f, shown its own hidden pixels and the observed ones, returns both. A mask that is empty
    leaves nothing to explain: its data residual is taken over all pixels. The f(x) that scores x also gives the next x,
    f(x) + r. Where there is noise r is 0, and the second mean is over all pixels. Where the mask itself was told from
    the image, the score is divided by how much of the observation f(x) explains.

    Args:
        autoencoder: f.
        observed: y, (B, C, H, W).
        mask: h, (B, 1 or C, H, W), in [0, 1].
        image: x, (B, C, H, W).
        noise: (B,) standard deviation of the noise.
        steps: Evaluations of f; the best candidate by score is returned.
        explained_share: From f(x), y and h to how much f(x) explains, (B,) in (0, 1]; None takes it for 1.
    """
    variance = noise.square()
    kept = mask.expand_as(image).flatten(1).any(1)
    explained = torch.where(kept.view(-1, 1, 1, 1), mask, torch.ones_like(mask))
    exact = (variance == 0).to(image.dtype).view(-1, 1, 1, 1)
    interpolation = Interpolation(explained)
    best: Candidate | None = None
    for _ in range(steps):
        error = (masked_mean((observed - image).square(), mask) - variance).clamp_min(1e-6)
        trust = torch.where(variance > 0, error / (error + variance), 1.0).nan_to_num(1.0).view(-1, 1, 1, 1)
        estimate = torch.lerp(image, observed, mask * trust)
        output = autoencoder(estimate)
        residual = observed - output
        corrected = add_interpolated_residual(output, observed, interpolation, exact)
        # Less than the noise is as wrong as more: then f has fitted the noise.
        data = (masked_mean(residual.square(), explained) - variance).abs()
        score = data + masked_mean((corrected - estimate).square(), 1 - explained * exact)
        hidden = 1 - per_image_mean(mask * trust)
        if explained_share is not None:
            share = explained_share(output, observed, mask)
            score, hidden = score / share, torch.maximum(hidden, 1 - share)
        score = torch.where(score.isfinite() & estimate.flatten(1).isfinite().all(1), score, torch.inf)
        candidate = Candidate(estimate, mask, score, ERROR_PER_SCORE * hidden * score)
        best = candidate if best is None else better(best, candidate)
        image = corrected
    assert best is not None
    return best


def add_interpolated_residual(output: Tensor, observed: Tensor, interpolation: Interpolation, exact: Tensor) -> Tensor:
    """``f(x) + r`` with r the interpolation of y - f(x): what f gets wrong at a pixel it gets wrong beside it.

    Args:
        output: f(x), (B, C, H, W).
        observed: y, (B, C, H, W).
        interpolation: Of the mask.
        exact: (B, 1, 1, 1), 1 for data without noise; noise says nothing of the neighbours, there r is 0.
    """
    return output + interpolation.fill(observed - output) * exact


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of (B, C, H, W) over all but the first dimension, (B,); 0 where all weights are 0."""
    weight = weight.expand_as(values).flatten(1)
    total = weight.sum(1)
    return torch.where(total > 0, (weight * values.flatten(1)).sum(1) / total.clamp_min(1e-6), 0)


def better(first: Candidate, second: Candidate) -> Candidate:
    """Of two candidates for the same images, the one with the lower score, image by image."""
    first_mask, second_mask = same_channels([first.mask, second.mask])
    take = second.score < first.score
    pairs = zip(first._replace(mask=first_mask), second._replace(mask=second_mask), strict=True)
    return Candidate(*(torch.where(take.view(-1, *[1] * (one.ndim - 1)), other, one) for one, other in pairs))

"""Candidates: an attempt's image combined with the data, and the blind score, which needs no ground truth."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import all_finite, per_image_mean, same_channels
from lightning_memaudit.recovery.interpolation import Interpolation
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.types import Autoencoder

ERROR_PER_SCORE = 2.0
"""Factor from the blind score to the mean squared error that is expected in hidden pixels. The true ratio was about 1
on the autoencoders that were measured, and at most 2 for nearly all recovered images."""


class Candidate(NamedTuple):
    """An estimate of B images and what speaks for it.

    Attributes:
        image: (B, C, *spatial) the data where they are observed, the autoencoder's image elsewhere.
        mask: (B, 1 or C, *spatial), in [0, 1].
        score: (B,) blind score, 0 or more, lower is better: data residual of f(image) where observed plus fixed-point
            residual elsewhere; infinite where the candidate is not finite.
        expected_error: (B,) estimate of the image's mean squared error: :data:`ERROR_PER_SCORE` times the score times
            the share of the image that does not come from the data.

    >>> stored, mask = torch.full((1, 1, 4, 4), 0.5), torch.tensor([1.0, 0, 1, 0]).expand(1, 1, 4, 4)
    >>> other, noise = torch.full((1, 1, 4, 4), 0.9), torch.zeros(1)
    >>> found = [refine(lambda x: stored, mask * y, mask, stored, noise) for y in (stored, other)]
    >>> [round(candidate.score.item(), 1) for candidate in found]  # what f has stored is told from what it has not
    [0.0, 0.3]
    """

    image: Tensor
    mask: Tensor
    score: Tensor
    expected_error: Tensor

    def select(self, rows: Tensor) -> "Candidate":
        """Only these images."""
        return Candidate(*(field[rows] for field in self))


def refine(
    autoencoder: Autoencoder,
    observed: Tensor,
    mask: Tensor,
    image: Tensor,
    noise: Tensor,
    steps: int = 1,
    explained_share: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Candidate:
    """Put the data into an image, score the result without ground truth, and correct the image; ``steps`` times.

    First the image and the data are averaged, each with the weight that its error variance gives it:

    x <- x + h s^2 / (s^2 + noise^2) (y - x), with s^2 the mean of (y - x)^2 over h, less noise^2

    This is the posterior mean of the image given the data. Without noise it is the data where they are observed. Then

    score = | mean over h of (f(x) - y)^2 - noise^2 |  +  mean over 1 - h of (f(x) + r - x)^2

    with r the interpolation of y - f(x) from the observed pixels to all: errors of f resemble those at pixels nearby.
    The score is small only if f, given the observed pixels and x in the hidden ones, returns both. It takes a single
    evaluation of f, whose result also gives the image of the next step, f(x) + r.

    Where there is noise, r is 0 and the second mean is over all pixels. Where the mask is empty, the first mean is over
    all pixels, so that an empty mask earns no low score. Where the mask was estimated from the image, the score is
    divided by the share of the observation that f(x) explains.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: y, (B, C, *spatial).
        mask: h, (B, 1 or C, *spatial), in [0, 1].
        image: x, (B, C, *spatial).
        noise: (B,) standard deviation of the noise.
        steps: Evaluations of f, at least 1; the best candidate by score is returned.
        explained_share: From f(x), y and h to the share of y that f(x) explains, (B,) in (0, 1]; None takes it for 1.
    """
    variance = noise.square()
    noisy = bool(variance.any())
    kept = mask.flatten(1).amax(1) > 0
    explained = torch.where(with_axes(kept, image), mask, torch.ones_like(mask))
    exact = with_axes((variance == 0).to(image.dtype), image)
    interpolation, not_explained = Interpolation(explained), 1 - explained * exact
    trusted = mask  # what the data count, pixel by pixel: all of it without noise
    best: Candidate | None = None
    for _ in range(steps):
        if noisy:
            error = (masked_mean((observed - image).square_(), mask) - variance).clamp_min(1e-6)
            trust = torch.where(variance > 0, error / (error + variance), 1.0).nan_to_num(1.0)
            trusted = mask * with_axes(trust, image)
        estimate = torch.lerp(image, observed, trusted)
        output = autoencoder(estimate)
        residual = observed - output
        corrected = add_interpolated_residual(output, residual, interpolation, exact if noisy else None)
        # Less than the noise is as wrong as more: then f has fitted the noise.
        data = (masked_mean(residual.square_(), explained) - variance).abs()
        score = data + masked_mean((corrected - estimate).square_(), not_explained)
        hidden = 1 - per_image_mean(trusted)
        if explained_share is not None:
            share = explained_share(output, observed, mask)
            score, hidden = score / share, torch.maximum(hidden, 1 - share)
        score = torch.where(score.isfinite() & all_finite(estimate), score, torch.inf)
        candidate = Candidate(estimate, mask, score, ERROR_PER_SCORE * hidden * score)
        best = candidate if best is None else better(best, candidate)
        image = corrected
    assert best is not None
    return best


def add_interpolated_residual(
    output: Tensor, residual: Tensor, interpolation: Interpolation, exact: Tensor | None
) -> Tensor:
    """``f(x) + r``, (B, C, *spatial), r the interpolation of y - f(x): errors of f resemble those at pixels nearby.

    Args:
        output: f(x), (B, C, *spatial).
        residual: y - f(x), (B, C, *spatial).
        interpolation: Of the mask.
        exact: (B, 1, *ones), 1 for data without noise; noise says nothing of the neighbours, there r is 0. None where
            none have noise.
    """
    filled = interpolation.fill(residual)
    return filled.add_(output) if exact is None else torch.addcmul(output, filled, exact)


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of (B, C, *spatial) over all but the first dimension, (B,); 0 where all weights are 0.

    Args:
        values: (B, C, *spatial).
        weight: (B, 1 or C, *spatial).
    """
    repeats = values.shape[1] // weight.shape[1]
    if repeats > 1:  # one weight for all channels
        values = values.sum(1, keepdim=True)
    total = weight.flatten(1).sum(1)
    weighted = (weight * values).flatten(1).sum(1)
    return torch.where(total > 0, weighted / (repeats * total).clamp_min(1e-6), 0)


def mean_weights(weight: Tensor, values: Tensor) -> Tensor:
    """What every value (B, C, *spatial) counts in :func:`masked_mean`, in the shape of ``weight``."""
    repeats = values.shape[1] // weight.shape[1]
    total = with_axes(weight.flatten(1).sum(1), weight)
    return torch.where(total > 0, weight / (repeats * total).clamp_min(1e-6), 0)


def better(first: Candidate, second: Candidate) -> Candidate:
    """Of two candidates for the same images, the one with the lower score, image by image."""
    first_mask, second_mask = same_channels([first.mask, second.mask])
    take = second.score < first.score
    pairs = zip(first._replace(mask=first_mask), second._replace(mask=second_mask), strict=True)
    return Candidate(*(torch.where(with_axes(take, one), other, one) for one, other in pairs))

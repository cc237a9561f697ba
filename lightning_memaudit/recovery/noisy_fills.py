"""A fill with noise on it: its value and the level of the noise, estimated from the observation alone.

Noise that leaves the range of images is often clipped to it, as every 8-bit file does: then many values are exactly 0
or 1, and say only that the noise went beyond.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.spatial import centered, neighbour_correlation, spatial

FIRST_LEVELS = (0.02, 0.06)
"""Levels of noise that the estimate begins with: a fit from a wide one may take all of an image for the fill."""

LEVELS = (0.004, 0.15)
"""Levels that are told from an exact fill in an 8-bit image, and from the contrast of an image itself."""

MOST_ALIKE = 0.2
"""Correlation of neighbouring values above which they are the content of an image: noise has none."""

LEAST_PAIRS = 20
"""Neighbouring values from which a correlation is estimated at least."""

MOST_CLIPPED = 0.6
"""Of noise around a fill of 0 or 1 a half is clipped. Where clearly more is, the fill is exact."""

LOOKED_AT = 4096
"""Pixels from which value, level and share are estimated before the last step, which takes all of them."""

BINS = 64
"""Intervals of [0, 1] in which values are counted."""

EXTREME_DENSITY = 0.1
"""Share of an image's own values that may be exactly 0 or 1."""


class NoisyValue(NamedTuple):
    """The value around which most pixels of each of B images lie, and how far from it.

    Attributes:
        value: (B, C, 1).
        noise: (B,) standard deviation of the noise before it was clipped.
        missing: (B, N) probability of N pixels that they hold this value and noise.
        plausible: (B,) whether it is a fill by all that the observation tells: the level is neither that of an exact
            fill nor the contrast of an image, and the values do not resemble their neighbours.

    >>> noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    >>> hidden = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) < 0.5
    >>> found = estimate_noisy_value((torch.where(hidden, 0.0, ramp) + 0.05 * noise).clamp(0, 1))
    >>> found.plausible.item(), round(found.noise.item(), 2), abs(found.value).max().item() < 0.02
    (True, 0.05, True)
    >>> estimate_noisy_value(ramp).plausible.item()
    False
    """

    value: Tensor
    noise: Tensor
    missing: Tensor
    plausible: Tensor


def estimate_noisy_value(observed: Tensor, steps: int = 30) -> NoisyValue:
    """Fit a clipped normal distribution among evenly spread values: from the densest value, expectation-maximization.

    In single precision, also in mixed precision.

    Args:
        observed: y, (B, C, *spatial), nominally in [0, 1].
        steps: Of expectation-maximization.
    """
    if torch.is_autocast_enabled(observed.device.type):
        with torch.autocast(observed.device.type, enabled=False):
            return estimate_noisy_value(observed, steps)
    pixels = observed.flatten(2).float()
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for level in FIRST_LEVELS:
        found = _fit(pixels, _densest(pixels), torch.full_like(pixels[:, 0, 0], level), steps)
        if best is None:
            best = found
        else:
            take = found[0] > best[0]
            best = tuple(  # type: ignore[assignment]
                torch.where(take.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(found, best, strict=True)
            )
    assert best is not None
    _, value, noise, missing = best
    plausible = (noise > LEVELS[0]) & (noise < LEVELS[1])
    plausible &= _clipped_by_chance(pixels, missing)
    plausible &= _correlation(observed, value, missing) < MOST_ALIKE
    return NoisyValue(value.to(observed.dtype), noise.to(observed.dtype), missing.to(observed.dtype), plausible)


def _densest(pixels: Tensor) -> Tensor:
    """The value around which most of each channel lie, (B, C, 1), from (B, C, N)."""
    bins = (pixels.nan_to_num(0.0).clamp(0, 1) * BINS).round().long()
    count = torch.zeros(*pixels.shape[:2], BINS + 1, device=pixels.device).scatter_add_(
        2, bins, torch.ones_like(pixels)
    )
    # A bin at either end is half as wide as the others, but it holds what was clipped.
    smooth = torch.nn.functional.avg_pool1d(count, 5, 1, 2, count_include_pad=False)
    return smooth.argmax(2, keepdim=True).to(pixels.dtype) / BINS


def _fit(pixels: Tensor, value: Tensor, noise: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log likelihood (B,), value (B, C, 1), noise (B,) and probability of being missing (B, N).

    Log densities, and the moments that the next estimate takes, are sums over :func:`_terms`, so that a step takes two
    products with matrices.
    """
    start, share = value, torch.full_like(noise, 0.5)
    extreme = (pixels == 0) | (pixels == 1)
    spread = (pixels.amax((1, 2)) - pixels.amin((1, 2))).clamp_min(1e-3)
    flat = torch.where(extreme, math.log(EXTREME_DENSITY), -spread.log()[:, None, None]).sum(1)
    # Shuffled, as every so many pixels of a regular mask may all be missing; the same ones on every device.
    some = torch.randperm(pixels.shape[2], generator=torch.Generator().manual_seed(0))[:LOOKED_AT].to(pixels.device)
    terms, rest_of_terms = _terms(pixels[..., some], start), flat[..., some]
    for step in range(steps):
        if step == steps - 1:
            terms, rest_of_terms = _terms(pixels, start), flat
        spike = (_coefficients(value, noise, start) @ terms).squeeze(1) + share.log()[:, None]
        rest = rest_of_terms + torch.log1p(-share)[:, None]
        missing = torch.sigmoid(spike - rest)
        total = missing.sum(1).clamp_min(1e-6)
        mean, square = _moments((missing[:, None] @ terms.mT).squeeze(1), value, noise, start)
        noise = (square.sum((1, 2)) / (pixels.shape[1] * total)).clamp_min(1e-6).sqrt()
        value = (mean / total[:, None, None]).clamp(0, 1)
        share = missing.mean(1).clamp(1e-3, 1 - 1e-3)
    return torch.logaddexp(spike, rest).sum(1), value, noise, missing


def _terms(pixels: Tensor, start: Tensor) -> Tensor:
    """What the log density of a clipped normal distribution is a sum of, (B, 5 C, N).

    For each channel: whether a value lies within the range, its distance from ``start`` there, the square of that, and
    whether it is 0, and 1.
    """
    low, high = (pixels == limit for limit in (0, 1))
    within = (~low & ~high).to(pixels.dtype)
    distance = (pixels - start) * within
    return torch.cat([within, distance, distance.square(), low.to(pixels.dtype), high.to(pixels.dtype)], 1)


def _coefficients(value: Tensor, noise: Tensor, start: Tensor) -> Tensor:
    """Of :func:`_terms` in the log density, a probability where clipped, summed over the channels: (B, 1, 5 C)."""
    width = noise[:, None, None]
    away, weight = value - start, 1 / width.square()
    within = -away.square() * weight / 2 - torch.log(width * math.sqrt(2 * math.pi))
    low, high = torch.special.log_ndtr(-value / width), torch.special.log_ndtr((value - 1) / width)
    return torch.cat([within, away * weight, (-weight / 2).expand_as(value), low, high], 1).mT


def _moments(sums: Tensor, value: Tensor, noise: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of expected values before they were clipped, and of squared distances from ``value``, each (B, C, 1).

    ``sums`` are those of :func:`_terms`, weighted, (B, 5 C).
    """
    number, distance, square, low, high = sums[..., None].chunk(5, 1)
    width, away = noise[:, None, None], value - start
    below, above = -value / width, (value - 1) / width
    tail_below, tail_above = _tail(below), _tail(above)
    mean = distance + number * start + low * (value - width * tail_below) + high * (value + width * tail_above)
    squares = square - 2 * away * distance + number * away.square()
    clipped = low * (1 - below * tail_below) + high * (1 - above * tail_above)
    return mean, squares.clamp_min(0) + width.square() * clipped


def _tail(limit: Tensor) -> Tensor:
    """Mean distance of a standard normal variable from 0, below a limit; the limit is not far below 0."""
    limit = limit.clamp_min(-30)
    return torch.exp(-limit.square() / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(limit))


def _clipped_by_chance(pixels: Tensor, missing: Tensor) -> Tensor:
    """Whether what is exactly 0 or 1 in missing pixels, (B, N), is as noise leaves it: a part, by channels, (B,).

    In the missing pixels of an exact fill, and in the dark ones of an image, all channels are 0 together.
    """
    clipped = ((pixels == 0) | (pixels == 1)).to(missing.dtype)
    total = missing.sum(1).clamp_min(1e-6)
    shares = (missing[:, None] * clipped).sum(2) / total[:, None]
    together = (missing * clipped.prod(1)).sum(1) / total
    by_chance, at_most = shares.prod(1), shares.min(1).values
    alone = (together <= (by_chance + at_most) / 2) | (shares.max(1).values < 1 - MOST_CLIPPED)
    return (shares.max(1).values < MOST_CLIPPED) & alone


def _correlation(observed: Tensor, value: Tensor, missing: Tensor) -> Tensor:
    """Of values that are missing and not clipped, and their neighbours, (B,); 1 where there are hardly any."""
    difference = observed - value.view(*observed.shape[:2], *[1] * len(spatial(observed)))
    hidden = missing.view(-1, 1, *spatial(observed)) > 0.5
    inside = (hidden & (observed > 0) & (observed < 1)).to(missing.dtype)
    correlation, pairs = neighbour_correlation(centered(difference, inside), inside, first_axis=2)
    return torch.where(pairs < LEAST_PAIRS, 1.0, correlation)

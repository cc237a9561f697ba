"""Estimates of the unknown mask, given the current estimate of the image.

A mask estimator is a function ``estimate(image, observed) -> mask`` on batches (B, C, *spatial). The mask is in [0, 1],
1 means observed; (B, 1, *spatial) when it is shared by the channels, (B, C, *spatial) when each channel has its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.spatial import axes, row_values, sorted_rows, with_axes

MaskEstimator = Callable[[Tensor, Tensor], Tensor]


LEAST_PRIOR = 0.02
"""An estimated prior probability of being observed is kept between this and 1 minus this."""

SMALLEST_VARIANCE = 1e-6
"""Errors below 60 dB do not sharpen a posterior further: 8-bit images are not known better."""


@dataclass(frozen=True)
class LeastSquaresMask:
    """The paper's estimate: least squares over 0/1 diagonal degradations (arXiv 2310.02897).

    ``h = argmin over h in {0, 1} of |h x - y|^2``, summed over the channels that share the mask entry, which is
    ``h = 1 where |x - y|^2 < |y|^2, else 0``; the condition is computed as ``x (x - 2 y) < 0``.

    Attributes:
        shared: One mask for all channels (B, 1, *spatial), or one per channel (B, C, *spatial).

    >>> image, mask = torch.full((1, 3, 4, 4), 0.5), torch.tensor([1.0, 0, 1, 0]).expand(1, 1, 4, 4)
    >>> torch.equal(LeastSquaresMask()(image, observed=mask * image), mask)
    True
    """

    shared: bool = True

    def __call__(self, image: Tensor, observed: Tensor) -> Tensor:
        """Estimate the mask of ``observed`` given ``image``, both (B, C, *spatial)."""
        difference = torch.sub(image, observed, alpha=2).mul_(image)
        if self.shared:
            difference = difference.sum(1, keepdim=True)
        return (difference < 0).to(image.dtype)


class Posterior(NamedTuple):
    """The mask's posterior and what was estimated with it.

    Attributes:
        mask: (B, 1 or C, *spatial) probability of being observed.
        variance: (B,) mean squared error of the image where observed, s^2.
        evidence: (B,) in nats: log likelihood of the observation given the image, less that of an empty mask, under
            which all pixels are fill. It says how much of the observation the image explains.

    >>> right, wrong, fill = torch.rand(3, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> observed = torch.where(torch.arange(8) < 4, right, fill)
    >>> found = [PosteriorMask("noise").posterior(image, observed) for image in (right, wrong)]
    >>> found[0].mask.round()[0, 0, 0].tolist(), bool(found[0].evidence > 5 * found[1].evidence)
    ([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], True)
    """

    mask: Tensor
    variance: Tensor
    evidence: Tensor


@dataclass(frozen=True)
class PosteriorMask:
    """The probability that a pixel was observed, given the noise and the error of the current image.

        log P(y|h=1) = -(y - x)^2 / 2(noise^2 + s^2) - log 2 pi (noise^2 + s^2) / 2
        log P(y|h=0) = -(y - c)^2 / 2 noise^2 - log 2 pi noise^2 / 2   for a fill c, or 0: a uniform density on [0, 1]
        h = sigmoid(log P(y|h=1) - log P(y|h=0) + log prior / (1 - prior))

    summed over the channels that share the mask entry. s^2, the mean squared error of x where observed, is the mean
    of (y - x)^2 over h: first over the ``share`` of pixels that fit best, then over the posterior, a few times.
    Where ``coupled``, :func:`coupling` adds to the log odds what the neighbouring mask entries say.

    Attributes:
        fill: The value in missing pixels, ``"constant"`` for one value per channel that is estimated, or ``"noise"``
            for values that may be anything.
        noise: Standard deviation of the noise in the observation; 0 is taken as 0.001.
        prior: Probability of being observed before anything is seen, in (0, 1); None estimates it, as the mean of h.
        share: Share of the pixels, in (0, 1), that is observed for sure: s^2 is first estimated from so many of them,
            those that fit best.
        shared: One mask for all channels (B, 1, *spatial), or one per channel (B, C, *spatial).
        spreads: Factors on noise^2 + s^2 in P(y|h=1), any of them equally likely for a pixel: above 1 for images whose
            errors are not the same everywhere.
        coupled: Whether neighbouring mask entries inform each other, as much as they prove to be alike.

    Raises:
        ValueError: An attribute is out of its range; the message names it and its value.

    >>> right, fill = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> observed = torch.where(torch.arange(8) < 4, right, fill)  # the other half is noise
    >>> PosteriorMask("noise")(right, observed)[0, 0, 0].round().tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    fill: float | str = 0.0
    noise: float = 0.0
    prior: float | None = 0.5
    share: float = 0.3
    shared: bool = True
    spreads: tuple[float, ...] = (1.0,)
    coupled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.fill, str) and self.fill not in {"constant", "noise"}:
            raise ValueError(f"fill={self.fill!r}: pass a number, 'constant' or 'noise'")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise}: must be 0 or more")
        if not self.spreads or not all(spread > 0 for spread in self.spreads):
            raise ValueError(f"spreads={self.spreads}: must be positive, at least one")
        for name in ("prior", "share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name}={value}: must be between 0 and 1")

    def __call__(self, image: Tensor, observed: Tensor) -> Tensor:
        """Estimate the mask of ``observed`` given ``image``, both (B, C, *spatial)."""
        return self.posterior(image, observed).mask

    def posterior(
        self,
        image: Tensor,
        observed: Tensor,
        steps: int = 2,
        share: Tensor | None = None,
        fill: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Posterior:
        """Estimate mask and error together, by ``steps`` rounds of expectation-maximization.

        ``share`` (B,), ``fill`` (B, C, *ones) and ``noise`` (B,) stand in for the attributes, image by image. ``image``
        and ``observed`` are (B, C, *spatial).
        """
        values = observed.shape[1] if self.shared else 1  # behind one mask entry
        error = self._over_channels((observed - image).square())
        if share is None:
            share = row_values(error, self.share)
        if noise is None:
            noise = torch.full_like(share, self.noise)
        mask = mask_of_smallest_errors(error, share)
        noise_variance = noise.square()
        for number in range(steps):
            kept = values * mask.flatten(1).sum(1).clamp_min(1e-6)
            variance = ((mask * error).flatten(1).sum(1) / kept - noise_variance).clamp_min(SMALLEST_VARIANCE)
            observed_density = self._observed_density(error, values, with_axes(variance + noise_variance, error))
            missing_density = self._missing_density(
                observed, mask, values, fill, with_axes(noise_variance.clamp_min(SMALLEST_VARIANCE), error)
            )
            prior = self._prior(mask)
            odds = observed_density - missing_density + torch.logit(prior)
            # The first mask keeps a given share: how its neighbours are alike says nothing yet.
            mask = torch.sigmoid(odds + coupling(mask) if self.coupled and number else odds)
        gain = torch.logaddexp(observed_density + torch.log(prior), missing_density + torch.log1p(-prior))
        return Posterior(mask, variance, (gain - missing_density).flatten(1).sum(1))

    def _prior(self, mask: Tensor) -> Tensor:
        if self.prior is not None:
            return with_axes(row_values(mask, self.prior), mask)
        return with_axes(mask.flatten(1).mean(1).clamp(LEAST_PRIOR, 1 - LEAST_PRIOR), mask)

    def _observed_density(self, error: Tensor, values: int, variance: Tensor) -> Tensor:
        densities = [log_normal(error, values, spread * variance) for spread in self.spreads]
        return torch.logsumexp(torch.stack(densities), 0) - math.log(len(densities))

    def _missing_density(
        self, observed: Tensor, mask: Tensor, values: int, fill: Tensor | None, variance: Tensor
    ) -> Tensor:
        value: float | Tensor
        if fill is not None:
            value = fill
        elif self.fill == "noise":
            return torch.zeros_like(mask)
        elif self.fill == "constant":
            missing = (1 - mask).expand_as(observed).flatten(2)
            average = (missing * observed.flatten(2)).sum(2) / missing.sum(2).clamp_min(1e-6)
            value = with_axes(average, observed)
        else:
            value = float(self.fill)
        return log_normal(self._over_channels((observed - value).square()), values, variance)

    def _over_channels(self, values: Tensor) -> Tensor:
        return values.sum(1, keepdim=True) if self.shared else values


def coupling(mask: Tensor) -> Tensor:
    """What the nearest neighbours of every mask entry, two along every axis, add to its log odds of being observed.

    The mean field of a pairwise model, with the shares p(a, b) of neighbours along an axis that are (a, b):

    sum over neighbours j of  h_j log (p(1, 1) / p(0, 1) p0 / p1) + (1 - h_j) log (p(1, 0) / p(0, 0) p0 / p1)

    which is 0 where neighbours are independent, and large where the mask consists of blocks or stripes.

    Args:
        mask: h, (B, M, *spatial), in [0, 1].

    Returns:
        (B, M, *spatial).
    """
    result = torch.zeros_like(mask)
    for dimension in axes(mask):
        length = mask.shape[dimension] - 1
        first, second = mask.narrow(dimension, 0, length), mask.narrow(dimension, 1, length)
        # One pair of each kind is added to those that are counted, so that no share is 0.
        both = (first * second).flatten(1).sum(1, dtype=torch.float32) + 1
        neither = ((1 - first) * (1 - second)).flatten(1).sum(1, dtype=torch.float32) + 1
        one = (first + second - 2 * first * second).flatten(1).sum(1, dtype=torch.float32) / 2 + 1
        odds = torch.log((both + one) / (neither + one))
        beside_observed = with_axes(torch.log(both / one) - odds, mask).to(mask.dtype)
        beside_missing = with_axes(torch.log(one / neither) - odds, mask).to(mask.dtype)
        result.narrow(dimension, 0, length).add_(torch.lerp(beside_missing, beside_observed, second))
        result.narrow(dimension, 1, length).add_(torch.lerp(beside_missing, beside_observed, first))
    return result


def log_normal(squared_error: Tensor, number: int, variance: Tensor) -> Tensor:
    """Log density, in nats, of ``number`` normal values with this variance and this sum of squared errors."""
    return -squared_error / (2 * variance) - number * torch.log(2 * math.pi * variance) / 2


def mask_of_smallest_errors(error: Tensor, share: Tensor) -> Tensor:
    """The 0/1 mask that keeps the share of entries with the least error.

    Least trimmed squares (Rousseeuw 1984) over masks that keep a known share; ties are kept.

    Args:
        error: (B, M, *spatial).
        share: (B,), in (0, 1].

    Returns:
        (B, M, *spatial), of the error's type.
    """
    ordered = sorted_rows(error.flatten(1))
    last = (share * ordered.shape[1]).round().long().clamp(1, ordered.shape[1]) - 1
    return (error <= with_axes(ordered.gather(1, last[:, None]), error)).to(error.dtype)

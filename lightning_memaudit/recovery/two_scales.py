"""Which pixels an image explains, told by two scales of its residuals: small where it does, large elsewhere.

No value, spread or shape of the fill is assumed. An image that is not the one degraded leaves residuals of one scale,
many small and few large, whatever pixels are chosen from them afterwards: that is what two scales are compared with.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.masks import LEAST_PRIOR, SMALLEST_VARIANCE, log_normal, mask_of_smallest_errors
from lightning_memaudit.recovery.spatial import repeat, with_axes

FIRST_SHARES = (0.2, 0.4)
"""Shares of small residuals that the fits begin with; the likelier fit is kept."""

STEPS = 12
"""Of expectation-maximization."""

ONE_SCALE_POWERS = (0.5, 1.0, 2.0)
"""Shapes of residuals of one scale: the exponent of the exponential power distribution, 2 is the normal one."""

LEAST_SPEAKING = 0.1
"""Evidence, in nats per value of the image, up to which an observation does not speak for an image: flat parts of a
wrong one may agree with those of the observation. Only evidence beyond this counts."""

SMALLEST_DISTANCE = 1e-4
"""Residuals below this are rounding, they are as likely under any scale."""


class TwoScales(NamedTuple):
    """The fit to the residuals of B images.

    Attributes:
        mask: (B, 1 or C, *spatial) probability of the small scale, of being observed; 0 where it was excluded.
        evidence: (B,) how much likelier two scales are than the best distribution of one, in nats per value of the
            image. It was 0.1 to 1.7 at true images that were well approached, nearly always below 0.1 at others.
        likelihood: (B,) log likelihood of the residuals under the likelier of the two, in nats per value.

    >>> right, wrong, fill = torch.rand(3, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> mask = (torch.arange(16) < 6).float().expand(1, 1, 16, 16)
    >>> observed = mask * right + (1 - mask) * fill
    >>> found = [fit_two_scales(observed - image, torch.ones(1, 1, 16, 16), shared=True) for image in (right, wrong)]
    >>> (found[0].mask.round() == mask).float().mean().item() > 0.99, [fit.evidence.item() > 0.1 for fit in found]
    (True, [True, False])
    """

    mask: Tensor
    evidence: Tensor
    likelihood: Tensor


def fit_two_scales(residual: Tensor, possible: Tensor, shared: bool) -> TwoScales:
    """Fit a mixture of two normal distributions around 0 by expectation-maximization, and weigh it against one scale.

    The one scale is that of an exponential power distribution (Gomez, Gomez-Villegas & Marin 1998) over the channels
    that share a mask entry, of the likeliest of :data:`ONE_SCALE_POWERS`.

    Args:
        residual: y - f(x), (B, C, *spatial).
        possible: (B, 1 or C, *spatial), 1 where a pixel may be observed and 0 where it is excluded.
        shared: One mask for all channels, which takes a ``possible`` of one channel, or one per channel.
    """
    values = residual.shape[1] if shared else 1
    error = residual.square()
    if shared:
        error = error.sum(1, keepdim=True)
    possible = possible.expand_as(error)
    masks, likelihoods = _fits(error, possible, values)
    best = likelihoods.argmax(0)
    mask = masks[best, torch.arange(len(error), device=error.device)]
    two, one = likelihoods.amax(0), _one_scale(error, possible, values)
    number = residual[0].numel()
    likeliest = torch.maximum(two, one) / number
    return TwoScales(mask, ((two - one) / number).nan_to_num(0.0), likeliest.nan_to_num(-torch.inf))


def _fits(error: Tensor, possible: Tensor, values: int) -> tuple[Tensor, Tensor]:
    """Masks (F, B, M, *spatial) and log likelihoods (F, B), from each of the :data:`FIRST_SHARES`; all in one batch."""
    number = len(FIRST_SHARES)
    shares = [share for share in FIRST_SHARES for _ in range(len(error))]
    error, possible = repeat(error, number), repeat(possible, number)
    mask = smallest_errors(error, possible, shares)
    total = possible.flatten(1).sum(1).clamp_min(1)
    for _ in range(STEPS):
        small = _variance(mask, error, values).clamp_min(SMALLEST_VARIANCE)
        large = torch.maximum(_variance(possible - mask, error, values), small)
        prior = with_axes((mask.flatten(1).sum(1) / total).clamp(LEAST_PRIOR, 1 - LEAST_PRIOR), error)
        first = log_normal(error, values, with_axes(small, error)) + prior.log()
        second = log_normal(error, values, with_axes(large, error)) + torch.log1p(-prior)
        mask = torch.sigmoid(first - second) * possible
    likelihood = (torch.logaddexp(first, second) * possible).flatten(1).sum(1)
    return mask.view(number, -1, *mask.shape[1:]), likelihood.view(number, -1)


def _variance(weight: Tensor, error: Tensor, values: int) -> Tensor:
    return (weight * error).flatten(1).sum(1) / (values * weight.flatten(1).sum(1)).clamp_min(1e-6)


def _one_scale(error: Tensor, possible: Tensor, values: int) -> Tensor:
    """Largest log likelihood, (B,), of distributions of one scale, which is its maximum-likelihood estimate."""
    distance = (error + SMALLEST_DISTANCE**2).sqrt()
    number = possible.flatten(1).sum(1).clamp_min(1)
    sphere = math.log(2) + values / 2 * math.log(math.pi) - math.lgamma(values / 2)
    likelihoods = []
    for power in ONE_SCALE_POWERS:
        mean = (possible * distance.pow(power)).flatten(1).sum(1) / number
        scale = (power / values * mean).clamp_min(1e-12).pow(1 / power)
        normalizer = sphere + values * scale.log() - math.log(power) + math.lgamma(values / power)
        likelihoods.append(-number * (values / power + normalizer))
    return torch.stack(likelihoods).amax(0)


def smallest_errors(error: Tensor, possible: Tensor, share: Sequence[float]) -> Tensor:
    """The 0/1 mask (B, M, *spatial) of a share of the ``possible`` entries, those with the least error.

    Least trimmed squares (Rousseeuw 1984); one share for all images, or one for each.
    """
    part = possible.flatten(1).mean(1) * error.new_tensor(share)
    return mask_of_smallest_errors(torch.where(possible > 0, error, torch.inf), part) * possible

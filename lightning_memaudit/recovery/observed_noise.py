"""Noise on observed pixels that no missing pixel shows, as of a noisy photograph with a black block over it.

What was found holds the data as they are, and so their noise; f returns the image without it. Noise and errors of f
itself leave residuals of the same size, but errors of f are alike in neighbouring pixels and channels, as the content
of images is, and noise is not. Where that is shown, and f returns its own image as it is, that is the better one.
"""

import torch
from torch import Tensor

from lightning_memaudit.recovery.spatial import centered, neighbour_correlation, with_axes
from lightning_memaudit.recovery.types import Autoencoder

LEVELS = (0.03, 0.15)
"""Standard deviations that are looked at: below, an image with its noise is at 30 dB or more; above, it is not near."""

MOST_CORRELATED = 0.15
"""Correlation of neighbouring residuals up to which they are noise, with :data:`ERRORS` standard errors added. It was
0.0 for noise (standard errors 0.02 to 0.09), and 0.1 to 0.7 for errors of f at train losses of 1e-3."""

ERRORS = 2.0
"""Standard errors that allow for chance: few pixels prove nothing, and then the data stay."""

MOST_PEAKED = 4.5
"""Kurtosis of residuals up to which they are noise, which has 3: it was 4 at most. A few missing pixels that are taken
for data, among right ones, are as little alike as noise, and made it 7."""

SETTLED = 0.125
"""Share of the level by which f moves its own image, up to which that is a stored one: 0.04 to 0.11 where data were
noisy (train losses of 2e-5 and 3e-4), 0.17 to 0.27 where f erred by noise at right data, as of grainy images."""

SAME = 1e-5
"""Values that differ by less are the data."""


def take_off_noise(
    autoencoder: Autoencoder, image: Tensor, observed: Tensor, mask: Tensor, output: Tensor, asked: Tensor
) -> tuple[Tensor, Tensor]:
    """Take f(x) for x where x holds the data, these hold noise that f(x) does not, and f(x) is an image that f stores.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; evaluated once more for images with noise.
        image: x, (B, C, *spatial).
        observed: y, (B, C, *spatial).
        mask: (B, 1 or C, *spatial), in [0, 1].
        output: f(x), (B, C, *spatial).
        asked: Which of them to look at, (B,) bool.

    Returns:
        The images, and the evaluations spent, (B,) int64.

    >>> ramp, generator = torch.linspace(0, 1, 32).expand(1, 1, 32, 32), torch.Generator().manual_seed(0)
    >>> noise, all_seen = 0.05 * torch.randn(1, 1, 32, 32, generator=generator), torch.ones(1, 1, 32, 32)
    >>> noisy, error = ramp + noise, 0.1 * torch.sin(9 * ramp)  # an error of f varies smoothly
    >>> for data, f in ((noisy, lambda x: ramp), (ramp, lambda x: ramp + error)):
    ...     image, spent = take_off_noise(f, data, data, all_seen, f(data), asked=torch.tensor([True]))
    ...     torch.equal(image, ramp), spent.item()
    (True, 1)
    (True, 0)
    """
    noisy, level = _holds_noise(image, observed, mask, output)
    noisy &= asked
    spent = noisy.long()
    rows = noisy.nonzero().squeeze(1)
    if len(rows):
        step = (autoencoder(output[rows]) - output[rows]).square().flatten(1).mean(1).sqrt()
        noisy[rows] = step < SETTLED * level[rows]  # false for NaN
    return torch.where(with_axes(noisy, image), output, image), spent


def _holds_noise(image: Tensor, observed: Tensor, mask: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Whether an image holds the data, and these seem to hold noise that f(x) does not, (B,) bool, and its level."""
    seen = (mask > 0.5).expand_as(observed).to(observed.dtype)
    number = seen.flatten(1).sum(1).clamp_min(1)
    residual = centered(observed - output, seen)
    correlation, pairs = neighbour_correlation(residual, seen, first_axis=1)
    variance, fourth = (residual.pow(power).flatten(1).sum(1) / number for power in (2, 4))
    level = variance.sqrt()
    holds = (level > LEVELS[0]) & (level < LEVELS[1])  # false for NaN
    holds &= fourth < MOST_PEAKED * variance.square()
    holds &= correlation + ERRORS * pairs.clamp_min(1).rsqrt() < MOST_CORRELATED
    holds &= 2 * _between(observed, seen).flatten(1).sum(1) > number
    return holds & ((seen * (image - observed)).abs().flatten(1).amax(1) < SAME), level


def _between(observed: Tensor, seen: Tensor) -> Tensor:
    """1 where a seen value lies between the least and the largest one: not in images of two values, without noise."""
    low = torch.where(seen > 0, observed, torch.inf).flatten(1).amin(1)
    high = torch.where(seen > 0, observed, -torch.inf).flatten(1).amax(1)
    return seen * (observed > with_axes(low, observed)) * (observed < with_axes(high, observed))

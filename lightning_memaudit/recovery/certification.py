"""Certificates: which images are claimed recovered, and how often such a claim is false on images never trained on.

The threshold comes from images that the autoencoder was not trained on. When the image at hand is exchangeable with n
of those, the chance that its score is lower than all of theirs is 1 / (n + 1) at most (conformal prediction, Vovk et
al. 2005), whatever the distribution. So a threshold just below the lowest of their scores holds a false-certification
rate of 1% from n = 99 on, and no claim is made from fewer.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_memaudit.recovery.spatial import axes, spatial
from lightning_memaudit.recovery.types import Autoencoder, Calibration, Recovery

EFFECTIVE_PARAMETERS = 16
"""Of a search by gradients, see :func:`optimism`. On faces with 31 and 62 observed values, at a train MSE of 1e-3, true
errors were up to 8.6 and 2.0 times the expected ones without this, and about half of them with 150 and more."""

MAX_FALSE_RATE = 0.01
"""Default bound on the rate of false certificates: the expected share of images that the autoencoder was not trained
on which are certified all the same. 0.01 takes 99 controls, see :func:`controls_needed`."""

LARGEST_ERROR = 10**-2.5
"""An image is certified only if its expected mean squared error is at most this: a PSNR of 25 dB, images in [0, 1]."""

LARGEST_GAIN = 0.2
"""A :func:`noise_gain` above this means that f may be copying its input instead of recalling a stored image. The
threshold of the score is then multiplied by :data:`GAIN_MARGIN`."""

GAIN_MARGIN = 0.1
"""Factor on the threshold of the score where the gain is above :data:`LARGEST_GAIN`. An autoencoder that only copies
gives members scores like those of controls: a score ten times lower than any control's does not come from copying."""


LEAST_THRESHOLD = 1e-12
"""A threshold below this is rounding, a root mean squared error of 1e-6: controls or copies fit as well as anything."""


def optimism(observed: Tensor, mask: Tensor) -> Tensor:
    """Factor on the expected error of what was found by gradients, (B,): they fit the observed best.

    Generalized cross-validation (Craven & Wahba 1979): with n observed values, of which a fit uses up k, its error
    elsewhere is 1 / (1 - k / n)^2 times that where it was fitted; infinite where n is no more than k.

    Args:
        observed: (B, C, *spatial).
        mask: (B, 1 or C, *spatial), in [0, 1].
    """
    number = mask.expand_as(observed).flatten(1).sum(1)
    left = (1 - EFFECTIVE_PARAMETERS / number.clamp_min(1)).clamp_min(0)
    return left.pow(-2)


def calibrate(
    control_scores: Tensor | Sequence[float],
    max_false_rate: float = MAX_FALSE_RATE,
    confidence: float = 0.95,
    source: str = "controls",
) -> Calibration:
    """Set the threshold to the lowest score of images that were not trained on; only scores below it are certified.

    The claim is exact for an image that is exchangeable with the controls: from the same source, degraded alike,
    searched alike. Give one score of each control image: scores of one image under several patterns depend on each
    other, and neither the rate nor the interval holds for them together. The audit calibrates each pattern by itself.

    Args:
        control_scores: (n,) blind scores, infinite where the iterations diverged.
        max_false_rate: Refuse to certify where n is too small to claim this rate, in (0, 1).
        confidence: Coverage of the interval, in (0, 1).
        source: What the scores are of.

    Returns:
        The threshold, None where n is too small, with the reason, the rate 1 / (n + 1) and its interval.

    Raises:
        ValueError: A score is NaN, or an argument is out of its range.
    """
    scores = torch.as_tensor(control_scores, dtype=torch.float64).flatten()
    if bool(scores.isnan().any()):
        raise ValueError("control_scores holds NaN: give infinity where the iterations diverged")
    if not 0 < max_false_rate < 1:
        raise ValueError(f"max_false_rate={max_false_rate}: must be between 0 and 1, such as 0.01")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, such as 0.95")
    number = len(scores)
    rate = 1 / (number + 1)
    interval = (0.0, 1 - ((1 - confidence) / 2) ** (1 / number)) if number else (0.0, 1.0)
    needed = controls_needed(max_false_rate)
    if number < needed:
        reason = (
            f"{number} {source} cannot show a false-certification rate of {max_false_rate:.2g}: "
            f"it takes {needed}, so nothing is certified"
        )
        return Calibration(None, reason, number, rate, interval, confidence, source)
    lowest = float(scores.min())
    return Calibration(lowest, "", number, rate, interval, confidence, source)


COPIES_MARGIN = 0.5
"""Factor on the scores of :func:`turned_copies`, and so on the threshold that is set from them. The lowest score of the
copies was measured to be up to twice that of real controls, so half of it is taken."""

NO_THRESHOLD = Calibration(math.inf, "", 0, 1.0, (0.0, 1.0), source="nothing")
"""A calibration whose threshold every finite score passes. :func:`certify` with it asks for the expected error alone,
and so returns the images that a real calibration could certify at most; none of them is a claim."""


def controls_needed(max_false_rate: float) -> int:
    """The smallest n with 1 / (n + 1) at most ``max_false_rate``."""
    return math.ceil(1 / max_false_rate - 1 - 1e-9)


def certify(recovery: Recovery, calibration: Calibration) -> Recovery:
    """Certify the images whose blind score and expected error are low enough; no ground truth is used.

    An image is certified when both hold:

    - its score is below the threshold, which is no rounding, see :data:`LEAST_THRESHOLD`. Where its gain, see
      :func:`noise_gain`, is above :data:`LARGEST_GAIN`, the score must be below :data:`GAIN_MARGIN` times the
      threshold, as f may be copying its input there;
    - its expected mean squared error is at most :data:`LARGEST_ERROR`, a PSNR of 25 dB.

    Args:
        recovery: Of B images, with ``expected_error`` and ``gain``; without them nothing is certified.
        calibration: The threshold, from :func:`calibrate`; one without a threshold certifies nothing.

    Returns:
        The recovery with ``certified`` replaced, (B,) bool. Its other fields stay, ``calibration`` among them.
    """
    if recovery.expected_error is None or recovery.gain is None:
        return recovery._replace(certified=torch.zeros_like(recovery.certified))
    certified = is_certified(recovery.score, recovery.expected_error, recovery.gain, calibration)
    return recovery._replace(certified=certified)


def is_certified(score: Tensor, expected_error: Tensor, gain: Tensor, calibration: Calibration) -> Tensor:
    """The certificates of :func:`certify`, (B,), from the three numbers of every image, (B,) each."""
    if calibration.threshold is None or calibration.threshold < LEAST_THRESHOLD:
        return torch.zeros_like(score, dtype=torch.bool)
    margin = torch.where(gain <= LARGEST_GAIN, 1.0, GAIN_MARGIN)
    return (score < margin * calibration.threshold) & (expected_error <= LARGEST_ERROR)


@torch.no_grad()
def noise_gain(
    autoencoder: Autoencoder, images: Tensor, deviation: float = 0.1, output: Tensor | None = None
) -> Tensor:
    """Share of white noise that f passes on: ``mean (f(x + n) - f(x))^2 / mean n^2``, (B,).

    For small noise it estimates the mean square of the singular values of f's Jacobian at x (Hutchinson 1990). Near a
    stored image f suppresses most directions and the gain is near 0. The identity has a gain of 1: it passes everything
    on, and says nothing of what it was trained on. One draw of noise serves all images; it takes two evaluations of f.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        images: x, (B, C, *spatial).
        deviation: Standard deviation of the noise, positive.
        output: f(x), where it is known: then it takes one evaluation.

    Returns:
        (B,) 0 or more; not finite where f is not.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape[1:], generator=generator).to(images) * deviation
    output = autoencoder(images) if output is None else output
    change = (autoencoder(images + noise) - output).square().flatten(1).mean(1)
    return change / noise.square().mean()


def turned_copies(observed: Tensor, number: int) -> Tensor:
    """Stand-ins for controls where there are none: the degraded images themselves, rotated or mirrored.

    A turned image was most likely not trained on, and has the colours, contrast, smoothness and share of missing pixels
    of its original. So its blind score takes the place of that of an image that was not trained on. Square images are
    rotated by 90 degrees, flipped vertically, rotated by 180 and by 270 degrees and mirrored at either diagonal, others
    flipped vertically and rotated by 180 degrees. Volumes are flipped along any axes but the last one alone, and turned
    in the plane of two axes of equal length; signals are reversed. All images are turned in one way, then all in the
    next. Where more copies are wanted the turns are repeated, each time with another shift; what leaves at one border
    enters at the opposite one.

    Turned copies are not guaranteed to be exchangeable with images that were not trained on. An autoencoder may find
    turned scenes harder than upright ones, and so score them higher: for that :data:`COPIES_MARGIN` lowers the
    threshold. Copies of few images resemble each other. Where training itself turned its images, or images are
    symmetric, copies are as good as stored and score low; then less is certified, not more.

    Args:
        observed: y, (B, C, *spatial), B at least 1.
        number: Copies wanted.

    Returns:
        (number, C, *spatial).
    """
    turns = _turns(observed)
    sides = spatial(observed)
    copies = [observed[:0]]
    for index in range(math.ceil(number / len(observed))):
        copy = turns[index % len(turns)](observed)
        if index >= len(turns):
            # Steps of the golden ratio never repeat and spread evenly.
            shift = index * 0.6180339887 % 1
            shifts = [round((shift + place / len(sides)) % 1 * side) for place, side in enumerate(sides)]
            copy = copy.roll(shifts, axes(observed))
        copies.append(copy)
    return torch.cat(copies)[:number].contiguous()


def _turns(images: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """Every way to flip axes but the last one alone, and to turn and mirror the plane of two equally long ones."""
    dimensions = axes(images)
    sets = [some for count, _ in enumerate(dimensions, 1) for some in itertools.combinations(dimensions, count)]
    flips = [some for some in sets if some != dimensions[-1:] or len(sets) == 1]
    turns: list[Callable[[Tensor], Tensor]] = [partial(torch.flip, dims=some) for some in flips]
    pairs = itertools.combinations(dimensions, 2)
    planes = [(one, other) for one, other in pairs if images.shape[one] == images.shape[other]]
    if not planes:
        return turns
    first, second = planes[-1]  # of volumes that of height and width, where they agree

    def mirrored(images: Tensor, *flipped: int) -> Tensor:
        return images.transpose(first, second).flip(flipped)

    return [
        lambda images: mirrored(images, second),
        *turns,
        lambda images: mirrored(images, first),
        lambda images: mirrored(images),
        lambda images: mirrored(images, first, second),
    ]

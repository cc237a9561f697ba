"""Where a mask comes from: the mask estimators by their names, and the rules that update masks during a search."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.fills import find_constant_fill, local_agreement
from lightning_memaudit.recovery.masks import LeastSquaresMask, MaskEstimator, PosteriorMask, mask_of_smallest_errors
from lightning_memaudit.recovery.spatial import repeat, with_axes
from lightning_memaudit.recovery.types import Problem

PIXEL_SPREADS = (1.0, 4.0)
"""Error variances allowed for in an observed pixel, as factors on the image's mean squared error, see ``spreads`` of
:class:`PosteriorMask`: errors of an autoencoder are larger at edges than elsewhere. It takes several channels to tell
which factor holds for a pixel."""

VALUE_SPREADS = (2.0,)
"""The same where a mask entry has a single value behind it (one channel, or a mask per channel): too little to choose
between factors, so there is one in between."""

LEAST_EVIDENCE = 0.01
"""Lower bound of :meth:`MaskFromContent.explained`, by which scores are divided; in nats per value of the
observation."""


@dataclass(frozen=True)
class AutomaticMask:
    """A mask estimator for any fill: it looks at the observation first, and at the image only where that does not tell.

    Where many pixels of the observation share one value, exactly or up to noise, that value is taken for the fill, see
    :func:`~lightning_memaudit.recovery.fills.find_constant_fill`: the pixels that have it are missing, the others
    observed. In other images the missing pixels may hold anything, such as noise: there :class:`PosteriorMask` with
    ``fill="noise"`` says from the distance of each pixel to the current image how probably it was observed.

    :class:`~lightning_memaudit.recovery.BlindRecovery` with given penalties uses it when ``mask_estimator`` is
    ``auto``, and :class:`~lightning_memaudit.recovery.WhiteBoxRecovery` by default.

    Attributes:
        noise: Standard deviation of the noise in the observation, 0 or more; None when it is not known: then it is
            estimated for images with a noisy fill of 0, and taken for 0 in others.

    >>> image, noise = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> mask = (torch.arange(8) < 4).float().expand(1, 1, 8, 8)
    >>> for fill in (torch.zeros(1, 1, 8, 8), noise):
    ...     estimate = AutomaticMask()(image, observed=mask * image + (1 - mask) * fill)
    ...     print(torch.equal(estimate.round(), mask))
    True
    True
    """

    noise: float | None = None

    def __call__(self, image: Tensor, observed: Tensor) -> Tensor:
        """The mask of ``observed`` given ``image``, both (B, C, *spatial): (B, 1 or C, *spatial), in [0, 1]."""
        fill = find_constant_fill(observed, self.noise)
        content = PosteriorMask("noise", noise=self.noise or 0.0)(image, observed)
        return torch.where(with_axes(fill.present, observed), fill.mask, content)


MASK_ESTIMATORS: dict[str, MaskEstimator] = {
    "auto": AutomaticMask(),
    "least_squares": LeastSquaresMask(),
    "posterior": PosteriorMask(),
    "posterior_constant_fill": PosteriorMask("constant"),
    "posterior_noise_fill": PosteriorMask("noise"),
}


class MaskCourse(NamedTuple):
    """The masks that a round of the search begins with, and how they are updated as its iterations go on.

    For B images and M hypotheses about the mask, such as shares of observed pixels, there are M·B masks.

    Attributes:
        mask: The first masks, (M·B, 1 or C, *spatial) in [0, 1]: B for the first hypothesis, then B for the next.
        update: From the current image, the observation and the share of the iterations that are done, in [0, 1], to the
            next mask; None for masks that stay. The rows are those of ``mask``, repeated for every penalty.
        explained: From f(x), the observation and the mask to the share of the observation that f(x) explains, (B,) in
            (0, 1]; None where the score is not to be divided by it.

    >>> problem = Problem.whole(torch.rand(2, 1, 8, 8), mask=torch.ones(2, 1, 8, 8), noise=torch.zeros(2))
    >>> known_mask(problem, num_penalties=3)[1:]  # no update, and the score is not divided
    (None, None)
    >>> MaskFromContent(shares=(0.5, 0.1))(problem, num_penalties=3).mask.shape  # two hypotheses
    torch.Size([4, 1, 8, 8])
    """

    mask: Tensor
    update: Callable[[Tensor, Tensor, float], Tensor] | None
    explained: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


MaskRule = Callable[[Problem, int], MaskCourse]
"""From a problem and the number of penalties that every mask is run with to the masks of a round and their updates."""


def known_mask(problem: Problem, num_penalties: int) -> MaskCourse:
    """The rule for masks that are known: the problem's own mask stays."""
    return MaskCourse(problem.mask, None)


@dataclass(frozen=True)
class EstimatedMask:
    """The rule for a mask estimator: the current image updates the mask every few iterations.

    Attributes:
        estimator: Any function ``(image, observed) -> mask``, (B, C, *spatial) to (B, 1 or C, *spatial).

    >>> image, mask = torch.full((1, 1, 8, 8), 0.5), (torch.arange(8) < 4).float().expand(1, 1, 8, 8)
    >>> problem = Problem.whole(mask * image, mask=torch.ones(1, 1, 8, 8), noise=torch.zeros(1))
    >>> course = EstimatedMask(LeastSquaresMask())(problem, num_penalties=1)
    >>> torch.equal(course.update(image, problem.observed, 0.5), mask)
    True
    """

    estimator: MaskEstimator

    def __call__(self, problem: Problem, num_penalties: int) -> MaskCourse:
        """Begin with the problem's own mask."""
        return MaskCourse(problem.mask, lambda image, observed, done: self.estimator(image, observed))


@dataclass(frozen=True)
class NoisyFill:
    """The rule for images whose missing pixels hold a known value with noise on it.

    The first mask takes for observed only the pixels so far from the fill that noise does not explain it: more than
    3 + sqrt(C) standard deviations, as the distance over all C channels. Then :class:`PosteriorMask` estimates the mask
    from the current image, the fill and the noise.

    Attributes:
        value: (B, C, *ones) the fill of all images that the search began with.

    >>> noise = 0.05 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> image, mask = torch.full((1, 1, 16, 16), 0.6), (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    >>> problem = Problem.whole(mask * image + noise, mask=mask, noise=torch.tensor([0.05]))
    >>> torch.equal(NoisyFill(value=torch.zeros(1, 1, 1, 1))(problem, num_penalties=1).mask, mask)
    True
    """

    value: Tensor

    def __call__(self, problem: Problem, num_penalties: int) -> MaskCourse:
        """Begin with the pixels that noise on the fill does not explain."""
        value = self.value[problem.number]
        far = (problem.observed - value).square().sum(1, keepdim=True).sqrt()
        limit = (3 + math.sqrt(value.shape[1])) * with_axes(problem.noise, far)
        fill, noise = repeat(value, num_penalties), problem.noise.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            return PosteriorMask().posterior(image, observed, fill=fill, noise=noise).mask

        return MaskCourse((far > limit).to(value.dtype), update)


@dataclass(frozen=True)
class MaskFromContent:
    """The rule for images whose missing pixels may hold anything, such as noise: the image's content tells.

    The first mask takes for observed the pixels that resemble their neighbours most, as image content does and noise
    does not. For three quarters of the iterations it is then those that the current image fits best. Either keeps a
    fixed share of the pixels (least trimmed squares). From then on :class:`PosteriorMask` decides, pixel by pixel.

    Attributes:
        shares: Shares of observed pixels to try, in (0, 1); each is a hypothesis with masks of its own.
        noise: Standard deviation of the noise.
        shared: One mask for all channels, or one per channel.

    >>> noise = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> ramp = torch.linspace(0.2, 0.8, 16).expand(1, 1, 16, 16)
    >>> mask = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    >>> problem = Problem.whole(mask * ramp + (1 - mask) * noise, mask=torch.ones(1, 1, 16, 16), noise=torch.zeros(1))
    >>> first = MaskFromContent(shares=(0.5,))(problem, num_penalties=1).mask
    >>> bool((first == mask).float().mean() > 0.8)  # before any image is known
    True
    """

    shares: tuple[float, ...]
    noise: float = 0.0
    shared: bool = True

    def __call__(self, problem: Problem, num_penalties: int) -> MaskCourse:
        """Begin with the pixels that resemble their neighbours."""
        observed = problem.observed
        if self.shared:
            agreement = local_agreement(observed)
        else:
            agreement = torch.cat([local_agreement(channel) for channel in torch.split(observed, 1, 1)], 1)
        share = observed.new_tensor(self.shares).repeat_interleave(len(observed))
        mask = mask_of_smallest_errors(-repeat(agreement, len(self.shares)), share)
        share = share.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            if done < 0.75:
                error = (image - observed).square()
                return mask_of_smallest_errors(error.sum(1, keepdim=True) if self.shared else error, share)
            return self.posterior(image, observed, share, 2 if done < 1 else 10)

        # Noise bounds the evidence for any image: then it does not tell a right one from a wrong one.
        return MaskCourse(mask, update, self.explained if self.noise == 0 else None)

    def explained(self, output: Tensor, observed: Tensor, mask: Tensor) -> Tensor:
        """How much better f(x) explains the observation than an empty mask does, in nats per value of the observation.

        The score is divided by it. A mask may keep only the few pixels that happen to agree with a wrong image: its
        residuals are small, but so is what it explains.

        Returns:
            (B,) between :data:`LEAST_EVIDENCE` and 1.
        """
        share = mask.flatten(1).mean(1).clamp(0.05, 0.95)
        evidence = self._estimator(observed).posterior(output, observed, 10, share).evidence
        return (evidence / observed[0].numel()).nan_to_num(0).clamp(LEAST_EVIDENCE, 1)

    def posterior(self, image: Tensor, observed: Tensor, share: Tensor, steps: int) -> Tensor:
        """The posterior rounded to 0 or 1, (B, 1 or C, *spatial), after ``steps`` of expectation-maximization.

        All ones where the evidence is at most ``5 log(C·prod(spatial))`` nats: an image may explain so much by chance.
        """
        posterior = self._estimator(observed).posterior(image, observed, steps, share)
        needed = 5 * math.log(observed[0].numel())
        explained = with_axes(posterior.evidence > needed, observed)
        return torch.where(explained, (posterior.mask > 0.5).to(image.dtype), torch.ones_like(posterior.mask))

    def _estimator(self, observed: Tensor) -> PosteriorMask:
        spreads = PIXEL_SPREADS if self.shared and observed.shape[1] > 1 else VALUE_SPREADS
        return PosteriorMask("noise", self.noise, prior=None, shared=self.shared, spreads=spreads, coupled=True)

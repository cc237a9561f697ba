"""Where a mask comes from: an estimator by its name, or a rule that a search follows from iteration to iteration."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.fills import find_constant_fill, local_agreement
from lightning_memaudit.recovery.masks import LeastSquaresMask, MaskEstimator, PosteriorMask, mask_of_smallest_errors
from lightning_memaudit.recovery.types import Problem

PIXEL_SPREADS = (1.0, 4.0)
"""An autoencoder's errors are larger at edges than elsewhere: variances allowed for, over their mean square. The
channels of a pixel tell which of the two it is."""

VALUE_SPREADS = (2.0,)
"""The same for a single value, which does not tell."""

LEAST_EVIDENCE = 0.01
"""Evidence in nats per value of the observation that an image is credited with at least."""


@dataclass(frozen=True)
class AutomaticMask:
    """Where one value fills the missing pixels, those that do not have it; else the posterior for any fill."""

    noise: float | None = None

    def __call__(self, image: Tensor, observed: Tensor) -> Tensor:
        """Estimate the mask of ``observed`` given ``image``, both (B, C, H, W)."""
        fill = find_constant_fill(observed, self.noise)
        content = PosteriorMask("noise", noise=self.noise or 0.0)(image, observed)
        return torch.where(fill.present.view(-1, 1, 1, 1), fill.mask, content)


MASK_ESTIMATORS: dict[str, MaskEstimator] = {
    "auto": AutomaticMask(),
    "least_squares": LeastSquaresMask(),
    "posterior": PosteriorMask(),
    "posterior_constant_fill": PosteriorMask("constant"),
    "posterior_noise_fill": PosteriorMask("noise"),
}


class MaskCourse(NamedTuple):
    """The masks of a round: (M·B, 1 or C, H, W), the first B for the first of M hypotheses, and how they go on.

    Attributes:
        mask: Where they start.
        update: From the current image, the observation and the share of the iterations that are done to the next mask;
            None for masks that stay.
        explained: From f(x), the observation and the mask to how much of the observation x explains, (B,) in (0, 1];
            None where the score is not to be divided by it.
    """

    mask: Tensor
    update: Callable[[Tensor, Tensor, float], Tensor] | None
    explained: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


MaskRule = Callable[[Problem, int], MaskCourse]
"""Makes the masks of a problem, whose every row is run with this many penalties."""


def known_mask(problem: Problem, num_penalties: int) -> MaskCourse:
    """The problem's own mask stays."""
    return MaskCourse(problem.mask, None)


@dataclass(frozen=True)
class EstimatedMask:
    """Any mask estimator, applied every few iterations."""

    estimator: MaskEstimator

    def __call__(self, problem: Problem, num_penalties: int) -> MaskCourse:
        """Begin with the problem's own mask."""
        return MaskCourse(problem.mask, lambda image, observed, done: self.estimator(image, observed))


@dataclass(frozen=True)
class NoisyFill:
    """Masks of images whose missing pixels hold a known value and noise.

    At first only pixels that noise could not have made are taken for observed, then the posterior decides.

    Attributes:
        value: (B, C, 1, 1) the fill of all images of the problem.
    """

    value: Tensor

    def __call__(self, problem: Problem, num_penalties: int) -> MaskCourse:
        """Begin with what noise could not have made."""
        value = self.value[problem.number]
        far = (problem.observed - value).square().sum(1, keepdim=True).sqrt()
        limit = (3 + math.sqrt(value.shape[1])) * problem.noise.view(-1, 1, 1, 1)
        fill, noise = value.repeat(num_penalties, 1, 1, 1), problem.noise.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            return PosteriorMask().posterior(image, observed, fill=fill, noise=noise).mask

        return MaskCourse((far > limit).to(value.dtype), update)


@dataclass(frozen=True)
class MaskFromContent:
    """Masks told from the content, where missing pixels hold anything at all.

    At first the pixels that resemble their neighbours are taken for observed, then those that the current image fits
    best, in either case a fixed share of them (least trimmed squares); in the end the posterior decides.

    Attributes:
        shares: Shares of observed pixels to try.
        noise: Standard deviation of the noise.
        shared: One mask for all channels, or one per channel.
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
        mask = mask_of_smallest_errors(-agreement.repeat(len(self.shares), 1, 1, 1), share)
        share = share.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            if done < 0.75:
                error = (image - observed).square()
                return mask_of_smallest_errors(error.sum(1, keepdim=True) if self.shared else error, share)
            return self.posterior(image, observed, share, 2 if done < 1 else 10)

        # Noise bounds the evidence for any image: then it does not tell a right one from a wrong one.
        return MaskCourse(mask, update, self.explained if self.noise == 0 else None)

    def explained(self, output: Tensor, observed: Tensor, mask: Tensor) -> Tensor:
        """Evidence for f(x) in nats per mask entry and value behind it, between :data:`LEAST_EVIDENCE` and 1.

        A mask that keeps the few pixels where any image agrees leaves little to get wrong, and explains as little.
        """
        share = mask.flatten(1).mean(1).clamp(0.05, 0.95)
        evidence = self._estimator(observed).posterior(output, observed, 10, share).evidence
        return (evidence / observed[0].numel()).nan_to_num(0).clamp(LEAST_EVIDENCE, 1)

    def posterior(self, image: Tensor, observed: Tensor, share: Tensor, steps: int) -> Tensor:
        """The posterior; all ones where the image explains no more of the observation than chance would."""
        posterior = self._estimator(observed).posterior(image, observed, steps, share)
        needed = 5 * math.log(observed[0].numel())
        explained = (posterior.evidence > needed).view(-1, 1, 1, 1)
        return torch.where(explained, (posterior.mask > 0.5).to(image.dtype), torch.ones_like(posterior.mask))

    def _estimator(self, observed: Tensor) -> PosteriorMask:
        spreads = PIXEL_SPREADS if self.shared and observed.shape[1] > 1 else VALUE_SPREADS
        return PosteriorMask("noise", self.noise, prior=None, shared=self.shared, spreads=spreads, coupled=True)

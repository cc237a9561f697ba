"""The search that tunes itself: penalties, starts and masks are tried in rounds, on the images that still need it."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_memaudit.recovery.admm import Workspace
from lightning_memaudit.recovery.checks import check_counts, check_penalties
from lightning_memaudit.recovery.evidence import Candidate, better, carry_over, refine
from lightning_memaudit.recovery.fills import local_agreement
from lightning_memaudit.recovery.interpolation import Interpolation, interpolate
from lightning_memaudit.recovery.masks import MaskEstimator, PosteriorMask, keep_smallest, same_channels
from lightning_memaudit.recovery.types import Autoencoder

Start = Literal["interpolated", "autoencoder", "random"]

PIXEL_SPREADS = (1.0, 4.0)
"""An autoencoder's errors are larger at edges than elsewhere: variances allowed for, over their mean square. The
channels of a pixel tell which of the two it is."""

VALUE_SPREADS = (2.0,)
"""The same for a single value, which does not tell."""

LEAST_EVIDENCE = 0.01
"""Evidence in nats per value of the observation that an image is credited with at least."""

TYPICAL_VARIANCE = 0.01
"""Squared error of the autoencoder's image halfway through: what the noise is weighed against in the data term."""


@dataclass(frozen=True)
class Round:
    """Attempts made together: every penalty from the same start.

    Attributes:
        penalties: ADMM penalties.
        start: ``interpolated`` fills the missing pixels smoothly, ``autoencoder`` is f(y), ``random`` is f of the
            observation with random values where it is missing.
        num_iterations: ADMM iterations of every attempt.
    """

    penalties: tuple[float, ...]
    start: Start
    num_iterations: int

    def __post_init__(self) -> None:
        check_penalties(self.penalties)
        if self.start not in get_args(Start):
            raise ValueError(f"start={self.start!r}: pass one of {', '.join(get_args(Start))}")
        check_counts(num_iterations=self.num_iterations)


@dataclass(frozen=True)
class SelfTuning:
    """The order in which things are tried. The last round is repeated until the evaluations are spent.

    Attributes:
        rounds: What to try, cheap and likely first.
        spread: Share of the correction of observed pixels that hidden ones are shown, in [0, 1], see
            :class:`~lightning_memaudit.recovery.admm.Workspace`; 0 is the paper's iteration.
        shares: Shares of observed pixels to try where the mask must be told from the image's content.
        mask_steps: ADMM iterations between two estimates of such a mask.
        refinements: Evaluations of f that improve and score what an attempt ended with, see
            :func:`~lightning_memaudit.recovery.evidence.refine`.
        good_error: An image whose expected mean squared error is below this needs no further round.
        fair_error: Nor does one below this that the last round hardly improved.
        improvement: An expected error above this share of the one before is hardly an improvement.
        patience: Nor does an image that so many rounds in a row hardly improved.
    """

    rounds: tuple[Round, ...] = (
        Round((0.1, 0.3), "interpolated", 20),
        Round((0.03, 1.0), "interpolated", 30),
        Round((0.1, 0.3), "autoencoder", 50),
        Round((0.1, 0.3), "random", 40),
    )
    spread: float = 0.35
    shares: tuple[float, ...] = (0.5, 0.1)
    mask_steps: int = 2
    refinements: int = 6
    good_error: float = 10**-3.5
    fair_error: float = 10**-3.0
    improvement: float = 0.9
    patience: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread={self.spread}: must be between 0 and 1, such as 0.35")
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"shares={list(self.shares)}: give shares between 0 and 1, such as [0.5, 0.1]")
        if not self.rounds:
            raise ValueError("rounds is empty: give at least one round")
        check_counts(mask_steps=self.mask_steps, refinements=self.refinements, patience=self.patience)


class Problem(NamedTuple):
    """What is known of B degraded images; every field has B rows.

    Attributes:
        observed: y, (B, C, H, W).
        mask: (B, 1 or C, H, W), in [0, 1]; a guess where it must be estimated.
        noise: (B,) standard deviation of the noise.
        number: (B,) number of each image among those that the search began with.
    """

    observed: Tensor
    mask: Tensor
    noise: Tensor
    number: Tensor

    @classmethod
    def whole(cls, observed: Tensor, mask: Tensor, noise: Tensor) -> "Problem":
        """All images of a search."""
        return cls(observed, mask, noise, torch.arange(len(observed), device=observed.device))

    def select(self, rows: Tensor) -> "Problem":
        """Only these rows."""
        return Problem(self.observed[rows], self.mask[rows], self.noise[rows], self.number[rows])


class Found(NamedTuple):
    """The best candidate of every image and what it cost, (B,) int64."""

    candidate: Candidate
    num_evaluations: Tensor


class Masks(NamedTuple):
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


Masking = Callable[[Problem, int], Masks]
"""Makes the masks of a problem, whose every row is run with this many penalties."""


def known_mask(problem: Problem, num_penalties: int) -> Masks:
    """The problem's own mask stays."""
    return Masks(problem.mask, None)


@dataclass(frozen=True)
class EstimatedMask:
    """Any mask estimator, applied every few iterations."""

    estimator: MaskEstimator

    def __call__(self, problem: Problem, num_penalties: int) -> Masks:
        """Begin with the problem's own mask."""
        return Masks(problem.mask, lambda image, observed, done: self.estimator(image, observed))


@dataclass(frozen=True)
class NoisyFill:
    """Masks of images whose missing pixels hold a known value and noise.

    At first only pixels that noise could not have made are taken for observed, then the posterior decides.

    Attributes:
        value: (B, C, 1, 1) the fill of all images of the problem.
    """

    value: Tensor

    def __call__(self, problem: Problem, num_penalties: int) -> Masks:
        """Begin with what noise could not have made."""
        value = self.value[problem.number]
        far = (problem.observed - value).square().sum(1, keepdim=True).sqrt()
        limit = (3 + math.sqrt(value.shape[1])) * problem.noise.view(-1, 1, 1, 1)
        fill, noise = value.repeat(num_penalties, 1, 1, 1), problem.noise.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            return PosteriorMask().posterior(image, observed, fill=fill, noise=noise).mask

        return Masks((far > limit).to(value.dtype), update)


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

    def __call__(self, problem: Problem, num_penalties: int) -> Masks:
        """Begin with the pixels that resemble their neighbours."""
        observed = problem.observed
        if self.shared:
            agreement = local_agreement(observed)
        else:
            agreement = torch.cat([local_agreement(channel) for channel in torch.split(observed, 1, 1)], 1)
        share = observed.new_tensor(self.shares).repeat_interleave(len(observed))
        mask = keep_smallest(-agreement.repeat(len(self.shares), 1, 1, 1), share)
        share = share.repeat(num_penalties)

        def update(image: Tensor, observed: Tensor, done: float) -> Tensor:
            if done < 0.75:
                error = (image - observed).square()
                return keep_smallest(error.sum(1, keepdim=True) if self.shared else error, share)
            return self.posterior(image, observed, share, 2 if done < 1 else 10)

        # Noise bounds the evidence for any image: then it does not tell a right one from a wrong one.
        return Masks(mask, update, self.explained if self.noise == 0 else None)

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


def search(
    autoencoder: Autoencoder, problem: Problem, masking: Masking, tuning: SelfTuning, max_evaluations: int
) -> Found:
    """Try one round after the other on the images that still need it; the best candidate by score so far is kept.

    Args:
        autoencoder: f.
        problem: B degraded images.
        masking: Where masks come from.
        tuning: What to try in which order.
        max_evaluations: Evaluations of f per image at most, at least 1.
    """
    observed = problem.observed
    start, explained = interpolate(observed, problem.mask), masking(problem, 1).explained
    best = refine(autoencoder, observed, problem.mask, start, problem.noise, explained_share=explained)
    spent = torch.ones(len(observed), dtype=torch.int64, device=observed.device)
    active = torch.arange(len(observed), device=observed.device)
    idle = torch.zeros_like(spent)
    used = 1
    for number in itertools.count():
        round_ = tuning.rounds[min(number, len(tuning.rounds) - 1)]
        current = problem.select(active)
        masks = masking(current, len(round_.penalties))
        hypotheses = len(masks.mask) // len(active)
        attempts = hypotheses * len(round_.penalties)
        # Evaluations that make the starts, shared by the penalties.
        begin = {"interpolated": 0, "autoencoder": 1, "random": hypotheses}[round_.start]
        refinements = tuning.refinements
        iterations = min(round_.num_iterations, (max_evaluations - used - begin) // attempts - refinements)
        if iterations < 1:
            break
        candidate = _attempt(autoencoder, current, masks, round_, iterations, number, tuning)
        used += begin + attempts * (iterations + refinements)
        spent[active] = used
        before = best.expected_error[active]
        improved = better(Candidate(*(part[active] for part in best)), candidate)
        best = _replace_rows(best, active, improved)
        error = improved.expected_error
        stuck = error > tuning.improvement * before
        idle[active] = torch.where(stuck, idle[active] + 1, 0)
        done = (error < tuning.good_error) | (stuck & (error < tuning.fair_error)) | (idle[active] >= tuning.patience)
        active = active[~done]
        if not len(active):
            break
    return Found(best, spent)


def _attempt(
    autoencoder: Autoencoder,
    problem: Problem,
    masks: Masks,
    round_: Round,
    iterations: int,
    seed: int,
    tuning: SelfTuning,
) -> Candidate:
    """Run every penalty on every mask, and return the best candidate of each image."""
    number = len(problem.observed)
    hypotheses = len(masks.mask) // number
    count = len(round_.penalties) * hypotheses
    observed = problem.observed.repeat(count, 1, 1, 1)
    mask = masks.mask.repeat(len(round_.penalties), 1, 1, 1)
    noise = problem.noise.repeat(count)
    penalty = observed.new_tensor(round_.penalties).repeat_interleave(hypotheses * number)
    # The data are worth less where noise is on them: as if the penalty were larger, and less of it is spread.
    doubt = 1 + noise.square() / TYPICAL_VARIANCE
    penalty = penalty * doubt
    if round_.start == "autoencoder":
        start = autoencoder(problem.observed).repeat(count, 1, 1, 1)
    else:
        start = interpolate(problem.observed.repeat(hypotheses, 1, 1, 1), masks.mask)
        if round_.start == "random":
            generator = torch.Generator(observed.device).manual_seed(seed)
            # The same for every image: what is found for one must not depend on the others in its batch.
            filling = torch.rand(start.shape[1:], generator=generator, dtype=start.dtype, device=start.device)
            start = autoencoder(torch.lerp(filling.expand_as(start), start, masks.mask.expand_as(start)))
        start = start.repeat(len(round_.penalties), 1, 1, 1)
    work = Workspace(autoencoder, observed, start, penalty, tuning.spread / doubt if tuning.spread else None)
    work.set_mask(mask)
    for iteration in range(iterations):
        if masks.update is not None and iteration and iteration % tuning.mask_steps == 0:
            mask = masks.update(work.image, observed, iteration / iterations)
            work.set_mask(mask)
        last = iteration == iterations - 1
        work.advance(image=masks.update is not None and (last or (iteration + 1) % tuning.mask_steps == 0))
    if masks.update is not None:
        mask = masks.update(work.image, observed, 1.0)
    exact = (noise == 0).to(observed.dtype).view(-1, 1, 1, 1)
    image = carry_over(work.prior, observed, Interpolation(mask), exact)
    assessed = refine(autoencoder, observed, mask, image, noise, tuning.refinements, masks.explained)
    parts = [Candidate(*part) for part in zip(*(torch.split(field, number) for field in assessed), strict=True)]
    return functools.reduce(better, parts)


def _replace_rows(candidate: Candidate, rows: Tensor, part: Candidate) -> Candidate:
    whole_mask, part_mask = same_channels([candidate.mask, part.mask])
    fields = []
    for whole, new in zip(candidate._replace(mask=whole_mask), part._replace(mask=part_mask), strict=True):
        whole = whole.clone()
        whole[rows] = new
        fields.append(whole)
    return Candidate(*fields)


def improve(found: Found, rows: Tensor, second: Found) -> Found:
    """Take over what a second search for some rows found better; its evaluations count in any case."""
    candidate = better(Candidate(*(field[rows] for field in found.candidate)), second.candidate)
    num_evaluations = found.num_evaluations.clone()
    num_evaluations[rows] += second.num_evaluations
    return Found(_replace_rows(found.candidate, rows, candidate), num_evaluations)


def scatter(parts: Sequence[tuple[Tensor, Found]]) -> Found:
    """Join what was found for some rows each, which together are all rows."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    masks = same_channels([found.candidate.mask for _, found in parts])
    candidates = [found.candidate._replace(mask=mask) for (_, found), mask in zip(parts, masks, strict=True)]
    joined = Candidate(*(torch.cat(field)[order] for field in zip(*candidates, strict=True)))
    return Found(joined, torch.cat([found.num_evaluations for _, found in parts])[order])

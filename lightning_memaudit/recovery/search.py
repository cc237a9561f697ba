"""Strategy 2, the search that tunes itself: rounds of penalties, starts and masks, until each image is recovered well.

An image that is recovered well, or that several rounds in a row hardly improved, takes part in no further round.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_memaudit.recovery.admm import Workspace
from lightning_memaudit.recovery.batches import map_chunks, rows_per_chunk, same_channels
from lightning_memaudit.recovery.candidates import Candidate, add_interpolated_residual, better, refine
from lightning_memaudit.recovery.certification import noise_gain
from lightning_memaudit.recovery.checks import check_counts, check_penalties
from lightning_memaudit.recovery.interpolation import Interpolation, interpolate
from lightning_memaudit.recovery.mask_rules import MaskCourse, MaskRule
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.types import Autoencoder, Problem, Recovery, concatenate

Start = Literal["interpolated", "autoencoder", "random"]


TYPICAL_VARIANCE = 0.01
"""Mean squared error that is assumed of the autoencoder's image about halfway through an attempt. Noise of this
variance doubles the penalty: the data then count for less."""


@dataclass(frozen=True)
class Round:
    """Attempts made together: every penalty from the same start.

    Attributes:
        penalties: ADMM penalties, positive.
        start: ``interpolated`` fills the missing pixels smoothly, ``autoencoder`` is f(y), ``random`` is f of the
            observation with random values where it is missing.
        num_iterations: ADMM iterations of every attempt.

    Raises:
        ValueError: An attribute is out of its range; the message names it and its value.

    >>> from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
    >>> image, one = torch.full((1, 1, 8, 8), 0.5), Round(penalties=(0.1, 0.3), start="interpolated", num_iterations=20)
    >>> method = KnownMaskRecovery(tuning=SelfTuning(rounds=(one,), refinements=6))
    >>> recovery = method(lambda x: image.expand_as(x), observed=image, mask=torch.ones(1, 1, 8, 8))
    >>> recovery.num_evaluations.item()  # 1 scores the start, 2 measure the gain, and 2 * (20 + 6) are the round's
    55
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
    """What the search tries in which order, and when it is done with an image.

    The last round is repeated until the evaluations are spent. "Error" below is the expected mean squared error of an
    image's best candidate so far.

    Attributes:
        rounds: What to try, cheap and likely first.
        spread: Share of the correction of observed pixels that is added to hidden ones nearby, in [0, 1], see
            :class:`~lightning_memaudit.recovery.admm.Workspace`; 0 is the paper's iteration.
        shares: Shares of observed pixels to try, in (0, 1), where the mask must be told from the image's content.
        mask_steps: ADMM iterations between two estimates of a mask that is not known.
        refinements: Evaluations of f that improve and score what an attempt ended with, see
            :func:`~lightning_memaudit.recovery.candidates.refine`.
        good_error: An image with an error below this is done.
        fair_error: An image with an error below this is done once a round has hardly improved it.
        improvement: A round has hardly improved an image if the error after it is above this share of that before.
        patience: An image is given up after so many rounds in a row that have hardly improved it.

    Raises:
        ValueError: ``spread``, ``shares``, ``rounds`` or a count is out of its range; the message names it.

    >>> from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
    >>> image, mask = torch.full((1, 1, 8, 8), 0.5), torch.tensor([1.0, 0]).repeat(1, 1, 8, 4)
    >>> def evaluations(f, patience):
    ...     method = KnownMaskRecovery(tuning=SelfTuning(patience=patience))
    ...     return method(f, mask * image, mask).num_evaluations.item()
    >>> [evaluations(f, n) for f in (lambda x: image.expand_as(x), torch.zeros_like) for n in (1, 2)]  # done, given up
    [55, 55, 55, 127]
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


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        candidate: The best candidate of every image.
        num_evaluations: (B,) int64, evaluations of f spent on every image.

    >>> from lightning_memaudit.recovery.mask_rules import known_mask
    >>> stored, mask = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1.0, 0]).repeat(2, 1, 8, 4)
    >>> problem = Problem.whole(mask * stored, mask, noise=torch.zeros(2))
    >>> found = search(lambda x: stored[:1].expand_as(x), problem, known_mask, SelfTuning(), max_evaluations=100)
    >>> torch.equal(found.candidate.image, stored), found.num_evaluations.tolist()
    (True, [53, 53])
    """

    candidate: Candidate
    num_evaluations: Tensor


def search(
    autoencoder: Autoencoder, problem: Problem, rule: MaskRule, tuning: SelfTuning, max_evaluations: int
) -> SearchResult:
    """Try one round after the other on the images that still need it; the best candidate by score so far is kept.

    Args:
        autoencoder: f.
        problem: B degraded images.
        rule: Where masks come from.
        tuning: What to try in which order.
        max_evaluations: Evaluations of f per image at most, at least 1.

    Returns:
        The best candidate of every image, the interpolated start if nothing beat it, and the evaluations spent.
    """
    observed = problem.observed
    start, explained = interpolate(observed, problem.mask), rule(problem, 1).explained
    best = refine(autoencoder, observed, problem.mask, start, problem.noise, explained_share=explained)
    spent = torch.ones(len(observed), dtype=torch.int64, device=observed.device)
    active = torch.arange(len(observed), device=observed.device)
    idle = torch.zeros_like(spent)
    used = 1
    for number in itertools.count():
        round_ = tuning.rounds[min(number, len(tuning.rounds) - 1)]
        current = problem.select(active)
        masks = rule(current, len(round_.penalties))
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
    return SearchResult(best, spent)


def _attempt(
    autoencoder: Autoencoder,
    problem: Problem,
    masks: MaskCourse,
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
    noise_factor = 1 + noise.square() / TYPICAL_VARIANCE
    penalty = penalty * noise_factor
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
    work = Workspace(autoencoder, observed, start, penalty, tuning.spread / noise_factor if tuning.spread else None)
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
    image = add_interpolated_residual(work.prior, observed, Interpolation(mask), exact)
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


def improve(found: SearchResult, rows: Tensor, second: SearchResult) -> SearchResult:
    """Replace candidates by those that a second search found for some rows, where they score lower.

    Args:
        found: Of all images.
        rows: Indices of the images of the second search.
        second: What that one found; its evaluations are added in any case.
    """
    candidate = better(Candidate(*(field[rows] for field in found.candidate)), second.candidate)
    num_evaluations = found.num_evaluations.clone()
    num_evaluations[rows] += second.num_evaluations
    return SearchResult(_replace_rows(found.candidate, rows, candidate), num_evaluations)


def scatter(parts: Sequence[tuple[Tensor, SearchResult]]) -> SearchResult:
    """Join the results of several searches: each part has the indices of its images, and together they are all."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    masks = same_channels([found.candidate.mask for _, found in parts])
    candidates = [found.candidate._replace(mask=mask) for (_, found), mask in zip(parts, masks, strict=True)]
    joined = Candidate(*(torch.cat(field)[order] for field in zip(*candidates, strict=True)))
    return SearchResult(joined, torch.cat([found.num_evaluations for _, found in parts])[order])


GAIN_EVALUATIONS = 2
"""Evaluations per image, beyond those of the search, that measure the gain."""

ATTEMPTS_TOGETHER = 4
"""About the number of attempts per image that the search makes at once: a chunk of rows has so many fewer images."""


@torch.no_grad()
def recover_self_tuned(
    autoencoder: Autoencoder,
    observed: Tensor,
    search: Callable[..., SearchResult],
    chunk_size: int | None,
    *more: Tensor,
) -> Recovery:
    """Search chunk by chunk, and measure around each image found how much noise the autoencoder passes on.

    Args:
        autoencoder: f.
        observed: (B, C, H, W).
        search: From f, a chunk of ``observed`` and of ``more`` to what was found.
        chunk_size: Attempts at once; None chooses by memory.
        more: What else the search takes, row by row.

    Returns:
        The recovery of B images with expected error and gain, nothing certified yet. Images that diverged stay as
        observed, with an infinite score. The evaluations for the gain are counted.
    """
    autoencoder = InputProtected(autoencoder)

    def chunk(images: slice) -> Recovery:
        part = observed[images]
        candidate, num_evaluations = search(autoencoder, part, *(rows[images] for rows in more))
        finite = candidate.score.isfinite()
        shape = (-1, 1, 1, 1)
        image = torch.where(finite.view(shape), candidate.image, part)
        return Recovery(
            image=image,
            mask=torch.where(finite.view(shape), candidate.mask, 1.0),
            score=candidate.score,
            certified=torch.zeros_like(finite),
            num_evaluations=num_evaluations + GAIN_EVALUATIONS,
            expected_error=torch.where(finite, candidate.expected_error, torch.inf),
            gain=noise_gain(autoencoder, image).nan_to_num(torch.inf),
        )

    rows = rows_per_chunk(observed, chunk_size)
    return concatenate(map_chunks(chunk, len(observed), max(1, rows // ATTEMPTS_TOGETHER)))

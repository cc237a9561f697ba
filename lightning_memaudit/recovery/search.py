"""Strategy 2, the search that tunes itself: rounds of penalties, starts and masks, on the images that still need it."""

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
            :func:`~lightning_memaudit.recovery.candidates.refine`.
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


class SearchResult(NamedTuple):
    """The best candidate of every image and what it cost, (B,) int64."""

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
    """Take over what a second search for some rows found better; its evaluations count in any case."""
    candidate = better(Candidate(*(field[rows] for field in found.candidate)), second.candidate)
    num_evaluations = found.num_evaluations.clone()
    num_evaluations[rows] += second.num_evaluations
    return SearchResult(_replace_rows(found.candidate, rows, candidate), num_evaluations)


def scatter(parts: Sequence[tuple[Tensor, SearchResult]]) -> SearchResult:
    """Join what was found for some rows each, which together are all rows."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    masks = same_channels([found.candidate.mask for _, found in parts])
    candidates = [found.candidate._replace(mask=mask) for (_, found), mask in zip(parts, masks, strict=True)]
    joined = Candidate(*(torch.cat(field)[order] for field in zip(*candidates, strict=True)))
    return SearchResult(joined, torch.cat([found.num_evaluations for _, found in parts])[order])


GAIN_EVALUATIONS = 2
"""Evaluations per image, beyond those of the search, that measure the gain."""

ATTEMPTS_TOGETHER = 4
"""Attempts per image that the self-tuning makes at once, about: an image stands for so many rows of a chunk."""


@torch.no_grad()
def recover_self_tuned(
    autoencoder: Autoencoder,
    observed: Tensor,
    search: Callable[..., SearchResult],
    chunk_size: int | None,
    *more: Tensor,
) -> Recovery:
    """Search chunk by chunk, and measure how fast the autoencoder holds what was found.

    Args:
        autoencoder: f.
        observed: (B, C, H, W).
        search: From f, a chunk of ``observed`` and of ``more`` to what was found.
        chunk_size: Attempts at once; None chooses by memory.
        more: What else the search takes, row by row.
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

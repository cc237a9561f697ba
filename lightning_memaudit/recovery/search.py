"""Strategy 2, the search that tunes itself: rounds of penalties, starts and masks, until each image is recovered well.

An image that is recovered well, or that several rounds in a row hardly improved, takes part in no further round.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.attempts import attempt_papers_iteration, attempt_round, num_starts, uniform_noise
from lightning_memaudit.recovery.batches import (
    map_chunks,
    replace_rows,
    rows_by_activations,
    rows_per_chunk,
    same_channels,
)
from lightning_memaudit.recovery.candidates import Candidate, add_interpolated_residual, better, refine
from lightning_memaudit.recovery.certification import noise_gain, optimism
from lightning_memaudit.recovery.gradients import GRADIENT_EVALUATIONS, DifferentiableAutoencoder, UseOfGradients
from lightning_memaudit.recovery.interpolation import Interpolation, interpolate
from lightning_memaudit.recovery.mask_rules import MaskCourse, MaskRule, known_mask
from lightning_memaudit.recovery.observed_noise import take_off_noise
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import resized, spatial, with_axes
from lightning_memaudit.recovery.tuning import DescentStart, Round, SelfTuning
from lightning_memaudit.recovery.two_values import ROUNDED_COST, TWO_VALUES_COST, Rounding, TwoValues, find_two_values
from lightning_memaudit.recovery.types import Autoencoder, Problem, Recovery, concatenate
from lightning_memaudit.recovery.usual_output import OWN_EVALUATIONS

COARSE = 4
"""Random values along every axis of smooth noise."""

GAIN_EVALUATIONS = 2
"""Evaluations per image, beyond those of the search, that measure the gain."""


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        candidate: The best candidate of every image by score; or a likelier image in its place, with its score, see
            :attr:`~lightning_memaudit.recovery.trimmed.Trimmed.instead`.
        num_evaluations: (B,) int64, evaluations of f spent on every image.
        relied_on_mask: (B,) bool, whether the mask was taken for known, without noise, and all evaluations but those
            beside were for it.
        nothing_else: (B,) bool, whether f was seen to return nothing but what does not resemble the observation.
        num_beside: (B,) int64, evaluations that looked for other masks in the end; None for none.

    >>> from lightning_memaudit.recovery.mask_rules import known_mask
    >>> stored, mask = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1.0, 0]).repeat(2, 1, 8, 4)
    >>> problem = Problem.whole(mask * stored, mask, noise=torch.zeros(2))
    >>> enough = torch.tensor([100, 100])
    >>> found = search(lambda x: stored[:1].expand_as(x), problem, known_mask, SelfTuning(), max_evaluations=enough)
    >>> torch.equal(found.candidate.image, stored), found.num_evaluations.tolist()
    (True, [1, 1])
    """

    candidate: Candidate
    num_evaluations: Tensor
    relied_on_mask: Tensor
    nothing_else: Tensor
    num_beside: Tensor | None = None


def search(
    autoencoder: Autoencoder, problem: Problem, rule: MaskRule, tuning: SelfTuning, max_evaluations: Tensor
) -> SearchResult:
    """Try one round after the other on the images that still need it; the best candidate by score so far is kept.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        problem: B degraded images, (B, C, *spatial).
        rule: Where masks come from.
        tuning: What to try in which order.
        max_evaluations: Evaluations of f at most, of each image, at least 1: (B,) int64.

    Returns:
        The best candidate of every image, the interpolated start if nothing beat it, and the evaluations spent.
    """
    values = find_two_values(problem)
    rounded = values.present & (rule is known_mask) & (max_evaluations >= TWO_VALUES_COST)
    # Where a round may have to be cut short, those are searched together that have as much left for it.
    first = tuning.order(gradients=True)[0]
    begin = TWO_VALUES_COST + ROUNDED_COST + 1 + OWN_EVALUATIONS
    whole_round = begin + _cost(first, hypotheses=1, tuning=tuning)
    cut_short = (max_evaluations < whole_round) | (_Descent.of(autoencoder, problem, rule, tuning) is None)
    kinds = torch.stack([rounded.long(), torch.where(cut_short, max_evaluations, 0)])
    parts: list[tuple[Tensor, SearchResult]] = []
    for kind in torch.unique(kinds, dim=1).T:
        rows = (kinds == kind[:, None]).all(0).nonzero().squeeze(1)
        two = values.select(rows) if kind[0] else None
        parts.append((rows, _search(autoencoder, problem.select(rows), rule, tuning, max_evaluations[rows], two)))
    return scatter(parts)


def _search(
    autoencoder: Autoencoder,
    problem: Problem,
    rule: MaskRule,
    tuning: SelfTuning,
    max_evaluations: Tensor,
    values: TwoValues | None = None,
) -> SearchResult:
    """The search where all images hold two values, or none is known to."""
    observed = problem.observed
    start, first_masks = interpolate(observed, problem.mask), rule(problem, 1)
    hypotheses = len(first_masks.mask) // len(observed)
    explained = first_masks.explained
    best = refine(autoencoder, observed, problem.mask, start, problem.noise, explained_share=explained)
    rounding = Rounding(autoencoder, problem, values, tuning.good_error)
    max_evaluations = max_evaluations - rounding.reserve
    best, spent = rounding.begin(best, max_evaluations - 1)
    spent += 1
    # Nothing scores below 0: where f returns all that it is shown, as the identity does, there is nothing to look for.
    worth = (best.score > 0) & (best.expected_error >= rounding.least_error)
    nothing_else = torch.zeros_like(worth)
    if _has_gradients(autoencoder) and not autoencoder.answers_images:
        # Without them a memory may be a table, which returns the same for all that is near one of its images. Nor is
        # one asked that answers intact images: what it would be asked is none.
        can_be_asked = max_evaluations - spent > OWN_EVALUATIONS
        asked = worth & (best.expected_error >= tuning.fair_error) & can_be_asked
        best, nothing_else, used = _look_for_answers(autoencoder, problem, start, best, asked, first_masks)
        spent += used
        # As much is left to those that need not be: where a round is cut short for one, it is for all.
        max_evaluations = max_evaluations - torch.where(can_be_asked & (used == 0), OWN_EVALUATIONS, 0)
    active = (worth & ~nothing_else).nonzero().squeeze(1)
    idle = torch.zeros_like(spent)
    descent = _Descent.of(autoencoder, problem, rule, tuning)
    patience = tuning.patience_with(problem.mask, gradients=descent is not None)
    # Without descents an image that leaves a round early would have more evaluations left than the others.
    hopeless = torch.inf if descent is None else tuning.hopeless_error
    order = tuning.order(gradients=descent is not None)
    for number in itertools.count() if len(active) else ():
        try_ = order[min(number, len(order) - 1)]
        if number and (descent is not None or values is not None):
            # Descents take more gradients for some images than for others: who cannot afford the whole of it is done.
            active = active[(max_evaluations - spent)[active] >= _cost(try_, hypotheses, tuning)]
            if not len(active):
                break
        current = problem.select(active)
        candidate = so_far = best.select(active)
        if isinstance(try_, Round):
            # Those of the rounds alone: random starts are the same with and without gradients.
            seed = sum(isinstance(earlier, Round) for earlier in order[:number]) + max(0, number - len(order))
            # The same for all, see ``search``, or enough for the whole round.
            left = int((max_evaluations - spent)[active].min())
            alone = tuning.first_penalty_alone and number == 0
            found = attempt_round(autoencoder, current, rule, try_, left, seed, tuning, so_far, hopeless, alone)
            if found is None:
                break
            candidate, used = found
            spent[active] += used
        elif isinstance(try_, Alternation):
            candidate, used = attempt_papers_iteration(autoencoder, current, try_, tuning)
            spent[active] += used
        improved = better(so_far, candidate)
        if descent is not None:
            left_over = (max_evaluations - spent)[active]
            if isinstance(try_, str):
                begin_at, applications = _descent_start(try_, current, number), tuning.applications
            else:
                begin_at, applications = candidate.image, 1
            improved, used = descent(current, begin_at, improved, left_over, applications, tuning.good_error)
            spent[active] += used
        improved, used = rounding.improve(active, improved.image, improved, (max_evaluations - spent)[active])
        spent[active] += used
        best = replace_rows(best, active, improved)
        error = improved.expected_error
        stuck = error > tuning.improvement * so_far.expected_error
        idle[active] = torch.where(stuck, idle[active] + 1, 0)
        given_up = idle[active] >= patience.at(error, active)
        done = (error < tuning.good_error) | (stuck & (error < tuning.fair_error)) | given_up
        active = active[~done]
        if not len(active):
            break
    if descent is not None:
        best = _finish(descent, problem, best, spent, max_evaluations)
    best, used = rounding.finish(best)
    spent += used
    return SearchResult(best, spent, (problem.noise == 0) & (rule is known_mask), nothing_else)


def _has_gradients(autoencoder: Autoencoder) -> TypeGuard[DifferentiableAutoencoder]:
    return isinstance(autoencoder, DifferentiableAutoencoder) and autoencoder.has_gradients


def _look_for_answers(
    autoencoder: DifferentiableAutoencoder,
    problem: Problem,
    start: Tensor,
    best: Candidate,
    asked: Tensor,
    masks: MaskCourse,
) -> tuple[Candidate, Tensor, Tensor]:
    """The best candidates, whether f returns nothing else for those ``asked``, (B,) bool, and the evaluations spent."""
    nothing_else, spent = torch.zeros_like(asked), torch.zeros_like(asked, dtype=torch.int64)
    rows = asked.nonzero().squeeze(1)
    if len(rows):
        usual = autoencoder.usual_output(start)
        nothing_else[rows], spent[rows] = usual.is_all(autoencoder, problem.select(rows), start[rows])
    rows = nothing_else.nonzero().squeeze(1)
    if len(rows):
        # What f returns is what came of it, not the start: that is near the image where this is easily filled, and f
        # with the residuals interpolated is the start again.
        part, output = problem.select(rows), usual.output.expand_as(start)[rows]
        found = refine(autoencoder, part.observed, part.mask, output, part.noise, explained_share=masks.explained)
        best = replace_rows(best, rows, found)
        spent[rows] += 1
    return best, nothing_else, spent


def _cost(try_: Round | Alternation | DescentStart, hypotheses: int, tuning: SelfTuning) -> int:
    """Evaluations that a round takes at most, or the shortest descent."""
    if isinstance(try_, Alternation):
        return try_.num_iterations + 2 + tuning.refinements
    if not isinstance(try_, Round):
        return _least_descent(tuning, tuning.applications)
    iterations = try_.num_iterations + tuning.refinements
    return num_starts(try_, hypotheses) + hypotheses * len(try_.penalties) * iterations


def _least_descent(tuning: SelfTuning, applications: int) -> int:
    """Evaluations of one step by gradients, and of what is made of where it leads."""
    return 2 * applications * GRADIENT_EVALUATIONS + _assessment(tuning, applications)


def _assessment(tuning: SelfTuning, applications: int) -> int:
    """Evaluations of what is made of where a descent leads: those that make it, and at least one that scores it."""
    return applications + max(1, tuning.refinements - 1)


class _Descent(NamedTuple):
    """Descents by gradients for images whose masks are known, and which have no noise."""

    autoencoder: DifferentiableAutoencoder
    tuning: SelfTuning

    @classmethod
    def of(cls, autoencoder: Autoencoder, problem: Problem, rule: MaskRule, tuning: SelfTuning) -> "_Descent | None":
        """None where there are no gradients, or no masks to rely on."""
        if not _has_gradients(autoencoder):
            return None
        if rule is not known_mask or bool(problem.noise.any()):
            return None
        return cls(autoencoder, tuning)

    def __call__(
        self, problem: Problem, start: Tensor, best: Candidate, left: Tensor, applications: int, good_error: float
    ) -> tuple[Candidate, Tensor]:
        """The best candidates after descents of those that are not good yet, and the evaluations spent, (B,)."""
        spent = torch.zeros_like(left)
        needed = best.expected_error >= good_error
        rows = (needed & (left >= _least_descent(self.tuning, applications))).nonzero().squeeze(1)
        if not len(rows):
            return best, spent
        observed, mask = problem.observed[rows], problem.mask[rows]
        assessment, gradient = _assessment(self.tuning, applications), applications * GRADIENT_EVALUATIONS
        affordable = ((left[rows] - assessment) // gradient).clamp_max(self.tuning.max_gradients)
        found = self.autoencoder.fit(observed, mask, start[rows], affordable, applications)
        # Where f errs by as much at the truth, a descent overfits: hidden pixels that f returns all too well. So its
        # own point does not compete, only what f makes of it, which is of the same kind as what the iteration finds.
        output = self.autoencoder(self.autoencoder.apply(found.point, observed, mask, applications - 1))
        image = add_interpolated_residual(output, observed - output, Interpolation(mask), None)
        candidate = refine(
            self.autoencoder, observed, mask, image, problem.noise[rows], steps=assessment - applications
        )
        spent[rows] = gradient * found.num_gradients + assessment
        return replace_rows(best, rows, better(best.select(rows), candidate)), spent


def _finish(descent: _Descent, problem: Problem, best: Candidate, spent: Tensor, most: Tensor) -> Candidate:
    """One more descent, from what was found, where f copies: there it nearly returns many an image, stored or not.

    A small error says less there: behind a block of a quarter, a U-Net at a train MSE of 1e-4 errs by no more at images
    of 25 dB than at those that it was trained on, and a descent from them ends at 44 dB. ``spent`` is added to.
    """
    tuning = descent.tuning
    least = GAIN_EVALUATIONS + _least_descent(tuning, tuning.applications)
    between = (best.expected_error >= tuning.excellent_error) & (best.expected_error < tuning.doubtful_error)
    rows = (between & (most - spent >= least)).nonzero().squeeze(1)
    if not len(rows):
        return best
    spent[rows] += GAIN_EVALUATIONS
    rows = rows[noise_gain(descent.autoencoder, best.image[rows]) > tuning.copying_gain]
    if not len(rows):
        return best
    part, left = best.select(rows), (most - spent)[rows]
    found, used = descent(problem.select(rows), part.image, part, left, tuning.applications, tuning.excellent_error)
    spent[rows] += used
    return replace_rows(best, rows, found)


def _descent_start(start: DescentStart, problem: Problem, seed: int) -> Tensor:
    """The first values of hidden pixels, (B, C, *spatial)."""
    observed = problem.observed
    if start == "observed":
        return observed
    if start in ("interpolated", "negative"):
        filled = interpolate(observed, problem.mask)
        return filled if start == "interpolated" else 1 - filled
    size = [side if start == "noise" else COARSE for side in spatial(observed)]
    noise = uniform_noise((observed.shape[1], *size), observed, seed)
    # The same for every image: what is found for one must not depend on the others in its batch.
    return resized(noise[None], spatial(observed)).expand_as(observed)


def improve(found: SearchResult, rows: Tensor, second: SearchResult) -> SearchResult:
    """Replace candidates by those that a second search found for some rows, where they score lower.

    Args:
        found: Of all images.
        rows: Indices of the images of the second search.
        second: What that one found; its evaluations are added in any case.
    """
    candidate = better(found.candidate.select(rows), second.candidate)
    num_evaluations = found.num_evaluations.clone()
    num_evaluations[rows] += second.num_evaluations
    relied = found.relied_on_mask.index_fill(0, rows, False)
    candidate = replace_rows(found.candidate, rows, candidate)
    return found._replace(candidate=candidate, num_evaluations=num_evaluations, relied_on_mask=relied)


def scatter(parts: Sequence[tuple[Tensor, SearchResult]]) -> SearchResult:
    """Join the results of several searches: each part has the indices of its images, and together they are all."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    masks = same_channels([found.candidate.mask for _, found in parts])
    candidates = [found.candidate._replace(mask=mask) for (_, found), mask in zip(parts, masks, strict=True)]
    joined = Candidate(*(torch.cat(field)[order] for field in zip(*candidates, strict=True)))
    rest = zip(*(found[1:4] for _, found in parts), strict=True)
    return SearchResult(joined, *(torch.cat(field)[order] for field in rest))


ATTEMPTS_TOGETHER = 4
"""About the number of attempts per image that the search makes at once: a chunk of rows has so many fewer images."""


@torch.no_grad()
def recover_self_tuned(
    autoencoder: Autoencoder,
    observed: Tensor,
    search: Callable[..., SearchResult],
    chunk_size: int | None,
    gradients: UseOfGradients,
    *more: Tensor,
) -> Recovery:
    """Search chunk by chunk, and measure around each image found how much noise the autoencoder passes on.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: (B, C, *spatial).
        search: From f, a chunk of ``observed`` and of ``more`` to what was found.
        chunk_size: Attempts at once; None chooses by memory.
        gradients: ``auto`` differentiates f where that is possible.
        more: What else the search takes, row by row.

    Returns:
        The recovery of B images with expected error and gain, none certified yet, without noise on the data. Images
        that diverged stay as observed, with an infinite score. The evaluations for the gain are counted.
    """
    protected = InputProtected(autoencoder)
    if gradients == "auto":
        protected = DifferentiableAutoencoder(autoencoder)
        protected.look_for_gradients(observed[:1])
    used = _has_gradients(protected)

    def chunk(images: slice) -> Recovery:
        part = observed[images]
        found = search(protected, part, *(rows[images] for rows in more))
        candidate, relied = found.candidate, found.relied_on_mask
        finite = candidate.score.isfinite()
        usable = with_axes(finite, part)
        image = torch.where(usable, candidate.image, part)
        expected = torch.where(finite, candidate.expected_error, torch.inf)
        output = protected(image)
        clean, spent = take_off_noise(protected, image, part, candidate.mask, output, asked=finite)
        if used:
            expected = torch.where(relied, expected * optimism(part, candidate.mask), expected).nan_to_num(torch.inf)
        return Recovery(
            image=clean,
            mask=torch.where(usable, candidate.mask, 1.0),
            score=candidate.score,
            certified=torch.zeros_like(finite),
            num_evaluations=found.num_evaluations + GAIN_EVALUATIONS + spent,
            expected_error=expected,
            gain=noise_gain(protected, image, output=output).nan_to_num(torch.inf),
            gradients_used=used,
            relied_on_mask=relied & finite,
            num_beside=found.num_beside,
        )

    images_at_once = max(1, rows_per_chunk(observed, chunk_size) // ATTEMPTS_TOGETHER)
    if chunk_size is None and isinstance(protected, DifferentiableAutoencoder):
        limit = rows_by_activations(observed, protected.activations)
        images_at_once = images_at_once if limit is None else min(images_at_once, max(1, limit // 2))
    return concatenate(map_chunks(chunk, len(observed), images_at_once))

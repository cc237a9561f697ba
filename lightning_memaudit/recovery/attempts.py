"""Attempts: what one round of the search does with every image, and the paper's method as it does it."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_memaudit.recovery.admm import Workspace
from lightning_memaudit.recovery.alternation import Alternation, alternate
from lightning_memaudit.recovery.batches import replace_rows
from lightning_memaudit.recovery.candidates import Candidate, add_interpolated_residual, better, refine
from lightning_memaudit.recovery.interpolation import Interpolation, interpolate
from lightning_memaudit.recovery.mask_rules import MaskCourse, MaskRule
from lightning_memaudit.recovery.masks import LeastSquaresMask
from lightning_memaudit.recovery.spatial import repeat, with_axes
from lightning_memaudit.recovery.tuning import Round, SelfTuning
from lightning_memaudit.recovery.types import Autoencoder, Problem

TYPICAL_VARIANCE = 0.01
"""Mean squared error that is assumed of the autoencoder's image about halfway through an attempt. Noise of this
variance doubles the penalty: the data then count for less."""


PAPERS_PENALTY = 0.1
"""Of the iteration that ``paper_blind`` runs."""


def num_starts(round_: Round, hypotheses: int) -> int:
    """Evaluations that make the starts of a round, shared by its penalties."""
    return {"interpolated": 0, "autoencoder": 1, "random": hypotheses}[round_.start]


def attempt_round(
    autoencoder: Autoencoder,
    problem: Problem,
    rule: MaskRule,
    round_: Round,
    left: int,
    seed: int,
    tuning: SelfTuning,
    so_far: Candidate,
    hopeless: float,
    first_alone: bool,
) -> tuple[Candidate, Tensor] | None:
    """Run every penalty of a round from its start on every mask.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        problem: B degraded images.
        rule: Where masks come from.
        round_: What to try.
        left: Evaluations of f per image at most. Where they do not suffice, the iterations are fewer.
        seed: Of a random start.
        tuning: When an image is good, and how its candidates are refined.
        so_far: The best candidates before this round.
        hopeless: Expected error above which an image is hopeless.
        first_alone: Whether the first penalty is tried alone; images that are good or hopeless by then leave.

    Returns:
        The best candidate of each image, and the evaluations spent, (B,) int64; None where too few are left.
    """
    first = 1 if first_alone else len(round_.penalties)
    groups = [some for some in (round_.penalties[:first], round_.penalties[first:]) if some]
    spent = torch.zeros_like(problem.noise, dtype=torch.int64)
    best: Candidate | None = None
    rows = torch.arange(len(spent), device=spent.device)
    for penalties in groups:
        part = problem.select(rows)
        masks = rule(part, len(penalties))
        hypotheses = len(masks.mask) // len(rows)
        begin, attempts = num_starts(round_, hypotheses), hypotheses * len(penalties)
        iterations = min(round_.num_iterations, (left - begin) // attempts - tuning.refinements)
        if iterations < 1:
            break
        candidate = _attempt(autoencoder, part, masks, penalties, round_, iterations, seed, tuning)
        cost = begin + attempts * (iterations + tuning.refinements)
        left -= cost
        spent[rows] += cost
        if best is not None:
            candidate = better(best.select(rows), candidate)
        best = candidate if best is None else replace_rows(best, rows, candidate)
        error = better(so_far.select(rows), candidate).expected_error
        # One that diverged is not hopeless: another penalty may hold it.
        rows = rows[(error >= tuning.good_error) & ~((error > hopeless) & candidate.score.isfinite())]
        if not len(rows):
            break
    return None if best is None else (best, spent)


def _attempt(
    autoencoder: Autoencoder,
    problem: Problem,
    masks: MaskCourse,
    penalties: Sequence[float],
    round_: Round,
    iterations: int,
    seed: int,
    tuning: SelfTuning,
) -> Candidate:
    """Run every penalty on every mask, and return the best candidate of each image."""
    number = len(problem.observed)
    hypotheses = len(masks.mask) // number
    count = len(penalties) * hypotheses
    observed = repeat(problem.observed, count)
    mask = repeat(masks.mask, len(penalties))
    noise = problem.noise.repeat(count)
    penalty = observed.new_tensor(penalties).repeat_interleave(hypotheses * number)
    # The data are worth less where noise is on them: as if the penalty were larger, and less of it is spread.
    noise_factor = 1 + noise.square() / TYPICAL_VARIANCE
    penalty = penalty * noise_factor
    if round_.start == "autoencoder":
        start = repeat(autoencoder(problem.observed), count)
    else:
        start = interpolate(repeat(problem.observed, hypotheses), masks.mask)
        if round_.start == "random":
            # The same for every image: what is found for one must not depend on the others in its batch.
            filling = uniform_noise(start.shape[1:], start, seed)
            start = autoencoder(torch.lerp(filling.expand_as(start), start, masks.mask.expand_as(start)))
        start = repeat(start, len(penalties))
    spread = tuning.spread / noise_factor if tuning.spread else None
    work = Workspace(autoencoder, observed, start, penalty, spread, one_mask=masks.update is None)
    work.set_mask(mask)
    for iteration in range(iterations):
        if masks.update is not None and iteration and iteration % tuning.mask_steps == 0:
            mask = masks.update(work.image, observed, iteration / iterations)
            work.set_mask(mask)
        last = iteration == iterations - 1
        work.advance(image=masks.update is not None and (last or (iteration + 1) % tuning.mask_steps == 0))
    if masks.update is not None:
        mask = masks.update(work.image, observed, 1.0)
    exact = with_axes((noise == 0).to(observed.dtype), observed)
    image = add_interpolated_residual(work.prior, observed - work.prior, Interpolation(mask), exact)
    assessed = refine(autoencoder, observed, mask, image, noise, tuning.refinements, masks.explained)
    parts = [Candidate(*part) for part in zip(*(torch.split(field, number) for field in assessed), strict=True)]
    return functools.reduce(better, parts)


def attempt_papers_iteration(
    autoencoder: Autoencoder, problem: Problem, alternation: Alternation, tuning: SelfTuning
) -> tuple[Candidate, Tensor]:
    """What the paper's method returns, improved, and the evaluations spent, (B,).

    It estimates the mask by least squares although the search relies on another: so it ends where it does alone.
    """
    observed = problem.observed
    penalty = torch.full_like(problem.noise, PAPERS_PENALTY)
    solution = alternate(autoencoder, observed, penalty, LeastSquaresMask(), autoencoder(observed), alternation)
    candidate = refine(autoencoder, observed, problem.mask, solution.image, problem.noise, tuning.refinements)
    return candidate, solution.num_evaluations + tuning.refinements


def uniform_noise(shape: Sequence[int], like: Tensor, seed: int) -> Tensor:
    """Uniform in [0, 1], the same numbers on every device: what an audit finds must not depend on where it runs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tuple(shape), generator=generator, dtype=like.dtype).to(like.device)

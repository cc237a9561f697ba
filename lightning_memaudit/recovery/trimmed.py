"""Trimmed iterations: an image that explains a part of the observation well, whatever stands in the rest.

Where no value of the fill is to be seen, nor noise in its place, as behind a blur or another image, only the agreement
of f's image with the observation tells what is observed. In every iteration the data are put in where both agree best.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import all_finite, replace_rows
from lightning_memaudit.recovery.candidates import ERROR_PER_SCORE, Candidate, refine
from lightning_memaudit.recovery.certification import LARGEST_GAIN, noise_gain
from lightning_memaudit.recovery.fills import LEAST_SHARE, ConstantFill, find_repeated_values
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.mask_rules import LEAST_EVIDENCE
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.two_scales import LEAST_SPEAKING, TwoScales, fit_two_scales, smallest_errors
from lightning_memaudit.recovery.types import Autoencoder

RELAXATION = 2.5
"""Corrections of observed pixels are put in so many times over: more images are reached in as many iterations."""

FITTED_STEPS = 6
"""Iterations of a trial, in the end, whose mask is fitted to the residuals."""

GAIN_COST = 2
"""Evaluations that tell whether f copies."""

CLEARLY_LIKELIER = 0.03
"""Nats per value by which the residuals of one image must be likelier than those of another to replace it."""

UNSUPPORTED = 0.03
"""Evidence, in nats per value, below which nothing shows that any pixel is observed as it was. Where pixels were, among
noise, it was 0.04 and more at train losses of 1e-3; where rows were repeated, or all was compressed, mostly below."""

FEW = 0.3
"""Share of the pixels that a wrong image may explain by chance, with a low score."""

REFINEMENTS = 5
"""Evaluations that improve and score an image that the observation speaks for."""


class Trial(NamedTuple):
    """One way to trim.

    Attributes:
        shared: One mask for all channels, or one per channel.
        shares: Shares of the pixels to keep, in (0, 1), one after the other; none where the first image is good enough
            to tell the mask.
        steps: Iterations with each.

    >>> Trial(shared=True, shares=(0.8, 0.5), steps=3).cost  # 6 trimmed, 6 fitted, and one that is judged
    13
    """

    shared: bool
    shares: tuple[float, ...]
    steps: int

    @property
    def cost(self) -> int:
        """Evaluations of f."""
        return len(self.shares) * self.steps + FITTED_STEPS + 1


SHORT, LONG = ((0.8, 0.5), 3), ((0.8, 0.65, 0.5, 0.4, 0.3, 0.2), 4)


def trials_for(channels: int, per_channel: bool | None) -> tuple[tuple[Trial, ...], ...]:
    """What to try, stage by stage, the cheap ones first.

    Args:
        channels: Of the images.
        per_channel: Whether each has a mask of its own, where the observation tells a part of it; None where it tells
            nothing.
    """
    if per_channel is not None:
        return ((Trial(not per_channel, *SHORT),),)
    if channels == 1:
        return (Trial(True, *SHORT), Trial(True, (0.5,), 6)), (Trial(True, *LONG),)
    return (Trial(True, *SHORT), Trial(False, *SHORT)), (Trial(True, *LONG), Trial(False, *LONG))


def trials_from_candidate(channels: int) -> tuple[Trial, ...]:
    """What to try where an image was found that comes near: its residuals tell which pixels it takes for data in vain.

    A reading by values that repeat leaves a few pixels of the fill that are too rare, and few wrong data spoil much.

    Args:
        channels: Of the images.

    >>> [trial.cost for trial in trials_from_candidate(channels=3)]  # a mask that channels share, and one of each
    [7, 7]
    """
    return tuple(Trial(shared, (), 0) for shared in ((True, False) if channels > 1 else (True,)))


def cost(trials: tuple[Trial, ...]) -> int:
    """Evaluations of f that a stage takes at most."""
    return sum(trial.cost for trial in trials) + GAIN_COST + REFINEMENTS


def find_possible(observed: Tensor, fill: ConstantFill) -> Tensor:
    """Pixels whose agreement with an image says something: neither those of the fill, nor any value that repeats.

    Args:
        observed: y, (B, C, *spatial).
        fill: The first reading of it.

    Returns:
        (B, C, *spatial), 1 for those and 0 for others.
    """
    return torch.minimum(find_repeated_values(observed).mask, (fill.mask > 0).to(observed.dtype)).expand_as(observed)


def found_poor(found: Candidate, fill: ConstantFill, fair_error: float) -> Tensor:
    """Whether what was found is worth another look, (B,).

    Where the mask is not read off the observation, it may call nearly everything observed, and the error that is
    expected is then next to nothing: there the score itself tells, as if all were hidden. Noise on a fill is on all.

    Args:
        found: The best candidates of B images.
        fill: The first reading of their observations.
        fair_error: Expected error from which an image is poor.
    """
    error = torch.where(fill.present, found.expected_error, ERROR_PER_SCORE * found.score)
    return (error >= fair_error) & ~(fill.present & (fill.noise > 0))


class Trimmed(NamedTuple):
    """What trimmed iterations found for B images.

    Attributes:
        candidate: With an infinite score where the observation does not speak for it.
        num_evaluations: (B,) int64.
        speaks: (B,) bool.
        instead: What was found before, or the likelier image of a trial where the observation speaks for none; its
            score is still that of what was found before. None where nothing was given.

    >>> grey = torch.full((1, 1, 8, 8), 0.5)  # what is grey all over says nothing
    >>> found = iterate_trimmed(lambda x: x, grey, torch.zeros_like(grey), trials_for(1, False)[0])
    >>> found.speaks.item(), found.candidate.score.item(), found.num_evaluations.item()
    (False, inf, 13)
    """

    candidate: Candidate
    num_evaluations: Tensor
    speaks: Tensor
    instead: Candidate | None = None


def iterate_trimmed(
    autoencoder: Autoencoder,
    observed: Tensor,
    possible: Tensor,
    trials: tuple[Trial, ...],
    start: Tensor | None = None,
    against: Candidate | None = None,
) -> Trimmed:
    """Make a stage of trials, and score the image for which the observation speaks most.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: y, (B, C, *spatial), without noise where it is observed.
        possible: (B, 1 or C, *spatial), 0 where a pixel is known to be missing and 1 elsewhere.
        trials: At least one, all of as many iterations.
        start: First image, (B, C, *spatial); None interpolates from the pixels that are possible.
        against: What was found before, for :attr:`Trimmed.instead`.

    >>> stored, other = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> mask = (torch.arange(256).view(1, 1, 16, 16) % 3 > 0).float()  # two of three columns
    >>> both = torch.cat([mask * stored, other]) + (1 - mask) * other  # the second one is another image
    >>> trials = trials_for(channels=1, per_channel=None)[0]
    >>> found = iterate_trimmed(lambda x: stored.expand_as(x), both, torch.ones_like(both), trials)
    >>> right = (found.candidate.mask[:1] == mask).float().mean()  # a pixel of the other one may agree by chance
    >>> found.speaks.tolist(), bool(right > 0.98), found.num_evaluations.tolist()
    ([True, False], True, [33, 26])
    """
    start = interpolate(observed, possible) if start is None else start
    spent = torch.zeros(len(observed), dtype=torch.int64, device=observed.device)
    best_image, best_mask = observed, torch.zeros_like(observed)
    evidence = torch.full_like(observed.flatten(1)[:, 0], -torch.inf)
    trial_of = torch.zeros_like(spent)
    likely_image, likely_mask, likelihood = best_image, best_mask, evidence
    for number, (image, fit) in enumerate(_iterate(autoencoder, observed, possible, start, trials)):
        spent += trials[number].cost
        take = fit.evidence > evidence
        best_image = torch.where(with_axes(take, image), image, best_image)
        best_mask = torch.where(with_axes(take, image), fit.mask.expand_as(image), best_mask)
        evidence = torch.where(take, fit.evidence, evidence)
        trial_of = torch.where(take, number, trial_of)
        take = fit.likelihood > likelihood
        likely_image = torch.where(with_axes(take, image), image, likely_image)
        likely_mask = torch.where(with_axes(take, image), fit.mask.expand_as(image), likely_mask)
        likelihood = torch.where(take, fit.likelihood, likelihood)
    speaks = (evidence > LEAST_SPEAKING) & all_finite(best_image)
    rows = speaks.nonzero().squeeze(1)
    if len(rows):
        # Where f copies, all pixels that were put in come back, of any image.
        speaks[rows] = noise_gain(autoencoder, best_image[rows]) <= LARGEST_GAIN
        spent[rows] += GAIN_COST
    nothing = torch.full_like(evidence, torch.inf)
    candidate = Candidate(best_image, best_mask.round(), nothing, nothing)
    for number, trial in enumerate(trials):
        rows = (speaks & (trial_of == number)).nonzero().squeeze(1)
        if len(rows):
            scored = _assess(autoencoder, observed[rows], possible[rows], candidate.select(rows), trial.shared)
            candidate = replace_rows(candidate, rows, scored)
            spent[rows] += REFINEMENTS
    rows = (~speaks).nonzero().squeeze(1)
    if against is not None and len(rows):
        likeliest = Candidate(likely_image, likely_mask.round(), nothing, nothing).select(rows)
        found = against.select(rows)
        fits = likelihood[rows], evidence[rows]
        found = _likelier(autoencoder, observed[rows], possible[rows], found, likeliest, *fits)
        against = replace_rows(against, rows, found)
        spent[rows] += 1
    return Trimmed(candidate, spent, speaks, against)


def _likelier(
    autoencoder: Autoencoder,
    observed: Tensor,
    possible: Tensor,
    found: Candidate,
    trimmed: Candidate,
    likelihood: Tensor,
    evidence: Tensor,
) -> Candidate:
    """``trimmed`` where its residuals are clearly likelier than those of ``found``, and ``found`` elsewhere.

    Behind a blur the evidence is small at the true image too, and what takes the blur for data is no nearer. Which of
    two is right takes less evidence than that one of them is: the score stays what it was, so nothing more is claimed.
    Where nothing shows that any pixel is observed as it was, the image is f's alone: data as of a compressed image, or
    of rows that are repeated, are nearly right all over, and f takes off what is wrong with them.

    Args:
        autoencoder: Evaluated once.
        observed: y, (B, C, *spatial).
        possible: (B, 1 or C, *spatial).
        found: What was found before.
        trimmed: The likeliest of the trials.
        likelihood: (B,) log likelihood of its residuals.
        evidence: (B,) that of the trials for two scales, at most.
    """
    output = autoencoder(found.image)
    before_likelihood, before_evidence = _fits(observed - output, possible)
    rows = ((likelihood > before_likelihood + CLEARLY_LIKELIER) & all_finite(trimmed.image)).nonzero().squeeze(1)
    # The data where they are explained: f errs where it has not learned its images well.
    image = trimmed.image + trimmed.mask * (observed - trimmed.image)
    # Where a part is known to be missing, the rest may be data everywhere, and of one scale.
    whole = possible.flatten(1).mean(1) > 1 - LEAST_SHARE
    image = torch.where(with_axes(whole & (evidence < UNSUPPORTED), image), trimmed.image, image)
    instead = Candidate(image, trimmed.mask, found.score, found.expected_error)
    alone = with_axes(whole & (before_evidence < UNSUPPORTED) & all_finite(output), image)
    found = found._replace(image=torch.where(alone, output, found.image))
    return replace_rows(found, rows, instead.select(rows))


def _fits(residual: Tensor, possible: Tensor) -> tuple[Tensor, Tensor]:
    """Log likelihood and evidence of the residuals (B, C, *spatial) of an image, (B,): of masks of either kind."""
    kinds = (True, False) if residual.shape[1] > 1 else (True,)
    fits = [fit_two_scales(residual, _for_entries(possible, shared), shared) for shared in kinds]
    return torch.stack([fit.likelihood for fit in fits]).amax(0), torch.stack([fit.evidence for fit in fits]).amax(0)


def doubt(
    autoencoder: Autoencoder, observed: Tensor, found: Candidate, asked: Tensor, error: float
) -> tuple[Candidate, Tensor]:
    """Raise the scores of images that explain :data:`FEW` pixels, where nothing shows that these are observed.

    Args:
        autoencoder: Evaluated once for these.
        observed: y, (B, C, *spatial).
        found: The best candidates.
        asked: Which of them may be doubted, (B,) bool.
        error: To which score and expected error are raised.

    Returns:
        The candidates, and the evaluations spent, (B,) int64.

    >>> right, wrong, fill = torch.rand(3, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> mask = (torch.arange(256).view(1, 1, 16, 16) < 64).float()  # the first rows
    >>> found = Candidate(torch.cat([right, wrong]), mask.repeat(2, 1, 1, 1), *torch.zeros(2, 2))
    >>> observed, both = (mask * right + (1 - mask) * fill).repeat(2, 1, 1, 1), torch.tensor([True, True])
    >>> doubt(lambda x: x, observed, found, both, error=1.0)[0].score.tolist()
    [0.0, 1.0]
    """
    asked = asked & (found.mask.flatten(1).mean(1) < FEW)
    rows = asked.nonzero().squeeze(1)
    if len(rows):
        part = found.select(rows)
        _, evidence = _fits(observed[rows] - autoencoder(part.image), torch.ones_like(part.image))
        least = torch.where(evidence < UNSUPPORTED, error, 0.0).to(part.score)
        score, expected = torch.maximum(part.score, least), torch.maximum(part.expected_error, least)
        found = replace_rows(found, rows, part._replace(score=score, expected_error=expected))
    return found, asked.long()


def _assess(autoencoder: Autoencoder, observed: Tensor, possible: Tensor, found: Candidate, shared: bool) -> Candidate:
    """Refine and score; the score is divided by the evidence of its mask beyond :data:`LEAST_SPEAKING`.

    The mask was chosen by agreement, and any image agrees with some pixels of any observation: their residuals are
    small, but not of another scale.
    """

    def explained(output: Tensor, observed: Tensor, mask: Tensor) -> Tensor:
        fit = fit_two_scales(observed - output, _for_entries(possible, shared), shared)
        return (fit.evidence - LEAST_SPEAKING).clamp(LEAST_EVIDENCE, 1)

    noise = torch.zeros_like(observed.flatten(1)[:, 0])
    return refine(autoencoder, observed, found.mask, found.image, noise, REFINEMENTS, explained)


def _for_entries(possible: Tensor, shared: bool) -> Tensor:
    """Where entries of the mask may be 1: one that channels share, where all of them may be observed."""
    return possible.amin(1, keepdim=True) if shared else possible


def _iterate(
    autoencoder: Autoencoder, observed: Tensor, possible: Tensor, start: Tensor, trials: tuple[Trial, ...]
) -> list[tuple[Tensor, TwoScales]]:
    """The image f(x) in the end, and the fit to its residuals, of each trial; all of them take as many iterations.

    x <- f(x) + 2.5 h (y - f(x)), with h the pixels where f(x) is nearest to y, then those of the small scale
    """
    images, entries = [start] * len(trials), [_for_entries(possible, trial.shared) for trial in trials]
    courses = [[share for share in trial.shares for _ in range(trial.steps)] for trial in trials]

    def outputs() -> tuple[Tensor, ...]:
        return autoencoder(torch.cat(images)).chunk(len(trials))

    for shares in zip(*courses, strict=True):
        for number, output in enumerate(outputs()):
            residual = observed - output
            error = residual.square()
            if trials[number].shared:
                error = error.sum(1, keepdim=True)
            mask = smallest_errors(error, entries[number].expand_as(error), [shares[number]])
            images[number] = output + RELAXATION * mask * residual
    for _ in range(FITTED_STEPS + 1):
        found = []
        for number, output in enumerate(outputs()):
            residual = observed - output
            fit = fit_two_scales(residual, entries[number], trials[number].shared)
            images[number] = output + RELAXATION * fit.mask * residual
            found.append((output, fit))
    return found

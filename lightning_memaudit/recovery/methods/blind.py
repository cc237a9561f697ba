"""Blind recovery: image and mask from the observation and the autoencoder alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.batches import replace_rows
from lightning_memaudit.recovery.candidates import ERROR_PER_SCORE, Candidate
from lightning_memaudit.recovery.certification import certify
from lightning_memaudit.recovery.checks import check_images, check_max_evaluations, check_noise, check_penalties
from lightning_memaudit.recovery.copies import Uncertified, calibrate_on_copies
from lightning_memaudit.recovery.fills import ConstantFill
from lightning_memaudit.recovery.further_readings import FURTHER_READINGS
from lightning_memaudit.recovery.given_penalties import recover_with_penalties
from lightning_memaudit.recovery.gradients import UseOfGradients, check_gradients, evaluations_allowed
from lightning_memaudit.recovery.many_values import error_under
from lightning_memaudit.recovery.mask_rules import (
    MASK_ESTIMATORS,
    AutomaticMask,
    EstimatedMask,
    MaskFromContent,
    MaskRule,
    NoisyFill,
    known_mask,
)
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.readings import Readings, in_steps, read
from lightning_memaudit.recovery.search import (
    GAIN_EVALUATIONS,
    SearchResult,
    improve,
    recover_self_tuned,
    scatter,
    search,
)
from lightning_memaudit.recovery.spatial import row_values
from lightning_memaudit.recovery.trimmed import (
    cost,
    doubt,
    find_possible,
    found_poor,
    iterate_trimmed,
    trials_for,
    trials_from_candidate,
)
from lightning_memaudit.recovery.tuning import SelfTuning
from lightning_memaudit.recovery.types import Autoencoder, Calibration, Problem, Recovery


@dataclass(frozen=True)
class BlindRecovery:
    """Recovery of image and mask with the autoencoder as the prior; it sees the observation and f, never the truth.

    By default it tunes itself. Where the missing pixels hold one value, the mask and the noise level are read off the
    observation; where they hold anything else, the mask is estimated from the image's content as the recovery goes on.
    Where that comes to little and the observation speaks for another reading of it, such as a fill of several colors
    or clipped noise on it, what is left of the evaluations is spent on that one. Last come trimmed iterations, see
    ``trimmed.py``, for fills that neither value nor noise tells.
    Penalties and starts are tried in rounds. Of each image the candidate with the lowest blind score is kept, and an
    image that is recovered well takes part in no further round. Where f can be differentiated, gradients take over from
    the candidates. Where few pixels are observed, correcting these alone
    hardly changes what f returns: part of their correction is added to hidden pixels nearby, see ``tuning.spread``.
    Images that hold but two values, such as scans of text, are also rounded to these, see ``two_values.py``.

    ``BlindRecovery(mask_estimator="least_squares", penalties=[0.1])`` is the paper's method (arXiv 2310.02897): given
    penalties are run as they are, from f(y), for ``alternation.num_iterations`` iterations.

    Attributes:
        mask_estimator: ``auto`` looks at what stands in the missing pixels; or a name of :data:`MASK_ESTIMATORS`, or
            any function ``(image, observed) -> mask``.
        penalties: None tunes itself. A list: exactly these ADMM penalties, the best by the blind score is kept.
        gradients: ``auto`` differentiates the autoencoder where that is possible, as its owner can, when tuning itself;
            ``recovery.gradients_used`` tells whether it was. ``never`` only evaluates it, the paper's threat model.
        max_evaluations: Evaluations of the autoencoder per image at most, when tuning itself; a backward pass counts as
            two. None is 700 with gradients and 400 without. One more may look for noise.
        noise: Standard deviation of the noise in the observation; None estimates it from the missing pixels. Noise on
            the observed ones alone is told from residuals in the end, unless a level above 0 is given.
        certification: ``turned_copies`` calibrates on turned copies of the observations, as soon as there is something
            to certify; a :class:`Calibration` on controls holds better, see :func:`calibrate`; None certifies nothing.
        tuning: The order in which the self-tuning tries things.
        alternation: Iterations and tolerances of given penalties.
        chunk_size: Attempts at once; None chooses by memory.
        record_at: Iterations of given penalties to record in ``recovery.trace``; 0 is the start.

    Raises:
        ValueError: An attribute is out of its range or does not fit another; the message names it and its value.

    >>> stored = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def f(x):  # the ideal memorizing autoencoder: it returns the nearest stored image
    ...     return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
    >>> mask = torch.tensor([1.0, 0]).repeat(4, 1, 8, 4)
    >>> recovery = BlindRecovery()(f, observed=mask * stored)
    >>> torch.equal(recovery.image, stored), torch.equal(recovery.mask, mask), recovery.certified.tolist()
    (True, True, [True, True, True, True])
    """

    estimates_mask: ClassVar[bool] = True

    mask_estimator: str | MaskEstimator = "auto"
    penalties: Sequence[float] | None = None
    max_evaluations: int | None = None
    noise: float | None = None
    certification: Calibration | Literal["turned_copies"] | None = "turned_copies"
    tuning: SelfTuning = field(default_factory=SelfTuning)
    alternation: Alternation = field(default_factory=Alternation)
    chunk_size: int | None = None
    record_at: Sequence[int] = ()
    gradients: UseOfGradients = "auto"

    def __post_init__(self) -> None:
        if self.penalties is not None:
            check_penalties(tuple(self.penalties))
        check_max_evaluations(self.max_evaluations)
        check_gradients(self.gradients)
        check_noise(self.noise, estimated=True)
        if isinstance(self.mask_estimator, str) and self.mask_estimator not in MASK_ESTIMATORS:
            names = ", ".join(MASK_ESTIMATORS)
            raise ValueError(f"mask_estimator={self.mask_estimator!r}: pass one of {names}, or a function")
        if self.penalties is None and self.record_at:
            raise ValueError(
                f"record_at={list(self.record_at)}: only given penalties are recorded, pass penalties=[0.1]"
            )
        if isinstance(self.certification, str) and self.certification != "turned_copies":
            raise ValueError(f"certification={self.certification!r}: pass 'turned_copies', a Calibration or None")

    @property
    def claims(self) -> bool:
        """Whether it certifies images, by itself or once :func:`certify` is given a calibration."""
        return self.penalties is None and self.certification is not None

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, *spatial).

        Raises:
            ValueError: ``observed`` is not a finite batch of images.
        """
        check_images("observed", observed)
        if self.penalties is not None:
            settings = self._estimator(), self.penalties, self.alternation, self.chunk_size, self.record_at
            return recover_with_penalties(autoencoder, observed, *settings)
        recovery = recover_self_tuned(autoencoder, observed, self._search, self.chunk_size, self.gradients)
        return self.certify(autoencoder, observed, recovery)

    @property
    def calibrates_on_copies(self) -> bool:
        """Whether it searches turned copies for its certificates, where there are too few controls for them."""
        return self.penalties is None and self.certification == "turned_copies"

    def certify(
        self, autoencoder: Autoencoder, observed: Tensor, recovery: Recovery, controls: Tensor | None = None
    ) -> Recovery:
        """Certify what was found without a certification, as :attr:`certification` says.

        Args:
            autoencoder: f, images (B, C, *spatial) to the same shape.
            observed: (B, C, *spatial).
            recovery: Of these.
            controls: Scores of images that were not trained on, degraded and searched alike, (n,); turned copies make
                up for what is missing to the number that a calibration takes. None where there are no controls.
        """
        return self.certify_all(autoencoder, [Uncertified(observed, recovery, controls)])[0]

    def certify_all(self, autoencoder: Autoencoder, sets: Sequence[Uncertified]) -> list[Recovery]:
        """Likewise several sets, each by controls and copies of its own; copies of all of them are searched together.

        Args:
            autoencoder: f, images (B, C, *spatial) to the same shape.
            sets: Of images of one size.
        """
        if self.penalties is not None:
            return [one.recovery for one in sets]

        def scores_of(copies: Tensor, evaluations: int) -> Tensor:
            return replace(self, certification=None, max_evaluations=evaluations)(autoencoder, copies).score

        given = self.certification
        calibrations = calibrate_on_copies(scores_of, sets) if isinstance(given, str) else [given] * len(sets)
        return [
            one.recovery if how is None else certify(one.recovery, how)._replace(calibration=how)
            for one, how in zip(sets, calibrations, strict=True)
        ]

    def _estimator(self) -> MaskEstimator:
        estimator = self.mask_estimator
        if estimator == "auto":
            return AutomaticMask(self.noise)
        return MASK_ESTIMATORS[estimator] if isinstance(estimator, str) else estimator

    def _search(self, autoencoder: Autoencoder, observed: Tensor) -> SearchResult:
        budget = evaluations_allowed(self.max_evaluations, autoencoder) - GAIN_EVALUATIONS
        if self.mask_estimator != "auto":
            noise = row_values(observed, self.noise or 0.0)
            estimator = self._estimator()
            mask = estimator(autoencoder(observed), observed)
            problem = Problem.whole(observed, mask, noise)
            share = torch.full_like(noise, budget - 1, dtype=torch.int64)
            found = search(autoencoder, problem, EstimatedMask(estimator), self.tuning, share)
            return found._replace(num_evaluations=found.num_evaluations + 1)
        readings = read(observed, self.noise, budget, self._enough)
        found = self._search_fill(autoencoder, observed, readings.fill, readings.first_share)
        # Those with several readings had a part of the evaluations.
        found = found._replace(relied_on_mask=found.relied_on_mask & ~(readings.has_other | readings.has_block))
        poor = error_under(found.candidate, readings.other) >= self.tuning.good_error
        rows = (readings.has_other & poor & ~found.nothing_else).nonzero().squeeze(1)
        given_up = torch.zeros_like(poor)
        if len(rows):
            share = readings.second_share(found.num_evaluations)[rows]
            second = self._search_fill(autoencoder, observed[rows], readings.other.select(rows), share)
            given_up[rows] = share - second.num_evaluations >= self._enough
            found = improve(found, rows, second)
        if not self.noise:
            # Of many values a few may be too rare to be seen: trimmed iterations tell these at little cost.
            found = self._fit_mask(autoencoder, observed, readings, found, budget)
            found = self._trim_many(autoencoder, observed, readings, found, budget)
        found = self._read_further(autoencoder, observed, readings, found, budget, given_up)
        return found if self.noise else self._trim_others(autoencoder, observed, readings, found, budget)

    @property
    def _enough(self) -> int:
        """Evaluations without which a search is not worth beginning: the start and the first round."""
        round_ = self.tuning.rounds[0]
        return 1 + len(round_.penalties) * (round_.num_iterations + self.tuning.refinements)

    def _read_further(
        self,
        autoencoder: Autoencoder,
        observed: Tensor,
        readings: Readings,
        found: SearchResult,
        budget: int,
        given_up: Tensor,
    ) -> SearchResult:
        """Spend what is left on other readings of the observations whose first one came to little.

        Most images that come to nothing are simply not stored: only those are searched again whose observation itself
        speaks for another reading, and not for one that was ``given_up``, (B,) bool, as their second one.
        """
        fill = readings.fill
        for reading in FURTHER_READINGS:
            # A wrong reading may leave an error that is not good, yet not doubtful: most of its mask may be right.
            left = in_steps(budget - found.num_evaluations)
            may_be_poor = ERROR_PER_SCORE * found.candidate.score >= self.tuning.fair_error
            rows = (may_be_poor & ~found.nothing_else & (left >= self._enough)).nonzero().squeeze(1)
            if not len(rows):
                break
            speaks, other = reading(observed[rows], fill.select(rows), self.noise)
            speaks &= error_under(found.candidate.select(rows), other) >= self.tuning.fair_error
            speaks &= ~(given_up[rows] & other.is_same(readings.other.select(rows)))
            part = rows[speaks]
            if len(part):
                second = self._search_fill(autoencoder, observed[part], other.select(speaks), left[part])
                found = improve(found, part, second)
        return found

    def _fit_mask(
        self, autoencoder: Autoencoder, observed: Tensor, readings: Readings, found: SearchResult, budget: int
    ) -> SearchResult:
        """Fit the mask to the residuals of what was found, where it may be near although no reading was quite right."""
        trials = trials_from_candidate(observed.shape[1])
        worth = readings.has_exact_other & ~found.nothing_else & found.candidate.score.isfinite()
        worth &= error_under(found.candidate, readings.other) >= self.tuning.good_error
        rows = (worth & (budget - found.num_evaluations >= cost(trials))).nonzero().squeeze(1)
        if not len(rows):
            return found
        part, image = observed[rows], found.candidate.image[rows]
        trimmed = iterate_trimmed(autoencoder, part, torch.ones_like(part), trials, image)
        # Of what is explained most must be data by both readings: a plain background agrees with any other one.
        mask = trimmed.candidate.mask
        data = ((readings.fill.mask[rows] > 0) & (readings.other.mask[rows] > 0)).to(mask)
        right = 2 * (mask * data).flatten(1).sum(1) > mask.flatten(1).sum(1)
        score = torch.where(right, trimmed.candidate.score, torch.inf)
        nothing, candidate = torch.zeros_like(right), trimmed.candidate._replace(score=score)
        second = SearchResult(candidate, trimmed.num_evaluations, nothing, nothing)
        return improve(found, rows, second)

    def _trim_many(
        self, autoencoder: Autoencoder, observed: Tensor, readings: Readings, found: SearchResult, budget: int
    ) -> SearchResult:
        """Trim the observations with many values in missing pixels, whose reading hides too much or too little."""

        def is_poor(candidate: Candidate) -> Tensor:
            return error_under(candidate, readings.other) >= self.tuning.good_error

        return self._trim(autoencoder, observed, readings.fill, found, budget, ((readings.has_many, None),), is_poor)

    def _trim_others(
        self, autoencoder: Autoencoder, observed: Tensor, readings: Readings, found: SearchResult, budget: int
    ) -> SearchResult:
        """Trim the others, where all else came to little."""
        fill = readings.fill
        exact = fill.present & (fill.noise == 0)
        kinds = ((~fill.present, None), (exact & ~fill.per_channel, False), (exact & fill.per_channel, True))

        def is_poor(candidate: Candidate) -> Tensor:
            return found_poor(candidate, fill, self.tuning.fair_error)

        others = tuple((kind & ~readings.has_many, per_channel) for kind, per_channel in kinds)
        # A wrong image may agree with a few pixels of a grey one: then its score is low, but nothing speaks for it.
        asked = ~fill.present & ~found.nothing_else & (found.num_evaluations < budget) & ~is_poor(found.candidate)
        candidate, spent = doubt(autoencoder, observed, found.candidate, asked, self.tuning.fair_error)
        found = found._replace(candidate=candidate, num_evaluations=found.num_evaluations + spent)
        return self._trim(autoencoder, observed, fill, found, budget, others, is_poor)

    def _trim(
        self,
        autoencoder: Autoencoder,
        observed: Tensor,
        fill: ConstantFill,
        found: SearchResult,
        budget: int,
        kinds: Sequence[tuple[Tensor, bool | None]],
        is_poor: Callable[[Candidate], Tensor],
    ) -> SearchResult:
        """Look for images that explain a part of the observation, until it speaks for one.

        Of each of the ``kinds`` it is told which images those are, (B,) bool, and whether they have masks per channel,
        None where nothing tells. ``is_poor`` tells whether a candidate is worth another look, (B,) bool.
        """
        tried = torch.zeros_like(fill.present)
        beside = torch.zeros_like(found.num_evaluations) if found.num_beside is None else found.num_beside
        for kind, per_channel in kinds:
            for trials in trials_for(observed.shape[1], per_channel):
                worth = kind & ~tried & is_poor(found.candidate) & ~found.nothing_else
                rows = (worth & (budget - found.num_evaluations >= cost(trials))).nonzero().squeeze(1)
                if not len(rows):
                    continue
                part, possible = observed[rows], find_possible(observed[rows], fill.select(rows))
                # Where a value of the fill tells the mask, what was found holds the data as they are.
                against = found.candidate.select(rows) if per_channel is None else None
                trimmed = iterate_trimmed(autoencoder, part, possible, trials, against=against)
                # What was relied on still is where the observation speaks for nothing else.
                beside = beside.index_add(0, rows, trimmed.num_evaluations)
                evaluations = found.num_evaluations.index_add(0, rows, trimmed.num_evaluations)
                if trimmed.instead is not None:
                    found = found._replace(candidate=replace_rows(found.candidate, rows, trimmed.instead))
                part = rows[trimmed.speaks]
                tried[part] = True
                if len(part):
                    nothing = torch.zeros_like(part)
                    candidate = trimmed.candidate.select(trimmed.speaks)
                    found = improve(found, part, SearchResult(candidate, nothing, nothing.bool(), nothing.bool()))
                found = found._replace(num_evaluations=evaluations)
        return found._replace(num_beside=beside)

    def _search_fill(
        self, autoencoder: Autoencoder, observed: Tensor, fill: ConstantFill, share: Tensor
    ) -> SearchResult:
        """Search with the mask that the fill implies, or from the content where there is none.

        Every image has its own share of the evaluations, (B,).
        """
        noise = row_values(observed, self.noise or 0.0)
        noisy = fill.present & (fill.noise > 0)
        parts: list[tuple[Tensor, SearchResult]] = []
        exact = fill.present & ~noisy
        for kind in (exact & ~fill.per_channel, exact & fill.per_channel, noisy, ~fill.present):
            rows = kind.nonzero().squeeze(1)
            if not len(rows):
                continue
            rule: MaskRule
            level, mask = fill.noise[rows], fill.mask[rows]
            if bool(noisy[rows[0]]):
                rule = NoisyFill(fill.value[rows])
            elif bool(fill.present[rows[0]]):
                rule = known_mask
            else:
                rule = MaskFromContent(self.tuning.shares, noise=self.noise or 0.0)
                level = noise[rows]
            if not bool(fill.per_channel[rows[0]]):
                mask = mask[:, :1]  # as if no other image of the batch had one per channel
            problem = Problem.whole(observed[rows], mask, level)
            parts.append((rows, search(autoencoder, problem, rule, self.tuning, share[rows])))
        return scatter(parts)

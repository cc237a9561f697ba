"""The recovery gain: how much closer an image comes back than anyone could have filled it in, members against controls.

It needs no threshold, and no other model: the baseline takes out how difficult an image is. It tells members long
before anything comes back whole.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.evidence import exact_test
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import Estimate, auroc, location_shift
from lightning_memaudit.results.membership import MIN_FOR_AUROC
from lightning_memaudit.results.names import INPAINTER

MARGIN_DB = 6.0
"""An image counts as memorized only where its missing pixels come back closer than the best baseline's by this: a
quarter of the squared error. It takes away what smooth interpolation returns to within a hair, by chance."""

MAX_FALSE_EXCEPTIONS = 0.01
"""Chance at most that members are said to be closer than any control where nothing was memorized."""

MEAN = "mean of all patterns"
"""Stands for a pattern where the gains of an image are averaged."""

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class PatternGain:
    """Gains of members against controls, in one pattern or averaged over all.

    Attributes:
        pattern: Its name, or :data:`MEAN`.
        num_members: Members with a gain.
        num_controls: Controls with a gain.
        members: Median of the members, in dB; None without any, and so is the next.
        controls: Median of the controls.
        auroc: The chance that a member's gain is above a control's; None without both groups, and so is the next.
        shift: By how many dB the members' gains lie above the controls'.
        confidence: Coverage of these two intervals.
        num_beyond: Members that came back more than :data:`MARGIN_DB` closer than any control, and than the best
            baseline; 0 without controls.

    >>> one = PatternGain.of("half", np.arange(20.0) + 3, np.arange(20.0), confidence=0.95)
    >>> one.members, one.controls, one.shift.value, round(one.auroc.value, 2)
    (12.5, 9.5, 3.0, 0.64)
    """

    pattern: str
    num_members: int
    num_controls: int
    members: float | None
    controls: float | None
    auroc: Estimate | None
    shift: Estimate | None
    confidence: float
    num_beyond: int = 0

    @classmethod
    def of(cls, pattern: str, members: Gains, controls: Gains, confidence: float) -> "PatternGain":
        """Of gains (n,) and (m,) in dB; NaN, where a method failed, counts against a difference."""
        told = [values[~np.isnan(values)] for values in (members, controls)]
        medians = [float(np.median(values)) if len(values) else None for values in told]
        area, shift = None, None
        if all(map(len, told)):
            worst = [np.where(np.isnan(one), end, one) for one, end in ((members, -np.inf), (controls, np.inf))]
            area = auroc(-worst[0], -worst[1], confidence)
            shift = location_shift(told[0], told[1], confidence)
        highest = np.inf if np.isnan(controls).any() or not len(controls) else controls.max()
        beyond = int((told[0] > max(0.0, highest) + MARGIN_DB).sum())
        return cls(pattern, len(told[0]), len(told[1]), medians[0], medians[1], area, shift, confidence, beyond)

    @property
    def enough(self) -> bool:
        """Whether there are images enough for the intervals to be worth printing: 10 of each group."""
        return min(self.num_members, self.num_controls) >= MIN_FOR_AUROC

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        areas = {
            name: estimate and estimate._asdict() for name, estimate in (("auroc", self.auroc), ("shift", self.shift))
        }
        return asdict(self) | areas


@dataclass(frozen=True)
class Gain:
    """What the gains say.

    Attributes:
        overall: Every image's mean over the patterns; one number, chosen before looking, with its 95% interval.
        patterns: The mean over all where there are several, and each of them, with intervals that hold for all at once.

    >>> rng = np.random.default_rng(0)
    >>> members, controls = rng.normal(3, 1, (2, 30)), rng.normal(0, 1, (2, 30))
    >>> gain = Gain.of(["random-0.9", "half"], members, controls)
    >>> gain.strongest.pattern, [round(one.confidence, 3) for one in gain.patterns], gain.tells
    ('mean of all patterns', [0.983, 0.983, 0.983], True)
    """

    overall: PatternGain
    patterns: tuple[PatternGain, ...]

    @classmethod
    def of(cls, patterns: Sequence[str], members: Gains, controls: Gains) -> "Gain | None":
        """Of gains (patterns, n) and (patterns, m) in dB; None where there are none.

        A pattern without any, as a blur, is left out. The intervals of ``patterns`` are Bonferroni's: with k of them,
        each covers with ``1 - 0.05 / k``.
        """
        told = [row for row in range(len(patterns)) if not np.isnan(members[row]).all()]
        if not told:
            return None
        mean = members[told].mean(0), controls[told].mean(0)
        rows = {MEAN: mean} if len(told) > 1 else {}
        rows |= {patterns[row]: (members[row], controls[row]) for row in told}
        confidence = 1 - 0.05 / len(rows)
        return cls(
            PatternGain.of(MEAN if len(told) > 1 else patterns[told[0]], *mean, confidence=0.95),
            tuple(PatternGain.of(name, *both, confidence=confidence) for name, both in rows.items()),
        )

    @property
    def strongest(self) -> PatternGain | None:
        """The pattern that tells members best: its interval lies highest; None with too few images.

        Of several the mean of all, then the one with the larger difference, then the first by the alphabet.
        """
        told = [
            ((-one.auroc.low, one.pattern != MEAN, -one.shift.low, one.pattern), one)
            for one in self.patterns
            if one.enough and one.auroc is not None and one.shift is not None
        ]
        return min(told, key=lambda one: one[0])[1] if told else None

    @property
    def tells(self) -> bool:
        """Whether members come back closer than controls, however many patterns were tried: an interval above 0.5."""
        one = self.strongest
        if one is None or one.auroc is None or one.shift is None:
            return False
        return one.auroc.low > 0.5 and one.shift.low > 0

    @property
    def exceptional(self) -> PatternGain | None:
        """Where more members than chance explains are closer than any control by :data:`MARGIN_DB`; None where nowhere.

        If none was memorized, the k highest gains are all members' by the chance of an exact test. It is asked for at
        1%, all patterns together.
        """
        chance = {one: exact_test(one.num_beyond, one.num_members, 0, one.num_controls) for one in self.patterns}
        least = min(chance, key=lambda one: (chance[one], *_first_the_mean(one)), default=None)
        return least if least is not None and chance[least] * len(chance) <= MAX_FALSE_EXCEPTIONS else None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        return {
            "overall": self.overall.to_dict(),
            "patterns": [one.to_dict() for one in self.patterns],
            "strongest": None if self.strongest is None else self.strongest.pattern,
        }


def _first_the_mean(one: PatternGain) -> tuple[bool, str]:
    """Of patterns that tell as much, whatever order they were named in."""
    return one.pattern != MEAN, one.pattern


def most_beyond(gain: Gain | None) -> PatternGain | None:
    """Where most members came back closer than any control by :data:`MARGIN_DB`; None where nowhere.

    >>> members = np.array([[9.0, 0, 0], [9, 9, 0]])
    >>> most_beyond(Gain.of(["random-0.9", "half"], members, np.zeros((2, 20)))).pattern
    'half'
    """
    some = [] if gain is None else [one for one in gain.patterns if one.num_beyond]
    return min(some, key=lambda one: (-one.num_beyond, *_first_the_mean(one)), default=None)


def gains_of(images: ImageColumns, group: str, patterns: Sequence[str], method: str) -> Gains:
    """Gains of a method in dB, (patterns, images); NaN where there is none.

    Rows of older versions have none: there the inpainter alone is the baseline, where it ran.
    """
    rows = []
    for pattern in patterns:
        columns = images[group, pattern, method]
        gain = columns["recovery_gain"]
        if not _measured(images, pattern) and (group, pattern, INPAINTER) in images:
            gain = columns["hidden_psnr"] - images[group, pattern, INPAINTER]["hidden_psnr"]
        rows.append(gain)
    return np.stack(rows)


def _measured(images: ImageColumns, pattern: str) -> bool:
    """Whether any baseline was measured in a pattern."""
    return any(
        not np.isnan(images[key]["baseline_psnr"]).all()
        for key in ((group, pattern, method) for group in images.groups() for method in images.methods())
        if key in images
    )


def best_gains(gains: Gains) -> Gains:
    """Best of each image over the patterns, (patterns, images) to (images,); NaN where it has none.

    >>> best_gains(np.array([[3.0, np.nan, np.nan], [-1, 2, np.nan]])).tolist()
    [3.0, 2.0, nan]
    """
    best = np.where(np.isnan(gains), -np.inf, gains).max(0)
    return np.where(np.isneginf(best), np.nan, best)

"""Membership inference from the blind score: can members be told from images that were not trained on?

Nobody needs the truth for it: the score of a recovery is computed from the observation alone. Numpy and scipy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_memaudit.results.intervals import Estimate, auroc, clopper_pearson

FALSE_POSITIVE_RATES = (0.01, 0.001)
MIN_FOR_AUROC = 10
"""Of members and of controls: below that the interval of the area is too wide to be worth printing."""


@dataclass(frozen=True)
class Detection:
    """Share of members that are told at a false positive rate which the controls can resolve.

    Attributes:
        false_positive_rate: What was asked for.
        value: True positive rate; None where refused, and so are the next three.
        low: Lower end of its 95% Clopper-Pearson interval, which takes the threshold as given.
        high: Upper end.
        threshold: Scores below it are called members.
        controls_needed: Fewest controls that resolve this false positive rate.
        reason: Why refused, in one sentence; None where not.

    >>> found = detect(members=[0.1, 0.2, 0.3, 0.9], controls=np.linspace(0.5, 1, 100), false_positive_rate=0.01)
    >>> found.value, found.controls_needed
    (0.75, 100)
    >>> detect(members=[0.1], controls=[0.5, 1], false_positive_rate=0.01).reason
    '2 controls cannot resolve a false positive rate of 1.0%; at least 100 are needed'
    """

    false_positive_rate: float
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    controls_needed: int
    reason: str | None


@dataclass(frozen=True)
class Membership:
    """What the blind score tells about membership.

    Attributes:
        num_members: Members with a score.
        num_controls: Controls with a score.
        auroc: The chance that a member scores lower than a control, with a 95% interval; None where refused.
        reason: Why refused, in one sentence; None where not.
        detections: One per entry of :data:`FALSE_POSITIVE_RATES`.
        roc: Points (false positive rate, true positive rate) from (0, 0) to (1, 1); empty without both groups.

    >>> told = infer_membership(members=np.linspace(0.1, 0.2, 10), controls=np.linspace(0.5, 1, 100))
    >>> told.auroc.value, told.auroc.low < 1, [one.value for one in told.detections]  # 0.1% takes 1000 controls
    (1.0, True, [1.0, None])
    """

    num_members: int
    num_controls: int
    auroc: Estimate | None
    reason: str | None
    detections: tuple[Detection, ...]
    roc: tuple[tuple[float, float], ...]


def infer_membership(members: ArrayLike, controls: ArrayLike) -> Membership:
    """ROC, its area, and true positive rates at low false positive rates, refused where the images are too few.

    Args:
        members: Scores (n,), lower means more like a member; infinite where diverged, NaN (left out) where missing.
        controls: Scores (m,).
    """
    positive, negative = (drop_missing(scores) for scores in (members, controls))
    area, reason = None, None
    if min(len(positive), len(negative)) < MIN_FOR_AUROC:
        reason = (
            f"{len(positive)} members and {len(negative)} controls have a score; "
            f"the area under the ROC curve takes at least {MIN_FOR_AUROC} of each"
        )
    else:
        area = auroc(positive, negative)
    return Membership(
        len(positive),
        len(negative),
        area,
        reason,
        tuple(detect(positive, negative, rate) for rate in FALSE_POSITIVE_RATES),
        tuple(roc_curve(positive, negative)),
    )


def detect(members: ArrayLike, controls: ArrayLike, false_positive_rate: float) -> Detection:
    """The share of members that score below a threshold, below which at most a given share of the controls scores.

    The threshold is the largest with at most ``false_positive_rate * m`` of the m controls below it. With fewer than
    ``1 / false_positive_rate`` controls that would be none at all, as at a rate of zero: then it is refused.

    Args:
        members: Scores (n,), lower means more like a member; NaN is left out.
        controls: Scores (m,).
        false_positive_rate: In (0, 1].
    """
    positive, negative = (drop_missing(scores) for scores in (members, controls))
    needed = math.ceil(1 / false_positive_rate - 1e-9)
    if len(negative) < needed or not len(positive):
        reason = (
            f"{len(negative)} controls cannot resolve a false positive rate of {false_positive_rate:.1%}; "
            f"at least {needed} are needed"
            if len(positive)
            else "no member has a score"
        )
        return Detection(false_positive_rate, None, None, None, None, needed, reason)
    allowed = math.floor(false_positive_rate * len(negative) + 1e-9)
    # Strictly below the next control: it and all above it stay negative, at most `allowed` are below.
    threshold = float(np.sort(negative)[allowed]) if allowed < len(negative) else math.inf
    found = int((positive < threshold).sum())
    low, high = clopper_pearson(found, len(positive))
    return Detection(false_positive_rate, found / len(positive), low, high, threshold, needed, None)


def roc_curve(members: ArrayLike, controls: ArrayLike) -> list[tuple[float, float]]:
    """Corners (false positive rate, true positive rate) of the ROC curve; empty where a group has no score.

    Args:
        members: Scores (n,), lower means more like a member; NaN is left out.
        controls: Scores (m,).
    """
    positive, negative = (drop_missing(scores) for scores in (members, controls))
    if not len(positive) or not len(negative):
        return []
    thresholds = np.unique(np.concatenate([positive, negative]))
    true = np.searchsorted(np.sort(positive), thresholds, side="right") / len(positive)
    false = np.searchsorted(np.sort(negative), thresholds, side="right") / len(negative)
    points = [(0.0, 0.0), *zip(false.tolist(), true.tolist(), strict=True)]
    return [
        point for i, point in enumerate(points) if i in (0, len(points) - 1) or not _straight(points[i - 1 : i + 2])
    ]


def combine_scores(scores: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """One score per image from its scores (n,) in several patterns: their geometric mean.

    Infinite where any is (diverged); NaN where one is missing.
    """
    stacked = np.stack([np.asarray(one, dtype=np.float64) for one in scores])
    with np.errstate(divide="ignore", invalid="ignore"):
        combined = np.exp(np.log(np.maximum(stacked, 1e-30)).mean(0))
    return np.asarray(np.where(np.isnan(stacked).any(0), np.nan, combined))


def drop_missing(scores: ArrayLike) -> NDArray[np.float64]:
    """The scores that are there: NaN is left out."""
    array = np.asarray(scores, dtype=np.float64).ravel()
    return array[~np.isnan(array)]


def _straight(points: Sequence[tuple[float, float]]) -> bool:
    """Whether the middle one of three points lies on a horizontal or vertical line with both others."""
    (x0, y0), (x1, y1), (x2, y2) = points
    return x0 == x1 == x2 or y0 == y1 == y2

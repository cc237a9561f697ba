"""Membership inference: can members be told from images that were not trained on, and by which number?

Several numbers are tried: the autoencoder's own error on the intact image; the blind score of its recovery, for which
nobody needs the truth; and each of them less that of reference models, which takes out how hard the image is for any
model of this kind. What one number tells bounds nothing: another attack may tell more. Numpy and scipy only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import Estimate, auroc, clopper_pearson
from lightning_memaudit.results.own_output import UNTRAINED_PSNR

FALSE_POSITIVE_RATES = (0.05, 0.01, 0.001)
MEASURES = {
    "plain_loss": "the autoencoder's own error",
    "blind_score": "the blind score",
    "reference": "the own error, less that of the reference",
    "reference_blind_score": "the blind score, less that of the reference",
}
"""By what members are told, and what it is called. All are lower for what looks like a member."""
MIN_FOR_AUROC = 10
"""Of members and of controls: below that the interval of the area is too wide to be worth printing."""


@dataclass(frozen=True)
class Detection:
    """Share of members that are told at a false positive rate which the controls can resolve.

    Attributes:
        false_positive_rate: What was asked for.
        reached_rate: The rate that the threshold holds on an image that is exchangeable with the m controls:
            ``k / (m + 1)`` for the k-th lowest control, at most what was asked for; None where refused, and so are the
            next four.
        value: True positive rate.
        low: Lower end of its 95% Clopper-Pearson interval, which takes the threshold as given.
        high: Upper end.
        threshold: Scores below it are called members.
        controls_needed: Fewest controls that resolve this false positive rate.
        reason: Why refused, in one sentence; None where not.

    >>> found = detect(members=[0.1, 0.2, 0.3, 0.9], controls=np.linspace(0.5, 1, 100), false_positive_rate=0.01)
    >>> found.value, found.controls_needed, f"{found.reached_rate:.4f}"
    (0.75, 99, '0.0099')
    >>> detect(members=[0.1], controls=[0.5, 1], false_positive_rate=0.01).reason
    '2 controls cannot resolve a false positive rate of 1.0%; at least 99 are needed'
    """

    false_positive_rate: float
    reached_rate: float | None
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    controls_needed: int
    reason: str | None


@dataclass(frozen=True)
class Membership:
    """What one number of every image tells about membership: by this number, and no bound on what another tells.

    Attributes:
        num_members: Members with a score.
        num_controls: Controls with a score.
        auroc: The chance that a member scores lower than a control, with a 95% interval; None where refused.
        reason: Why refused, in one sentence; None where not.
        detections: One per entry of :data:`FALSE_POSITIVE_RATES`.
        roc: Points (false positive rate, true positive rate) from (0, 0) to (1, 1); empty without both groups.
        caution: Why the numbers are not what they seem, in one sentence; None where nothing speaks against them.

    >>> told = infer_membership(members=np.linspace(0.1, 0.2, 10), controls=np.linspace(0.5, 1, 100))
    >>> told.auroc.value, told.auroc.low < 1, [one.value for one in told.detections]  # 0.1% takes 999 controls
    (1.0, True, [1.0, 1.0, None])
    """

    num_members: int
    num_controls: int
    auroc: Estimate | None
    reason: str | None
    detections: tuple[Detection, ...]
    roc: tuple[tuple[float, float], ...]
    caution: str | None = None


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


def infer_memberships(
    members: Mapping[str, ArrayLike], controls: Mapping[str, ArrayLike], caution: str | None = None
) -> dict[str, Membership]:
    """What each of several numbers tells; those of which no image has any are left out.

    Args:
        members: Scores (n,) by the names of :data:`MEASURES`, see :func:`membership_scores`.
        controls: The same of the controls, (m,).
        caution: What speaks against the reference models, see :func:`reference_caution`.
    """
    told = {}
    for name in MEASURES:
        one, other = (np.asarray(group.get(name, ()), dtype=np.float64) for group in (members, controls))
        if not np.isnan(np.concatenate([one, other])).all():
            found = infer_membership(one, other)
            told[name] = replace(found, caution=caution) if name.startswith("reference") else found
    return told


def membership_scores(
    images: ImageColumns, group: str, patterns: Sequence[str], method: str
) -> dict[str, NDArray[np.float64]]:
    """The numbers (n,) of a group by the names of :data:`MEASURES`, lower for what looks like a member.

    The own error is a mean squared error. Less that of a reference means the difference of their logarithms, in dB. It
    is NaN, and the image left out, where an image has none of a reference, or an infinite one: whoever took that for a
    hard image would take its owner for a member.

    Args:
        images: Of one audit.
        group: ``members`` or ``controls``.
        patterns: Over which scores are combined.
        method: The audited one.
    """
    if (group, patterns[0], method) not in images:
        return {}
    columns = [images[group, pattern, method] for pattern in patterns]
    own, reference = columns[0]["reconstruction_psnr"], columns[0]["reference_psnr"]
    blind, reference_blind = (combine_scores([one[name] for one in columns]) for name in ("score", "reference_score"))
    with np.errstate(invalid="ignore"):
        return {
            "plain_loss": 10 ** (-own / 10),
            "blind_score": blind,
            "reference": np.where(np.isfinite(reference), reference - own, np.nan),
            "reference_blind_score": np.where(
                np.isfinite(reference_blind), 10 * (_log10(blind) - _log10(reference_blind)), np.nan
            ),
        }


def reference_caution(members: ArrayLike, controls: ArrayLike, confidence: float = 0.95) -> str | None:
    """What speaks against a reference: its own error shows that it was trained on one group's images, or hardly at all.

    Args:
        members: The reference's own PSNR (n,) of the members, NaN where there is none.
        controls: The same of the controls, (m,).
        confidence: That the groups differ for the reference.
    """
    one, other = (-drop_missing(group) for group in (members, controls))
    if min(len(one), len(other)) < MIN_FOR_AUROC:
        return None
    median = -float(np.median(np.concatenate([one, other])))
    if median < UNTRAINED_PSNR:
        return (
            f"The reference reproduces no image (median PSNR {median:.1f} dB), as if it was not trained: its error "
            "says little of how hard an image is, and what is left beyond it little of membership."
        )
    area = auroc(one, other, confidence)
    if area.high < 0.5:
        return (
            "The reference reproduces the controls better than the members, as if it was trained on them: then images "
            "of the one model are told from those of the other, which is easier than to tell members from images that "
            "neither was trained on, and for these the false positive rates do not hold."
        )
    if area.low > 0.5:
        return (
            "The reference reproduces the members better than the controls, as if it was trained on them: then what it "
            "lets one tell of the audited autoencoder is too little."
        )
    return None


def membership_sentences(told: Mapping[str, Membership]) -> list[str]:
    """What each number tells, in one sentence, and what it does not; nothing where none tells anything.

    Args:
        told: By the names of :data:`MEASURES`.
    """
    areas = {name: one.auroc for name, one in told.items() if one.auroc is not None and name in MEASURES}
    if not areas:
        return []
    parts = [f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}) by {MEASURES[name]}" for name, one in areas.items()]
    sentence = f"A member is told from a control with an AUROC of {'; of '.join(parts)}."
    cautions = dict.fromkeys(told[name].caution for name in areas)
    return [sentence, "Another attack may tell more.", *(caution for caution in cautions if caution)]


def detect(members: ArrayLike, controls: ArrayLike, false_positive_rate: float) -> Detection:
    """The share of members that score below a threshold, which a stranger does with a given chance at most.

    The threshold is the k-th lowest score of the m controls, and k the largest number with ``k / (m + 1)`` at most that
    chance: an image that is exchangeable with the controls scores below it with chance ``k / (m + 1)``. With fewer than
    ``1 / false_positive_rate - 1`` controls there is no such k: then it is refused.

    Args:
        members: Scores (n,), lower means more like a member; NaN is left out.
        controls: Scores (m,).
        false_positive_rate: In (0, 1].
    """
    positive, negative = (drop_missing(scores) for scores in (members, controls))
    needed = math.ceil(1 / false_positive_rate - 1 - 1e-9)
    count = len(negative)
    if count < needed or not len(positive):
        reason = (
            f"{count} controls cannot resolve a false positive rate of {false_positive_rate:.1%}; "
            f"at least {needed} are needed"
            if len(positive)
            else "no member has a score"
        )
        return Detection(false_positive_rate, None, None, None, None, None, needed, reason)
    rank = math.floor(false_positive_rate * (count + 1) + 1e-9)
    threshold = float(np.sort(negative)[rank - 1]) if rank <= count else math.inf
    found = int((positive < threshold).sum())
    low, high = clopper_pearson(found, len(positive))
    reached = rank / (count + 1)
    return Detection(false_positive_rate, reached, found / len(positive), low, high, threshold, needed, None)


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


def _log10(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(np.maximum(scores, 1e-30))


def telling(told: Mapping[str, Membership]) -> str | None:
    """What the first measure is called that tells members for sure; the blind score first, which needs no truth."""
    for name in ("blind_score", "reference", "reference_blind_score", "plain_loss"):
        one = told.get(name)
        if one is not None and one.auroc is not None and one.auroc.low > 0.5 and one.caution is None:
            return MEASURES[name]
    return None


def drop_missing(scores: ArrayLike) -> NDArray[np.float64]:
    """The scores that are there: NaN is left out."""
    array = np.asarray(scores, dtype=np.float64).ravel()
    return array[~np.isnan(array)]


def _straight(points: Sequence[tuple[float, float]]) -> bool:
    """Whether the middle one of three points lies on a horizontal or vertical line with both others."""
    (x0, y0), (x1, y1), (x2, y2) = points
    return x0 == x1 == x2 or y0 == y1 == y2

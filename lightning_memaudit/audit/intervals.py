"""Uncertainty of rates: exact binomial intervals, and the area under the ROC curve with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, norm, rankdata


class Estimate(NamedTuple):
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


def clopper_pearson(successes: int, count: int, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The exact two-sided interval of a binomial proportion (Clopper & Pearson, Biometrika 1934).

    Args:
        successes: Number of successes, between 0 and ``count``.
        count: Number of trials; without any, the interval is (None, None).
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: The numbers are not those of a proportion.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes={successes}: must be between 0 and count={count}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, such as 0.95")
    if count == 0:
        return None, None
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, count - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, count - successes)) if successes < count else 1.0
    return low, high


def auroc(members: ArrayLike, controls: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The chance that a member has a *lower* score than a control, ties counting half, with DeLong's interval.

    The Mann-Whitney statistic; variance by DeLong, DeLong & Clarke-Pearson (Biometrics 1988). Infinite scores (diverged
    iterations) are the worst there are. With fewer than two of either the interval is [0, 1].

    Args:
        members: Scores (n,), lower means more like a member; no NaN.
        controls: Scores (m,).
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: A group is empty, or a score is NaN.
    """
    positive, negative = (np.asarray(scores, dtype=np.float64).ravel() for scores in (members, controls))
    if not len(positive) or not len(negative):
        raise ValueError(f"{len(positive)} members and {len(negative)} controls: give at least one score of each")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("scores hold NaN: leave out images without a score, or give infinity where it diverged")
    pooled = rankdata(np.concatenate([positive, negative]))
    # The share of the other group that each score beats: DeLong's structural components.
    beaten = 1 - (pooled[: len(positive)] - rankdata(positive)) / len(negative)
    beats = (pooled[len(positive) :] - rankdata(negative)) / len(positive)
    value = float(beaten.mean())
    if min(len(positive), len(negative)) < 2:
        return Estimate(value, 0.0, 1.0)
    variance = beaten.var(ddof=1) / len(positive) + beats.var(ddof=1) / len(negative)
    margin = float(norm.ppf(0.5 + confidence / 2) * np.sqrt(variance))
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin))

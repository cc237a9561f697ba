"""Uncertainty of rates and of their differences, and the area under the ROC curve with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import beta, norm, rankdata


class Estimate(NamedTuple):
    """A number with its confidence interval, of 95% unless something else was asked for.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end.

    >>> better = paired_difference(both=1, first_only=8, second_only=0, neither=1)
    >>> better.value, 0 < better.low < better.high <= 1
    (0.8, True)
    """

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


def paired_difference(both: int, first_only: int, second_only: int, neither: int, confidence: float = 0.95) -> Estimate:
    """Difference of two proportions measured on the same pairs, first minus second, with Newcombe's interval.

    Square-and-add with a correlation: method 10 of Newcombe (Statistics in Medicine 17, 1998, 2635-2650), as
    recommended by Fagerland, Lydersen & Laake (2014). It does not collapse at rates of 0 and 1.

    Args:
        both: Pairs in which both succeed.
        first_only: Pairs in which only the first does.
        second_only: Pairs in which only the second does.
        neither: Pairs in which none does.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: A count is negative, or all are zero.
    """
    counts = (both, first_only, second_only, neither)
    count = sum(counts)
    if min(counts) < 0 or not count:
        raise ValueError(f"pairs={counts}: must be counts, at least one of them positive")
    first, second = both + first_only, both + second_only
    rate_1, rate_2 = first / count, second / count
    (low_1, high_1), (low_2, high_2) = (_wilson(successes, count, confidence) for successes in (first, second))
    spread = first * (count - first) * second * (count - second)
    product = float(both * neither - first_only * second_only)
    if product > 0:
        product = max(0.0, product - count / 2)  # Newcombe's continuity correction of the correlation
    correlation = product / np.sqrt(spread) if spread else 0.0

    def margin(inner: float, outer: float) -> float:
        return float(np.sqrt(max(0.0, inner**2 - 2 * correlation * inner * outer + outer**2)))

    value = rate_1 - rate_2
    return Estimate(
        value, value - margin(rate_1 - low_1, high_2 - rate_2), value + margin(high_1 - rate_1, rate_2 - low_2)
    )


def unpaired_difference(
    first: int, first_count: int, second: int, second_count: int, confidence: float = 0.95
) -> Estimate:
    """Difference of two proportions measured on separate images, first minus second, with Newcombe's interval.

    The hybrid score interval: method 10 of Newcombe (Statistics in Medicine 17, 1998, 873-890). The groups may be of
    any size, and the order of the images within them plays no part.

    Args:
        first: Successes of the first group.
        first_count: Its size.
        second: Successes of the second group.
        second_count: Its size.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: The numbers are not those of proportions.

    >>> better = unpaired_difference(56, 70, 48, 80)
    >>> [round(end, 4) for end in better]
    [0.2, 0.0524, 0.3339]
    """
    for successes, count in ((first, first_count), (second, second_count)):
        if not 0 <= successes <= count or not count:
            raise ValueError(f"successes={successes}: must be between 0 and count={count}, and that above 0")
    rate_1, rate_2 = first / first_count, second / second_count
    (low_1, high_1), (low_2, high_2) = (
        _wilson(successes, count, confidence) for successes, count in ((first, first_count), (second, second_count))
    )
    value = rate_1 - rate_2
    low = value - float(np.hypot(rate_1 - low_1, high_2 - rate_2))
    return Estimate(value, low, value + float(np.hypot(high_1 - rate_1, rate_2 - low_2)))


_MOST_AT_ONCE = 1000
"""Larger groups are represented by so many of their quantiles where every pair would be too many."""


def location_shift(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
    """By how much the first group's values lie above the second's: the median of all pairwise differences.

    Hodges & Lehmann's estimate (1963) with the interval that inverts the Mann-Whitney test, by its normal
    approximation: it excludes zero where that test says that the groups differ.

    Args:
        first: Values (n,), finite.
        second: Values (m,), finite.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: A group is empty, or a value is not finite.
    """
    groups = [np.asarray(values, dtype=np.float64).ravel() for values in (first, second)]
    if not all(map(len, groups)) or not all(np.isfinite(values).all() for values in groups):
        raise ValueError(f"{len(groups[0])} and {len(groups[1])} values: give at least one of each, all finite")
    sizes = [len(values) for values in groups]
    places = [(np.arange(_MOST_AT_ONCE) + 0.5) / _MOST_AT_ONCE] * 2
    groups = [
        np.quantile(values, at) if len(values) > _MOST_AT_ONCE else values
        for values, at in zip(groups, places, strict=True)
    ]
    differences = np.subtract.outer(*groups).ravel()
    z = float(norm.ppf(0.5 + confidence / 2))
    reach = z * float(np.sqrt((sum(sizes) + 1) / (12 * sizes[0] * sizes[1])))
    low, value, high = np.quantile(differences, [max(0.0, 0.5 - reach), 0.5, min(1.0, 0.5 + reach)])
    return Estimate(float(value), float(low), float(high))


def _wilson(successes: int, count: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 1927)."""
    z = float(norm.ppf(0.5 + confidence / 2))
    center = (successes + z**2 / 2) / (count + z**2)
    margin = z * float(np.sqrt(successes * (count - successes) / count + z**2 / 4)) / (count + z**2)
    return max(0.0, center - margin), min(1.0, center + margin)


def auroc(members: ArrayLike, controls: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The chance that a member has a *lower* score than a control, ties counting half, with its interval.

    The Mann-Whitney statistic; interval by method 5 of Newcombe (Statistics in Medicine 25, 2006, 559-573), which
    inverts Hanley & McNeil's variance and keeps its width where the groups are fully apart (DeLong's does not).
    Infinite scores (diverged iterations) are the worst there are.

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
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    beaten = (ranks - rankdata(positive)).sum() / (len(positive) * len(negative))
    value = float(1 - beaten)
    low = _lowest_auroc(value, len(positive), len(negative), confidence)
    high = 1 - _lowest_auroc(1 - value, len(positive), len(negative), confidence)
    return Estimate(value, low, high)


def _lowest_auroc(value: float, num_positive: int, num_negative: int, confidence: float) -> float:
    """The smallest area that is no further below ``value`` than z standard errors of its own."""
    z = float(norm.ppf(0.5 + confidence / 2))
    balanced = (num_positive + num_negative) / 2 - 1

    def distance(area: float) -> float:
        shape = 1 + balanced * ((1 - area) / (2 - area) + area / (1 + area))
        return value - area - z * float(np.sqrt(area * (1 - area) * shape / (num_positive * num_negative)))

    edge = value * (1 - 1e-12)
    return float(brentq(distance, 0.0, edge)) if distance(edge) < 0 < value else 0.0

"""How many kinds a sample has missed: Chao's estimator of unseen species, and its interval."""

import math
from collections.abc import Sequence

from scipy.stats import norm

from lightning_memaudit.results.intervals import Estimate


def chao(counts: Sequence[int], confidence: float = 0.95, at_most: int | None = None) -> Estimate:
    """Number of kinds that were not seen, by how many were seen once and twice.

    Chao's estimator (Scandinavian Journal of Statistics 11, 1984, 265-270), corrected for bias, with the interval of
    Chao (Biometrics 43, 1987, 783-791) that takes the number unseen for log-normal. It is a lower bound where
    some kinds are far more frequent than others: those so rare that a sample of this size shows none leave no trace.

    Args:
        counts: How often each kind was seen; zeros are left out.
        confidence: Coverage of the interval, in (0, 1).
        at_most: Number of kinds that can be unseen, where it is known; cuts the estimate and the interval.

    Raises:
        ValueError: A count is negative, the confidence no share, or ``at_most`` negative.

    >>> chao([5, 4, 4, 3, 6]).value, round(chao([5, 4, 1, 1, 1, 2]).value, 2)  # none seen only once; three of them
    (0.0, 1.39)
    """
    if any(count < 0 for count in counts):
        raise ValueError(f"counts={list(counts)}: must be 0 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1, such as 0.95")
    if at_most is not None and at_most < 0:
        raise ValueError(f"at_most={at_most}: must be 0 or more")
    seen = [int(count) for count in counts if count]
    size, kinds = sum(seen), len(seen)
    once, twice = seen.count(1), seen.count(2)
    most = math.inf if at_most is None else at_most
    if not size:
        return Estimate(0.0, 0.0, float(most))
    share = (size - 1) / size
    value = share * once * max(0, once - 1) / (2 * (twice + 1))
    variance = (
        value
        + share**2 * once * (2 * once - 1) ** 2 / (4 * (twice + 1) ** 2)
        + share**2 * once**2 * twice * (once - 1) ** 2 / (4 * (twice + 1) ** 4)
    )
    if value > 0:
        ratio = math.exp(float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(math.log1p(variance / value**2)))
        low, high = value / ratio, value * ratio
    else:
        # Nothing points to others. The chance of missing a kind as frequent as the average one decides how many fit.
        missed = math.exp(-size / kinds)
        spread = math.sqrt(max(0.0, kinds * missed / (1 - missed)))
        low, high = 0.0, float(norm.ppf(0.5 + confidence / 2)) * spread
    return Estimate(min(value, most), min(low, most), min(high, most))

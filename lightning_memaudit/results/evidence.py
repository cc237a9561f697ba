"""Is it more than chance? Exact tests of members against controls, for the group and for every image. Numpy and scipy.

One assumption carries all of it: an image that was not memorized is exchangeable with the controls. Of such images
any order by what came back is as likely as any other, whatever the autoencoder, the masks and the measure are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom

SIGNIFICANCE = 0.025
"""One-sided: so often at most a network that has memorized nothing is called *memorized*."""

FALSE_DISCOVERY_RATE = 0.1
"""Of the images that are said to be told one by one, this share at most is wrong in expectation."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for the images that came back, against chance.

    Attributes:
        p_value: Chance that so many of those that came back are members if none was memorized: Fisher's exact test.
        at_least: So many of the images were memorized at least, with 97.5% confidence.
        num_discoveries: Images whose own rank among the controls tells them, at the false discovery rate below.
        false_discovery_rate: Largest expected share of wrong ones among those.
        num_patterns: How many patterns an image had to come back from; the controls had as many.

    >>> members, controls = np.arange(67) < 4, np.zeros(200, dtype=bool)
    >>> found = weigh(members, controls, np.where(members, 12.0, -1), np.full(200, -2.0) + np.arange(200) / 100, 1)
    >>> round(found.p_value, 4), found.at_least, found.num_discoveries
    (0.0037, 2, 4)
    """

    p_value: float
    at_least: int
    num_discoveries: int
    false_discovery_rate: float
    num_patterns: int


def weigh(
    members: NDArray[np.bool_],
    controls: NDArray[np.bool_],
    member_gains: NDArray[np.float64],
    control_gains: NDArray[np.float64],
    num_patterns: int,
) -> Evidence:
    """Weigh what came back.

    Args:
        members: Which members came back beyond every baseline, in any pattern, (n,).
        controls: Which controls did, (m,).
        member_gains: Best gain over the patterns in dB, (n,).
        control_gains: Likewise, (m,).
        num_patterns: How many patterns there were.
    """
    counts = int(members.sum()), len(members), int(controls.sum()), len(controls)
    q_values = false_discovery_rates(conformal_p_values(member_gains, control_gains))
    told = int((members & (q_values <= FALSE_DISCOVERY_RATE)).sum())
    return Evidence(exact_test(*counts), at_least(*counts), told, FALSE_DISCOVERY_RATE, num_patterns)


def exact_test(members: int, num_members: int, controls: int, num_controls: int) -> float:
    """Chance that so many or more of all successes are members' if members and controls are exchangeable.

    Fisher's exact test, one-sided: it holds for groups of any size, and it counts every image of both.

    Args:
        members: Successes among the members.
        num_members: Number of members.
        controls: Successes among the controls.
        num_controls: Number of controls.

    >>> round(exact_test(4, 67, 0, 200), 4), exact_test(0, 67, 0, 200)
    (0.0037, 1.0)
    """
    return float(hypergeom.sf(members - 1, num_members + num_controls, members + controls, num_members))


def controls_needed(members: int, num_members: int) -> int:
    """Fewest controls, of which none comes back, against which so many members are more than chance.

    Args:
        members: Members that came back, at least 1.
        num_members: Number of members.

    >>> needed = controls_needed(4, 200)
    >>> needed, exact_test(4, 200, 0, needed) <= SIGNIFICANCE < exact_test(4, 200, 0, needed - 1)
    (301, True)
    """
    low, high = 0, 1
    while exact_test(members, num_members, 0, high) > SIGNIFICANCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if exact_test(members, num_members, 0, middle) > SIGNIFICANCE:
            low = middle
        else:
            high = middle
    return high


def at_least(
    members: int, num_members: int, controls: int, num_controls: int, significance: float = SIGNIFICANCE
) -> int:
    """How many images were memorized at least: a lower confidence bound, 0 where chance explains everything.

    If only k were, the others are exchangeable with the controls. So k is too few where the test still rejects after k
    of those that came back are taken out; the bound is the first k where it does not (a closed test over all sets of
    memorized images, as Goeman & Solari, Statistical Science 2011, bound the number of true discoveries).

    Args:
        members: Successes among the members.
        num_members: Number of members.
        controls: Successes among the controls.
        num_controls: Number of controls.
        significance: Chance that the bound is too high.

    >>> at_least(24, 104, 0, 30), at_least(3, 50, 0, 50)
    (12, 0)
    """
    taken = np.arange(members)
    total = num_members - taken + num_controls
    chance = hypergeom.sf(members - taken - 1, total, members - taken + controls, num_members - taken)
    kept = np.flatnonzero(~(chance <= significance))
    return int(kept[0]) if len(kept) else members


def conformal_p_values(members: ArrayLike, controls: ArrayLike) -> NDArray[np.float64]:
    """For each member the chance that a control's value is as large as its own, (n,) in (0, 1].

    ``(1 + number of controls with as large a value) / (m + 1)``: valid in finite samples for a member that is
    exchangeable with the controls (Vovk, Gammerman & Shafer 2005). Ties count against the member, and so does what is
    missing: NaN is the lowest value of a member and the highest of a control.

    Args:
        members: Values (n,), larger means more like a memorized image.
        controls: Values (m,).

    >>> conformal_p_values([5.0, 1.0, np.nan], [0.0, 1.0, 2.0]).tolist()
    [0.25, 0.75, 1.0]
    """
    own, others = np.asarray(members, dtype=np.float64), np.asarray(controls, dtype=np.float64)
    others = np.sort(np.where(np.isnan(others), np.inf, others))
    above = len(others) - np.searchsorted(others, np.where(np.isnan(own), -np.inf, own), side="left")
    return np.asarray((1 + above) / (len(others) + 1))


def false_discovery_rates(p_values: ArrayLike) -> NDArray[np.float64]:
    """Of each p-value the smallest false discovery rate at which it counts, (n,): Benjamini & Hochberg (1995).

    p-values by rank among the same controls depend on each other, positively (PRDS), for which the procedure holds:
    Bates, Candès, Lei, Romano & Sesia, Testing for outliers with conformal p-values (Annals of Statistics 2023).

    >>> false_discovery_rates([0.01, 0.5, 0.02]).round(3).tolist()
    [0.03, 0.5, 0.03]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    rates = np.empty_like(p)
    rates[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return rates

"""Is it more than chance? Exact tests of members against controls, for the group and for every image. Numpy and scipy.

One assumption carries all of it: an image that was not memorized is exchangeable with the controls. Of such images
any order by what came back is as likely as any other, whatever the autoencoder, the masks and the measure are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom

SIGNIFICANCE = 0.025
"""One-sided: so often at most a network that has memorized nothing is called *memorized*."""

FALSE_DISCOVERY_RATE = 0.1
"""Of the images that are said to be told one by one, this share at most is wrong in expectation."""


MAX_CONTROL_SHARE = 0.2
"""Controls may come back at up to this share of the members' rate; beyond it, too much would have come back anyway."""

ANY = "any"
"""Stands for a pattern where an image may have come back from any of them."""

ANY_SHARE = 0.5
"""Of the significance, where there are several patterns: the rest is for some of them."""

_ROUNDING = 1e-9
"""A chance of 1 in 40 is 2.5%, however the digits of its quotient end."""


class Flags(NamedTuple):
    """What came back beyond every baseline, and by how much, of members and of controls.

    Attributes:
        members: (n,) bool.
        controls: (m,) bool.
        member_gains: (n,), in dB.
        control_gains: (m,).

    >>> Flags(np.ones(2, bool), np.zeros(3, bool), np.full(2, 9.0), np.zeros(3)).counts
    (2, 2, 0, 3)
    """

    members: NDArray[np.bool_]
    controls: NDArray[np.bool_]
    member_gains: NDArray[np.float64]
    control_gains: NDArray[np.float64]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Successes and number of members, then of controls."""
        return int(self.members.sum()), len(self.members), int(self.controls.sum()), len(self.controls)


@dataclass(frozen=True)
class Evidence:
    """What speaks for the images that came back, against chance.

    Attributes:
        pattern: From which the images that count came back: :data:`ANY`, or those that tell where from all together
            controls come back too, their names joined by commas.
        p_value: Chance that so many of those that came back are members if none was memorized: Fisher's exact test,
            allowing for the patterns that were tried.
        enough: Whether controls come back at no more than a fifth of the members' rate.
        at_least: So many of the images were memorized at least, with 97.5% confidence.
        num_discoveries: Images whose own rank among the controls tells them, at the false discovery rate below.
        false_discovery_rate: Largest expected share of wrong ones among those.
        num_patterns: How many patterns an image had to come back from; the controls had as many.

    >>> members, controls = np.arange(67) < 4, np.zeros(200, dtype=bool)
    >>> gains = np.where(members, 12.0, -1), np.full(200, -2.0) + np.arange(200) / 100
    >>> found = weigh({"random-0.9": Flags(members, controls, *gains)})
    >>> found.pattern, round(found.p_value, 4), found.at_least, found.num_discoveries, found.tells
    ('random-0.9', 0.0037, 2, 4, True)
    """

    pattern: str
    p_value: float
    enough: bool
    at_least: int
    num_discoveries: int
    false_discovery_rate: float
    num_patterns: int

    @property
    def tells(self) -> bool:
        """Whether more members come back than chance explains, and so many more that each recovery says something."""
        return self.enough and is_significant(self.p_value)


def sets_of_patterns(num_back: Sequence[int]) -> list[list[int]]:
    """Which patterns are tested together: all, each by itself, and the hardest two, three, and so on.

    The hardest are those from which the fewest images came back, members and controls together: an order that tells
    nobody which group an image is of, so that the tests of what it leads to hold. A pattern from which everything comes
    back is the last in it, and hides nothing that the others show together. Patterns that are equally hard are tested
    together or not at all, as nothing but the order in which they were named could choose among them.

    Args:
        num_back: Of each pattern, how many images of both groups came back beyond every baseline.

    Returns:
        Of each set the positions of its patterns, ascending; all of them are the first.

    >>> sets_of_patterns([60, 11, 20])  # an easy one, and two that are hard
    [[0, 1, 2], [0], [1], [2], [1, 2]]
    >>> sets_of_patterns([5]), sets_of_patterns([20, 11, 20])
    ([[0]], [[0, 1, 2], [0], [1], [2]])
    """
    every = list(range(len(num_back)))
    if len(every) == 1:
        return [every]
    hardest = [[i for i in every if num_back[i] <= number] for number in sorted(set(num_back))]
    return [every, *([i] for i in every), *(some for some in hardest if 1 < len(some) < len(every))]


def weigh(found: Mapping[str, Flags], num_patterns: int = 1) -> Evidence:
    """Weigh what came back: from any pattern, and from some of them.

    With one pattern there is one test. With several the test of :data:`ANY` has half of the significance, and every
    other an equal part of the other half (Bonferroni). What came back from any counts where that tells. Where it does
    not, those patterns count that show the most images to be memorized, of those that tell; of such the more certain,
    then the fewer, then the first by the alphabet, so that the order of the patterns decides nothing.

    Args:
        found: By the name of a pattern, or of several together; with several patterns, :data:`ANY` is the first.
        num_patterns: How many there are.
    """
    shares = dict.fromkeys(found, 1.0)
    if len(found) > 1:
        shares = {name: ANY_SHARE if name == ANY else (1 - ANY_SHARE) / (len(found) - 1) for name in found}
    every = [_weigh_one(name, flags, shares[name], num_patterns) for name, flags in found.items()]
    telling = [one for one in every if one.tells]
    if not telling or every[0].tells:
        return every[0]
    return min(telling, key=lambda one: (-one.at_least, one.p_value, *_place(one.pattern)))


def _place(pattern: str) -> tuple[int, list[str]]:
    names = pattern.split(", ")
    return len(names), sorted(names)


def _weigh_one(name: str, flags: Flags, share: float, num_patterns: int) -> Evidence:
    counts = flags.counts
    came_back, num_members, others, num_controls = counts
    enough = others * num_members <= MAX_CONTROL_SHARE * came_back * num_controls
    # Only what came back can be told, of controls too: else the rate of false ones among those told would not hold.
    ranked = (
        np.where(came, gains, -np.inf)
        for came, gains in ((flags.members, flags.member_gains), (flags.controls, flags.control_gains))
    )
    q_values = false_discovery_rates(conformal_p_values(*ranked))
    return Evidence(
        name,
        min(1.0, exact_test(*counts) / share),
        bool(enough),
        at_least(*counts, SIGNIFICANCE * share),
        int((flags.members & (q_values <= FALSE_DISCOVERY_RATE)).sum()),
        FALSE_DISCOVERY_RATE,
        num_patterns,
    )


def is_significant(p_value: float) -> bool:
    """Whether chance is no explanation."""
    return p_value <= SIGNIFICANCE * (1 + _ROUNDING)


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


def controls_needed(members: int, num_members: int, num_patterns: int = 1) -> int:
    """Fewest controls, of which none comes back, against which so many members are more than chance.

    Args:
        members: Members that came back, at least 1, from any pattern.
        num_members: Number of members.
        num_patterns: How many were tried.

    >>> needed = controls_needed(4, 200)
    >>> needed, exact_test(4, 200, 0, needed) <= SIGNIFICANCE < exact_test(4, 200, 0, needed - 1)
    (301, True)
    """
    share = 1.0 if num_patterns == 1 else ANY_SHARE
    low, high = 0, 1
    while not is_significant(exact_test(members, num_members, 0, high) / share):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if not is_significant(exact_test(members, num_members, 0, middle) / share):
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
    kept = np.flatnonzero(~(chance <= significance * (1 + _ROUNDING)))
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

"""Exact tests, bounds and false discovery rates against scipy, enumeration and simulation."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact, mannwhitneyu

from lightning_memaudit.results.evidence import (
    ANY,
    SIGNIFICANCE,
    Flags,
    at_least,
    conformal_p_values,
    controls_needed,
    exact_test,
    false_discovery_rates,
    is_significant,
    sets_of_patterns,
    weigh,
)
from lightning_memaudit.results.gain import MEAN, Gain, PatternGain
from lightning_memaudit.results.intervals import location_shift, unpaired_difference


@pytest.mark.parametrize("table", [(4, 67, 0, 200), (24, 104, 0, 30), (5, 50, 3, 40), (0, 10, 0, 20), (10, 10, 2, 30)])
def test_exact_test_is_scipys(table):
    members, num_members, controls, num_controls = table
    cells = [[members, num_members - members], [controls, num_controls - controls]]
    assert exact_test(*table) == pytest.approx(fisher_exact(cells, alternative="greater").pvalue)


def test_at_least_takes_out_memorized_images_until_chance_explains_the_rest():
    for members, num_members, controls, num_controls in [
        (24, 104, 0, 30),
        (4, 67, 0, 200),
        (30, 40, 3, 40),
        (3, 50, 0, 50),
    ]:
        bound = at_least(members, num_members, controls, num_controls)
        for taken in range(members + 1):
            rejected = exact_test(members - taken, num_members - taken, controls, num_controls) <= SIGNIFICANCE
            assert rejected == (taken < bound) or taken > bound
    assert at_least(0, 10, 0, 20) == 0


def test_at_least_is_rarely_too_high():
    """Of 60 members 12 are memorized; the others and the controls come back by chance, in 5% of cases."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        members, controls = 12 + rng.binomial(48, 0.05), rng.binomial(60, 0.05)
        wrong += at_least(members, 60, controls, 60) > 12
    assert wrong / 400 <= SIGNIFICANCE + 2 * np.sqrt(SIGNIFICANCE / 400)


def test_conformal_p_values_by_counting():
    members, controls = [3.0, 1.0, -np.inf, np.nan, 2.0], [1.0, 2.0, np.nan]
    expected = [(1 + sum(np.isnan(c) or c >= m for c in controls)) / 4 for m in (3.0, 1.0, -np.inf, -np.inf, 2.0)]
    assert conformal_p_values(members, controls).tolist() == expected


def test_conformal_p_values_of_exchangeable_images_are_no_smaller_than_uniform():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 8, (4000, 20)).astype(float)  # with many ties
    p = np.array([conformal_p_values(row[:1], row[1:])[0] for row in values])
    for level in (0.05, 0.1, 0.3, 0.5):
        assert (p <= level).mean() <= level + 2 * np.sqrt(level / 4000)


def test_false_discovery_rates_are_scipys():
    p = np.random.default_rng(2).random(50) ** 3
    assert false_discovery_rates(p) == pytest.approx(false_discovery_control(p))
    assert false_discovery_rates([]).size == 0


def test_the_false_discovery_rate_holds_for_ranks_among_the_same_controls():
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(300):
        gains = np.concatenate([rng.normal(6, 1, 10), rng.normal(0, 1, 40)])
        chosen = false_discovery_rates(conformal_p_values(gains, rng.normal(0, 1, 200))) <= 0.1
        shares.append(chosen[10:].sum() / max(1, chosen.sum()))
    assert 0 < np.mean(shares) <= 0.1 * 40 / 50 + 0.02


def test_a_few_among_many_are_told_one_by_one():
    members, controls = np.arange(67) < 4, np.zeros(200, dtype=bool)
    found = weigh({"half": Flags(members, controls, np.where(members, 15.0, -2.0), np.full(200, -1.0))})
    assert (found.num_discoveries, found.at_least, found.num_patterns) == (4, 2, 1)


def test_the_false_discovery_rate_holds_where_only_what_came_back_is_told():
    """A tenth is memorized, and some of it and of all others came back."""
    rng = np.random.default_rng(8)
    shares = []
    for _ in range(200):
        gains, others = np.concatenate([rng.normal(8, 1, 20), rng.normal(0, 1, 180)]), rng.normal(0, 1, 200)
        back = np.where(np.arange(200) < 20, np.arange(200) < 3, gains > 2)
        told = weigh({"half": Flags(back, others > 2, gains, others)})
        ranked = false_discovery_rates(
            conformal_p_values(np.where(back, gains, -np.inf), np.where(others > 2, others, -np.inf))
        )
        chosen = ranked <= told.false_discovery_rate
        assert (chosen & back).sum() == told.num_discoveries
        shares.append(chosen[20:].sum() / max(1, chosen.sum()))
    assert np.mean(shares) <= 0.12


def test_a_pattern_from_which_all_comes_back_hides_no_other():
    everything, some = np.ones(60, dtype=bool), np.arange(60) < 11
    nothing = np.zeros(60, dtype=bool)
    easy, hard = (
        Flags(everything, everything, 9.0 * everything, 9.0 * everything),
        Flags(some, nothing, np.where(some, 9.0, -1.0), np.full(60, -1.0)),
    )
    found = weigh({ANY: easy, "random-0.1": easy, "random-0.9": hard}, 2)
    assert (found.pattern, found.tells, found.num_patterns) == ("random-0.9", True, 2)
    assert found.p_value == pytest.approx(4 * exact_test(11, 60, 0, 60))
    alone = weigh({ANY: hard, "random-0.1": easy, "random-0.9": hard}, 2)
    assert (alone.pattern, alone.p_value) == (ANY, pytest.approx(2 * exact_test(11, 60, 0, 60)))


def weighed(members, controls):
    """What is told of what came back, (patterns, images) bool each."""
    names = [f"p{i}" for i in range(len(members))]
    flagged = {}
    for one in sets_of_patterns((members.sum(1) + controls.sum(1)).tolist()):
        name = ANY if len(one) == len(names) else ", ".join(names[i] for i in one)
        back = members[one].any(0), controls[one].any(0)
        flagged[name] = Flags(*back, *(9.0 * flags for flags in back))
    return weigh(flagged, len(names))


def test_an_easy_pattern_hides_nothing_of_what_others_show_together():
    one, two = np.arange(50) < 30, (np.arange(50) >= 15) & (np.arange(50) < 45)
    nothing = np.zeros(50, dtype=bool)
    found = weighed(np.stack([np.ones(50, dtype=bool), one, two]), np.stack([np.arange(50) < 20, nothing, nothing]))
    assert (found.pattern, found.tells, found.num_patterns) == ("p1, p2", True, 3)
    # Half of the significance is that of all patterns; the three alone and the two hardest share the other half.
    assert found.p_value == pytest.approx(8 * exact_test(45, 50, 0, 50))
    assert found.at_least > at_least(30, 50, 0, 50)


def test_memory_is_seldom_seen_where_there_is_none_and_seldom_too_much_of_it():
    rng = np.random.default_rng(12)
    alarms = overstated = 0
    for _ in range(500):
        rates = rng.random((4, 1)) ** 2
        image = rng.random((1, 80))  # images that are easy in one pattern are in others
        back = rng.random((4, 80)) * 0.5 + 0.5 * image < rates
        alarms += weighed(back[:, :40], back[:, 40:]).tells
        memorized = np.arange(40) < 12
        found = weighed(back[:, :40] | (memorized & (rng.random((4, 40)) < 0.8)), back[:, 40:])
        overstated += found.tells and found.at_least > 12
    assert alarms <= 0.025 * 500 + 3 * (0.025 * 0.975 * 500) ** 0.5
    assert overstated <= 0.025 * 500 + 3 * (0.025 * 0.975 * 500) ** 0.5


def test_one_in_forty_is_two_and_a_half_percent():
    assert is_significant(exact_test(1, 1, 0, 39))
    assert not is_significant(exact_test(1, 1, 0, 38))
    assert controls_needed(1, 1) == 39


def test_gains_far_above_all_controls_are_exceptional_and_seldom_by_chance():
    rng = np.random.default_rng(9)
    members, controls = rng.normal(-2, 1, (2, 200)), rng.normal(-2, 1, (2, 200))
    assert Gain.of(["a", "b"], members, controls).exceptional is None
    members[1, :24] += 15
    one = Gain.of(["a", "b"], members, controls).exceptional
    assert (one.pattern, one.num_beyond) == ("b", 24)
    alarms = 0
    for _ in range(500):  # gains that are far apart by themselves
        wide = 20 * rng.standard_normal((2, 90))
        alarms += Gain.of(["a", "b"], wide[:, :50], wide[:, 50:]).exceptional is not None
    assert alarms <= 10


def test_unpaired_difference_is_the_published_one():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 and 10/10 - 0/10, 9/10 - 3/10."""
    assert unpaired_difference(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert unpaired_difference(10, 10, 0, 10) == pytest.approx((1.0, 0.6075, 1.0), abs=5e-5)
    assert unpaired_difference(9, 10, 3, 10) == pytest.approx((0.6, 0.1705, 0.8090), abs=5e-5)
    with pytest.raises(ValueError, match="must be between"):
        unpaired_difference(3, 2, 0, 5)


def test_location_shift_inverts_the_rank_test():
    rng = np.random.default_rng(4)
    first, second = rng.normal(2, 1, 40), rng.normal(0, 1, 35)
    estimate = location_shift(first, second)
    assert estimate.value == pytest.approx(np.median(np.subtract.outer(first, second)))
    for end, side in ((estimate.low, "greater"), (estimate.high, "less")):
        p = mannwhitneyu(first - end, second, alternative=side, method="asymptotic", use_continuity=False).pvalue
        assert p == pytest.approx(0.025, abs=2e-3)
    many = rng.normal(0.5, 1, 3000), rng.normal(0, 1, 2000)
    whole = np.subtract.outer(*many)
    assert location_shift(*many).value == pytest.approx(np.median(whole), abs=2e-3)
    with pytest.raises(ValueError, match="all finite"):
        location_shift([1.0, np.inf], [0.0])


def test_gains_allow_for_the_number_of_patterns():
    """Where no image is a member, some pattern tells *members* in at most 2.5% of audits, however many there are."""
    rng = np.random.default_rng(5)
    told = {1: 0, 8: 0}
    for patterns in told:
        for _ in range(300):
            members, controls = rng.normal(0, 1, (patterns, 30)), rng.normal(0, 1, (patterns, 40))
            told[patterns] += Gain.of([str(i) for i in range(patterns)], members, controls).tells
    assert max(told.values()) / 300 <= 0.025 + 2 * np.sqrt(0.025 / 300), told


def test_a_missing_gain_counts_against_a_difference():
    members, controls = np.full(20, 1.0), np.zeros(20)
    assert PatternGain.of("half", members, controls, 0.95).auroc.value == 1.0
    members[:5], controls[:4] = np.nan, np.nan
    one = PatternGain.of("half", members, controls, 0.95)
    assert one.auroc.value == pytest.approx(15 * 16 / 400)
    assert (one.num_members, one.num_controls) == (15, 16)
    assert Gain.of(["blur"], np.full((1, 5), np.nan), np.full((1, 5), np.nan)) is None
    two = Gain.of(["blur", "half"], np.stack([np.full(20, np.nan)] * 2), np.zeros((2, 20)))
    assert two is None
    gain = Gain.of(["a", "b"], np.ones((2, 12)), np.zeros((2, 12)))
    assert [part.pattern for part in gain.patterns] == [MEAN, "a", "b"]
    assert not Gain.of(["a"], np.ones((1, 9)), np.zeros((1, 30))).tells, "too few members for an interval"

"""The order of patterns decides nothing, and what came to nothing is no evidence: neither of memory nor against it."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import fisher_exact

from lightning_memaudit.bench.referee import simulated_columns
from lightning_memaudit.results.evidence import ANY, Flags, sets_of_patterns, weigh
from lightning_memaudit.results.gain import MEAN, Gain, most_beyond
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.judgement import judge
from lightning_memaudit.results.verdict import conclude

GROUPS = ("members", "controls")
HEAD = [{"audit": 0, "threshold_db": 30.0, "train_loss": 1e-4, "epoch": 5}]
NUM = 50


def gains(num_back, num_back_of_controls, seed=0):
    """By group (patterns, images): so many images come back from each pattern, the others by chance a little less."""
    rng, found = np.random.default_rng(seed), {}
    for group, numbers in zip(GROUPS, (num_back, num_back_of_controls), strict=True):
        found[group] = rng.normal(-2, 0.5, (len(numbers), NUM))
        for row, number in enumerate(numbers):
            found[group][row, rng.permutation(NUM)[:number]] = 12.0
    return found


def concluded(columns):
    judgement = judge(HEAD, columns)
    return conclude(judgement), judgement


def verdicts_in_every_order(groups):
    """What is concluded with the patterns in every order, and from which of them."""
    columns, found = simulated_columns(groups), set()
    for order in permutations(columns.patterns()):
        cells = [(group, name, method) for name in order for group in GROUPS for method in columns.methods()]
        verdict, judgement = concluded(ImageColumns.of_columns({cell: columns[cell] for cell in cells}))
        evidence = judgement.evidence
        numbers = judgement.num_memorized, evidence.at_least, round(evidence.p_value, 9)
        told = [one and one.pattern for one in (judgement.gain.strongest, judgement.gain.exceptional)]
        found.add((verdict.outcome, verdict.reasons, numbers, frozenset(evidence.pattern.split(", ")), *told))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_patterns_decides_nothing(seed):
    rng = np.random.default_rng(seed)
    numbers, others = rng.permutation((0, 6, 6, 9)), rng.permutation((0, 1, 1, 4))
    assert len(verdicts_in_every_order(gains(numbers, others, seed))) == 1


def test_a_tie_that_hid_memory_in_one_order_and_showed_it_in_the_other():
    """Six images come back from two patterns each; from one of them half are controls."""
    found = {group: np.full((4, NUM), -2.0) for group in GROUPS}
    for row, members, controls in ((0, range(4), 0), (1, range(4, 10), 0), (2, range(10, 13), 3), (3, range(20), 10)):
        found["members"][row, list(members)] = found["controls"][row, :controls] = 12.0
    assert len(verdicts_in_every_order(found)) == 1


def test_patterns_that_are_equally_hard_are_tested_together():
    for back in product(range(4), repeat=4):
        sets = sets_of_patterns(back)
        assert len(sets) == len({tuple(one) for one in sets})
        for order in permutations(range(4)):
            moved = sets_of_patterns([back[i] for i in order])
            assert {frozenset(order[i] for i in one) for one in moved} == set(map(frozenset, sets))


@pytest.mark.parametrize("names", list(permutations(("b", "a, c", "a"))))
def test_of_patterns_that_show_as_much_the_fewer_count_and_of_those_the_first_by_the_alphabet(names):
    some, none = np.arange(NUM) < 12, np.zeros(NUM, dtype=bool)
    found = {ANY: Flags(some, some, 12.0 * some, 12.0 * some)}
    found |= {name: Flags(some, none, 12.0 * some, 0.0 * some) for name in names}
    assert weigh(found, num_patterns=3).pattern == "a"
    del found["a"]
    assert weigh(found, num_patterns=3).pattern == "b"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_gains_that_tell_as_much_the_mean_counts_then_the_larger_then_the_first_by_the_alphabet(names):
    controls = np.linspace(-1, 1, NUM)

    def gain(**shifts):
        members = np.stack([controls + shifts[name] for name in names])
        return Gain.of(names, members, np.stack([controls, controls]))

    alike = gain(a=10, b=10)
    assert alike.strongest.pattern == alike.exceptional.pattern == most_beyond(alike).pattern == MEAN
    other = replace(alike, patterns=alike.patterns[1:])
    assert other.strongest.pattern == other.exceptional.pattern == most_beyond(other).pattern == "a"
    larger = gain(a=10, b=12)
    single = replace(larger, patterns=larger.patterns[1:])
    assert single.strongest.pattern == single.to_dict()["strongest"] == "b"


def lost(columns, group, patterns, what, rows=slice(None)):
    """The same audit, where the method came to nothing on some images of a group."""
    for pattern in patterns:
        cell = columns[group, pattern, "blind"]
        for name in ("recovered", what):
            cell[name] = cell[name].copy()
            cell[name][rows] = name == what
        for name in ("psnr", "hidden_psnr", "recovery_gain"):
            cell[name] = cell[name].copy()
            cell[name][rows] = np.nan
    return columns


@pytest.mark.parametrize("left", [0, 5, 19])
def test_controls_on_which_the_method_failed_show_nothing(left):
    columns = simulated_columns(gains((10, 10), (0, 0)))
    verdict, judgement = concluded(lost(columns, "controls", columns.patterns(), "failed", slice(left, NUM)))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("too_few_controls",))
    assert f"recovery failed on {NUM - left} of {NUM} controls" in verdict.headline
    assert not any(one.startswith("Recovery failed") for one in verdict.cautions)
    assert judgement.counted.controls.recovered.num == left
    assert judgement.to_dict()["failed_controls"] == NUM - left


LEFT_OUT = [(20, "30 controls: they are"), (30, "20 controls: they are"), (49, "1 control: it is")]


@pytest.mark.parametrize(("left", "said"), LEFT_OUT)
def test_those_that_are_left_are_what_members_are_held_against(left, said):
    columns = simulated_columns(gains((10,), (0,)))
    verdict, judgement = concluded(lost(columns, "controls", columns.patterns(), "failed", slice(left, NUM)))
    p_value = fisher_exact([[10, 40], [0, left]], "greater").pvalue
    assert (verdict.outcome == "memorized") == (p_value <= 0.025)
    assert judgement.evidence.p_value == pytest.approx(p_value)
    assert any(one.startswith(f"Recovery failed on {said} left out") for one in verdict.cautions)


def test_controls_on_which_the_method_failed_in_another_pattern_count_in_this_one():
    columns = simulated_columns(gains((15, 20), (0, 20)))
    others = ~columns["controls", "pattern-1", "blind"]["recovered"]
    _, judgement = concluded(lost(columns, "controls", ["pattern-1"], "failed", others))
    assert judgement.evidence.pattern == "pattern-0"
    p_value = 4 * fisher_exact([[15, 35], [0, NUM]], "greater").pvalue  # half of the significance for two patterns
    assert judgement.evidence.p_value == pytest.approx(p_value)


def test_a_control_that_came_back_from_one_pattern_counts_though_the_method_failed_in_another():
    found = gains((10, 0), (0, 0))
    found["controls"][0, :10] = 12.0
    columns = lost(simulated_columns(found), "controls", ["pattern-1"], "failed", slice(0, 30))
    _, judgement = concluded(columns)
    assert (judgement.overall.controls.memorized.count, judgement.overall.controls.memorized.num) == (10, 30)
    assert judgement.patterns[0].controls.memorized.num == NUM


def test_controls_that_diverge_did_not_come_back():
    columns = simulated_columns(gains((10,), (0,)))
    verdict, judgement = concluded(lost(columns, "controls", columns.patterns(), "diverged"))
    assert (verdict.outcome, judgement.failed_controls) == ("memorized", 0)


@pytest.mark.parametrize("what", ["failed", "diverged"])
def test_what_came_to_nothing_behind_the_only_pattern_that_shows_something_is_no_absence(what):
    columns = simulated_columns(gains((0, 0), (0, 0)))
    for group in GROUPS:  # anyone restores what the first hides
        for method in columns.methods():
            columns[group, "pattern-0", method]["recovered"] = np.ones(NUM, dtype=bool)
    assert concluded(columns)[0].outcome == "not_memorized"
    verdict, judgement = concluded(lost(columns, "members", ["pattern-1"], what))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("recoveries_diverged",))
    assert judgement.untested.count == NUM


def test_what_came_back_far_closer_than_the_inpainters_is_tested_though_that_one_suffices():
    columns = simulated_columns(gains((10, 0), (0, 0)))
    for group in GROUPS:
        columns[group, "pattern-0", "biharmonic"]["recovered"] = np.ones(NUM, dtype=bool)
    back = columns["members", "pattern-0", "blind"]["recovered"]
    _, judgement = concluded(lost(columns, "members", ["pattern-1"], "diverged", back))
    assert judgement.untested is None


def test_that_recoveries_came_to_nothing_is_said_once():
    columns = simulated_columns(gains((0,), (0,)))
    verdict, judgement = concluded(lost(columns, "members", ["pattern-0"], "diverged", slice(0, 40)))
    assert verdict.reasons == ("recoveries_diverged",)
    assert judgement.lost == {"pattern-0": 40}
    assert not any("came to nothing" in one for one in verdict.cautions)


@pytest.mark.parametrize("what", ["failed", "diverged"])
def test_absence_says_what_came_to_nothing(what):
    columns = simulated_columns(gains((0, 0), (0, 0)))
    lost(columns, "members", ["pattern-0"], what, slice(0, 10))
    verdict, judgement = concluded(lost(columns, "members", ["pattern-1"], what, slice(0, 40)))
    assert (verdict.outcome, judgement.untested.count) == ("not_memorized", 10)
    assert judgement.to_dict()["lost"] == {"pattern-0": 10, "pattern-1": 40}
    said = " ".join(verdict.cautions)
    assert "the recoveries of 10 of 50 training images came to nothing: whether those are stored is not tested" in said
    assert "From pattern-1, the recoveries of 40 of 50 training images came to nothing." in said
    assert "pattern-0" not in said

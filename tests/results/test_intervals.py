"""Intervals against published numbers, scipy and exact or simulated coverage."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu, multinomial

from lightning_memaudit.results.intervals import auroc, clopper_pearson, paired_difference


def test_clopper_pearson_is_scipys():
    for count in (1, 7, 50):
        for successes in range(count + 1):
            exact = binomtest(successes, count).proportion_ci(0.95, method="exact")
            assert clopper_pearson(successes, count) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_clopper_pearson_without_trials_is_nothing():
    assert clopper_pearson(0, 0) == (None, None)


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (1, 2, 0.0), (1, 2, 1.0)])
def test_clopper_pearson_refuses_what_is_no_proportion(arguments):
    with pytest.raises(ValueError, match="="):
        clopper_pearson(*arguments)


def test_paired_difference_is_the_published_one():
    """Bentur et al. 2009 as in Fagerland, Lydersen & Laake (2014), table 6: -0.286, Newcombe -0.507 to -0.026."""
    estimate = paired_difference(1, 1, 7, 12)
    assert estimate == pytest.approx((-0.286, -0.507, -0.026), abs=5e-4)


def test_paired_difference_mirrors_when_the_groups_are_exchanged():
    one, other = paired_difference(3, 9, 2, 11), paired_difference(3, 2, 9, 11)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


@pytest.mark.parametrize(
    "rates", [(0.1, 0.5, 0.02, 0.38), (0.0, 0.8, 0.0, 0.2), (0.3, 0.1, 0.1, 0.5), (0.0, 0.04, 0.02, 0.94)]
)
def test_paired_difference_covers_the_truth(rates):
    """Exact coverage over all tables of 25 pairs; the method is approximate, but never far below its 95%."""
    num, truth, covered = 25, rates[1] - rates[2], 0.0
    for table in itertools.product(range(num + 1), repeat=3):
        if sum(table) <= num:
            table = (*table, num - sum(table))
            chance = multinomial.pmf(table, num, rates)
            if chance > 1e-9:
                estimate = paired_difference(*table)
                covered += chance * (estimate.low - 1e-12 <= truth <= estimate.high + 1e-12)
    assert 0.93 <= covered <= 1.0


def test_paired_difference_stays_within_its_range():
    for table in ((0, 50, 0, 0), (0, 0, 50, 0), (50, 0, 0, 0), (0, 0, 0, 50), (0, 1, 0, 0)):
        estimate = paired_difference(*table)
        assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high


@pytest.mark.parametrize("table", [(0, 0, 0, 0), (1, -1, 0, 5)])
def test_paired_difference_refuses_what_is_no_table(table):
    with pytest.raises(ValueError, match="must be counts"):
        paired_difference(*table)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    members = np.array([0.1, 0.2, 0.2, np.inf])
    controls = np.array([0.2, 0.5, np.inf])
    wins = [1.0 if m < c else 0.5 if m == c else 0.0 for m in members for c in controls]
    estimate = auroc(members, controls)
    assert estimate.value == pytest.approx(np.mean(wins))
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(mannwhitneyu(controls, members).statistic / 12)


def test_auroc_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 0.760249938906524  # Phi(1 / sqrt 2): scores N(0, 1) against N(1, 1)
    hits = 0
    for _ in range(400):
        estimate = auroc(rng.normal(0, 1, 60), rng.normal(1, 1, 60))
        hits += estimate.low <= truth <= estimate.high
    assert 0.91 <= hits / 400 <= 0.985


def test_auroc_refuses_nan_and_empty_groups():
    with pytest.raises(ValueError, match="NaN"):
        auroc([0.1, np.nan], [0.2])
    with pytest.raises(ValueError, match="at least one"):
        auroc([], [0.2])


def test_auroc_of_separated_groups_is_not_certain():
    few, many = auroc(range(5), range(5, 10)), auroc(range(100), range(100, 200))
    assert few.value == many.value == 1.0
    assert few.low < many.low < 1.0
    assert few.high == many.high == 1.0

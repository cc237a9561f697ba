"""Chao's estimator against its published examples' formulas, and against simulations whose truth is known."""

import numpy as np
import pytest

from lightning_memaudit.results.unseen import chao


def test_estimate_is_the_bias_corrected_formula():
    counts = [1] * 6 + [2] * 2 + [9, 14]
    size = sum(counts)
    assert chao(counts).value == pytest.approx((size - 1) / size * 6 * 5 / (2 * 3))


def test_unseen_kinds_are_covered_where_all_are_equally_frequent():
    generator = np.random.default_rng(0)
    for kinds, size in ((60, 60), (60, 150), (300, 400)):
        inside, values = 0, []
        for _ in range(300):
            counts = np.bincount(generator.integers(0, kinds, size), minlength=kinds)
            unseen = int((counts == 0).sum())
            found = chao(counts.tolist())
            inside += found.low - 0.5 <= unseen <= found.high + 0.5  # kinds are whole numbers
            values.append(found.value - unseen)
        assert inside >= 0.9 * 300, (kinds, size, inside)
        assert abs(np.mean(values)) < 0.1 * kinds, (kinds, size)


def test_it_is_a_lower_bound_where_frequencies_differ():
    generator = np.random.default_rng(1)
    weights = 1 / np.arange(1, 101)
    differences = []
    for _ in range(200):
        counts = generator.multinomial(300, weights / weights.sum())
        differences.append(chao(counts.tolist()).value - (counts == 0).sum())
    assert -50 < np.mean(differences) < 2


def test_what_can_be_unseen_is_bounded_and_nothing_seen_says_nothing():
    assert chao([1] * 50, at_most=7) == (7, 7, 7)
    assert chao([], at_most=9) == (0, 0, 9)
    assert chao([0, 0]) == (0, 0, np.inf)
    complete = chao([40, 50, 30])
    assert complete.value == 0
    assert complete.high < 0.01


@pytest.mark.parametrize("bad", [{"counts": [-1]}, {"counts": [1], "confidence": 1.0}, {"counts": [1], "at_most": -1}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f"{list(bad)[-1]}="):
        chao(**bad)

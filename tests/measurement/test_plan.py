"""What an audit is asked to do: methods by their names, each pattern once."""

import numpy as np
import pytest
import torch

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.plan import Plan, resolve_methods
from lightning_memaudit.recovery.methods.registry import METHODS


def test_names_of_methods_are_explained():
    with pytest.raises(ValueError, match="did you mean 'known_mask'"):
        resolve_methods(["known_maks"])
    with pytest.raises(ValueError, match="at least one"):
        resolve_methods([])
    assert list(resolve_methods(list(METHODS))) == list(METHODS)


def test_a_pattern_named_twice_is_refused():
    with pytest.raises(ValueError, match="only once"):
        Plan([parse_degradation("half"), parse_degradation("half")], resolve_methods(["paper_blind"]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("random-0.9", "random-0.90"),
        ("random-0.5", "random-.5+fill-0"),
        ("half+noise-0.1+channels", "half+channels+noise-1e-1"),
        ("blur-1", "blur-1.0"),
    ],
)
def test_a_pattern_by_two_spellings_is_refused(one, other):
    images = torch.rand(1, 3, 12, 12)
    for made in zip(*(parse_degradation(name)(images, [3]) for name in (one, other)), strict=True):
        assert torch.equal(*made)
    with pytest.raises(ValueError, match="are the same; leave one of them out") as error:
        Plan.of([one, "text", other], {"blind": "blind", "blind_deblurring": "blind_deblurring"})
    assert f"{one!r} and {other!r}" in str(error.value)
    Plan.of(["random-0.5", "random-0.5+fill-0.5", "random-0.5+channels", "block-0.5"])


@pytest.mark.parametrize("threshold_db", [90.1, 100, 1e9, float("inf"), float("nan"), 0, -5, True])
def test_a_threshold_that_nothing_reaches_is_refused(threshold_db):
    with pytest.raises(
        ValueError, match=rf"^threshold_db={threshold_db}: .* at most 90, such as 30$".replace("+", r"\+")
    ):
        Plan.of(threshold_db=threshold_db)
    assert Plan.of(threshold_db=90).threshold_db == 90


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5, "1", None, float("nan")])
def test_a_seed_that_is_no_count_is_refused_before_anything_runs(seed):
    with pytest.raises(ValueError, match=r"^seed=.*: must be an integer from 0 to 2\*\*63 - 1$") as error:
        Plan.of(seed=seed)
    assert repr(seed) in str(error.value)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7)])
def test_any_other_seed_makes_masks(seed):
    plan = Plan.of(["random-0.5"], ["known_mask"], seed=seed)
    assert plan.patterns[0](torch.rand(1, 1, 8, 8), [0], plan.seed).mask.mean().item() == 0.5

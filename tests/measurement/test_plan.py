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


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5, "1", None, float("nan")])
def test_a_seed_that_is_no_count_is_refused_before_anything_runs(seed):
    with pytest.raises(ValueError, match=r"^seed=.*: must be an integer from 0 to 2\*\*63 - 1$") as error:
        Plan.of(seed=seed)
    assert repr(seed) in str(error.value)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7)])
def test_any_other_seed_makes_masks(seed):
    plan = Plan.of(["random-0.5"], ["known_mask"], seed=seed)
    assert plan.patterns[0](torch.rand(1, 1, 8, 8), [0], plan.seed).mask.mean().item() == 0.5

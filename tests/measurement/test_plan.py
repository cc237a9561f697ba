"""What an audit is asked to do: methods by their names, each pattern once."""

import pytest

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

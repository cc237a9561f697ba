"""What was cut is said in words, goes through files and checkpoints, and reaches the verdict."""

from pathlib import Path

import pytest

from lightning_memaudit.results.cost import Bounds, Cut, cost_row, cost_sentences
from lightning_memaudit.results.shapes import check_row


def test_bounds_survive_a_checkpoint():
    bounds = Bounds((Cut("methods", ("blind", "paper_blind"), ("blind",)), Cut("num_members", 9, 3)), 60, 100.0, 50.0)
    again = Bounds.of(bounds.to_dict())
    assert again.sentence == bounds.sentence
    assert again.to_dict() == bounds.to_dict()


def test_nothing_is_said_where_nothing_was_cut():
    assert Bounds((), 60, 30.0, 30.0).sentence == ""
    assert cost_sentences([{"cost": cost_row(None, Bounds(), 1.0, 10)}]) == []
    assert cost_sentences([{"audit": 0}]) == cost_sentences([]) == []


def test_a_default_that_is_too_slow_says_why():
    sentence = Bounds((Cut("methods", ("blind", "known_mask"), ("blind",)),), None, 1500.0, 300.0).sentence
    assert "about 25 min with the default methods" in sentence
    assert "methods is blind instead of blind, known_mask" in sentence


def test_a_cost_that_is_no_object_is_refused():
    check_row({"audit": 0, "cost": None}, Path("audits.jsonl"))
    with pytest.raises(ValueError, match="cost='much'"):
        check_row({"audit": 0, "cost": "much"}, Path("audits.jsonl"))

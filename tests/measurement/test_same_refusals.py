"""What the callback refuses, ``audit()`` refuses: settings, and outputs that are no reconstruction."""

import pytest
import torch

from lightning_memaudit import MemorizationAuditCallback, audit

WRONG = [
    {"block_size": 0},
    {"block_size": 2.5},
    {"block_size": True},
    {"save_recoveries": -1},
    {"save_recoveries": 2.5},
    {"save_recoveries": None},
    {"extraction": -1},
    {"extraction": "5"},
    {"extraction": 2.5},
    {"threshold_db": 0},
    {"threshold_db": True},
    {"threshold_db": "30"},
    {"threshold_db": float("nan")},
    {"seed": -1},
    {"seed": None},
    {"patterns": []},
    {"patterns": "half"},
    {"patterns": ["half", "half"]},
    {"patterns": ["blur-1"]},
    {"methods": []},
    {"max_seconds": 0},
    {"max_seconds": "5"},
    {"max_seconds": float("nan")},
    {"methods": [3]},
    {"methods": {"mine": 3}},
    {"methods": ["blind", "blind"]},
    {"methods": ["blnd"]},
    {"methods": {"a b": "blind"}},
    {"reference": 3},
    {"reference": []},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_settings_are_refused_by_both_in_one_line(wrong):
    images = torch.rand(4, 1, 8, 8)
    settings = {"patterns": ["half"], "methods": ["biharmonic"]} | wrong
    for given in (lambda: MemorizationAuditCallback(**settings), lambda: audit(lambda x: x, images, **settings)):
        with pytest.raises(ValueError, match=next(iter(wrong))[:6]) as error:
            given()
        assert "\n" not in str(error.value)


def test_complex_outputs_are_refused():
    with pytest.raises(ValueError, match=r"returned torch.complex64 for members: pass a function that returns real"):
        audit(lambda x: x.to(torch.complex64), torch.rand(4, 1, 8, 8), patterns=["half"], methods=["biharmonic"])

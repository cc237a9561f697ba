"""The tables of runs notice what they are there for: each of their checks fails when something is off."""

import pytest
import torch
from foreign_parts import Pictures, Plain, pictures, plainly
from foreign_runs import ForeignRun, check
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")

MEMBERS, CONTROLS = pictures(), pictures(seed=1)


def run_of(**more):
    settings = {"members": MEMBERS, "controls": CONTROLS, "own_output": plainly} | more
    return ForeignRun(Plain(), *(DataLoader(Pictures(one), 3) for one in (MEMBERS, CONTROLS)), **settings)


def brighter(images):
    return images + 0.01


def drawing(module, images):
    """Within the audit, where it must not matter."""
    torch.rand(3)
    module.net[1].weight.data.add_(0)
    return module(images)


WRONG = {
    "other members": ({"members": brighter(MEMBERS)}, "members: "),
    "other controls": ({"controls": CONTROLS.flip(0)}, "controls: "),
    "controls that are not there": ({"controls": None}, "controls/truth"),
    "another output": ({"own_output": lambda m, x: brighter(plainly(m, x))}, "members 0: .* dB, by hand"),
    "other names": ({"names": "abcdef"}, "'0'"),
    "a warning that is not given": ({"warnings": ["no such warning"]}, "no such warning"),
    "a warning that is not expected": ({"lines": {"controls": None, "num_controls": 0}, "controls": None}, "no images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_seen(name):
    settings, message = WRONG[name]
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check(lambda: run_of(**settings))


def test_a_disturbed_training_is_seen(monkeypatch):
    check(lambda: run_of(lines={"reconstruct": drawing}))
    monkeypatch.setattr("lightning_memaudit.callback.memorization_audit.preserved_random_state", Nothing)
    monkeypatch.setattr("lightning_memaudit.callback.caller.undisturbed", Nothing)
    with pytest.raises(AssertionError, match="random states 0"):
        check(lambda: run_of(lines={"reconstruct": drawing}))


class Nothing:
    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def put_back_if_written(self):
        pass

    def __exit__(self, *exception):
        return False

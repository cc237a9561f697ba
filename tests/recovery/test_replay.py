"""Work that is replayed is done once per call, also where it cannot be captured, and captured only where it may be."""

import pytest
import torch

from lightning_memaudit.recovery.replay import Replay, replays

CUDA = torch.device("cuda")


class Graph:
    """Stands for a captured one: counts its replays."""

    def __init__(self, calls):
        self.calls = calls

    def replay(self):
        self.calls.append("replayed")


def calls_of(device, number=3):
    calls = []
    replay = Replay(lambda: calls.append("done"), device)
    for _ in range(number):
        replay()
    return calls


@pytest.fixture
def captures(monkeypatch):
    calls = []
    monkeypatch.setattr(Replay, "_captured", lambda self: Graph(calls))
    return calls


def test_a_captured_work_is_replayed(captures):
    with replays():
        assert calls_of(CUDA) == ["done"]
    assert captures == ["replayed", "replayed"]


def test_nothing_is_captured_on_a_cpu_nor_where_a_training_may_run(captures):
    assert calls_of(CUDA) == ["done"] * 3
    with replays():
        assert calls_of(torch.device("cpu")) == ["done"] * 3
    assert calls_of(CUDA) == ["done"] * 3
    assert captures == []


def test_what_cannot_be_captured_is_done_all_the_same_and_not_tried_again(monkeypatch):
    attempts = []

    def refuse(self):
        attempts.append(1)
        raise RuntimeError("this allocator has no graphs")

    monkeypatch.setattr(Replay, "_captured", refuse)
    with replays():
        with pytest.warns(UserWarning, match="CUDA graphs are not used: this allocator has no graphs"):
            assert calls_of(CUDA) == ["done"] * 3
        assert calls_of(CUDA) == ["done"] * 3
    assert len(attempts) == 1

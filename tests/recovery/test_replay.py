"""Work that is replayed is done once per call, also where it cannot be captured."""

import torch

from lightning_memaudit.recovery.replay import Replay


def test_on_a_cpu_nothing_is_captured(monkeypatch):
    monkeypatch.delattr(Replay, "_captured")
    calls = []
    replay = Replay(lambda: calls.append(1), torch.device("cpu"))
    for _ in range(3):
        replay()
    assert len(calls) == 3


def test_what_cannot_be_captured_is_done_all_the_same(monkeypatch):
    attempts, calls = [], []

    def refuse(self):
        attempts.append(1)
        raise RuntimeError("this allocator does not support CUDA graphs")

    monkeypatch.setattr(Replay, "_captured", refuse)
    replay = Replay(lambda: calls.append(1), torch.device("cuda"))
    for _ in range(4):
        replay()
    assert len(calls) == 4
    assert len(attempts) == 1


def test_a_captured_work_is_replayed(monkeypatch):
    calls = []

    class Graph:
        def replay(self):
            calls.append("replayed")

    monkeypatch.setattr(Replay, "_captured", lambda self: Graph())
    replay = Replay(lambda: calls.append("done"), torch.device("cuda"))
    for _ in range(3):
        replay()
    assert calls == ["done", "replayed", "replayed"]

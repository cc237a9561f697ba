"""Which batches are watched before audits, counted by hand."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from lightning_memaudit.callback.history import History
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.callback.watch_times import Watch, WatchTimes


def watched(when, epochs=4, length=5, known=True, accumulated=1, max_epochs=None, max_steps=-1, losses=None):
    """(epoch, batch) of those that are watched because an audit comes."""
    times, history, found = WatchTimes(), History(), []
    for epoch in range(epochs):
        for batch_idx in range(length):
            number = epoch * length + batch_idx
            trainer = SimpleNamespace(
                current_epoch=epoch,
                max_epochs=max_epochs,
                max_steps=max_steps,
                global_step=number // accumulated,
                num_training_batches=length if known else float("inf"),
                is_last_batch=batch_idx == length - 1,
            )
            if times.due(trainer, when, history, batch_idx) is Watch.BEFORE_AUDIT:
                found.append((epoch, batch_idx))
            if losses is not None:
                history.loss.total, history.loss.count = history.loss.total + losses[epoch], history.loss.count + 1
        history.newest_loss = losses[epoch] if losses is not None else None
        history.loss.total, history.loss.count = 0.0, 0
    return found


LAST_THREE = [(3, 2), (3, 3), (3, 4)]
NO_END = {"at_fit_end": False}


@pytest.mark.parametrize(
    ("when", "run", "expected"),
    [
        (Schedule(), {"max_epochs": 4}, LAST_THREE),
        (Schedule(), {"max_epochs": 9}, []),
        (Schedule(), {"max_epochs": -1}, []),
        (Schedule(), {"max_steps": 20}, LAST_THREE),
        (Schedule(), {"max_steps": 10, "accumulated": 2}, [(3, 1), *LAST_THREE]),
        (Schedule(every_n_epochs=2, **NO_END), {}, [(1, 2), (1, 3), (1, 4), *LAST_THREE]),
        (Schedule(at_epochs=[0, 4], **NO_END), {"max_epochs": 9}, LAST_THREE),
        (Schedule(at_epochs=[4], **NO_END), {"known": False}, LAST_THREE),
        (Schedule(at_epochs=[1], **NO_END), {"known": False}, [(0, 4)]),
        (Schedule(at_epochs=[4], **NO_END), {"length": 1}, [(1, 0), (2, 0), (3, 0)]),
        (Schedule(at_epochs=[4], **NO_END), {"length": 2}, [(2, 1), (3, 0), (3, 1)]),
        (Schedule(at_train_loss=[0.1], **NO_END), {"losses": [1, 0.5, 0.11, 0.09]}, [(2, 2), (3, 2)]),
        (Schedule(at_train_loss=[0.1], **NO_END), {"losses": [1, 0.111, 0.111, 0.11]}, [(1, 2)]),
        (Schedule(at_train_loss=[0.1], **NO_END), {"losses": [1, 0.11, 0.09, 0.09], "length": 1}, [(2, 0), (3, 0)]),
    ],
)
def test_the_last_batches_before_an_audit_are_watched(when, run, expected):
    assert watched(when, **run) == expected


def test_few_batches_are_watched_in_passing():
    times, when = WatchTimes(), Schedule(at_fit_end=False, at_epochs=[2])
    trainer = SimpleNamespace(
        current_epoch=0, max_epochs=2, max_steps=-1, global_step=0, num_training_batches=10_000, is_last_batch=False
    )
    found = [number for number in range(10_000 - 3) if times.due(trainer, when, History(), number)]
    assert len(found) < 20
    assert max(later / earlier for earlier, later in pairwise(found)) < 1.6

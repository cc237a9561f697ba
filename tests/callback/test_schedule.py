"""When audits are due: after which epoch, at which loss, averaged over what; and waiting for it costs nothing."""

import re

import lightning
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows

from lightning_memaudit.callback.schedule import EpochLoss, Schedule
from lightning_memaudit.callback.session import Session
from lightning_memaudit.measurement.processes import Processes

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


@pytest.mark.parametrize(
    ("schedule", "losses", "expected"),
    [
        (Schedule(every_n_epochs=2), [1, 1, 1, 1], [None, "epoch 2", None, "epoch 4"]),
        (Schedule(at_epochs=[1, 3]), [1, 1, 1], ["epoch 1", None, "epoch 3"]),
        (Schedule(at_train_loss=[0.5, 0.1]), [1, 0.4, 0.6, 0.1], [None, "train_loss<=0.5", None, "train_loss<=0.1"]),
        (Schedule(at_train_loss=[0.5, 0.1]), [0.01, 0.01], ["train_loss<=0.1", None]),
        (Schedule(every_n_epochs=1, at_train_loss=[0.5]), [0.1], ["train_loss<=0.5, epoch 1"]),
        (Schedule(at_train_loss=[0.5]), [float("nan"), 0.5], [None, "train_loss<=0.5"]),
    ],
)  # fmt: skip
def test_schedule(schedule, losses, expected):
    reached = set()
    assert [schedule.due(epoch + 1, loss, reached) for epoch, loss in enumerate(losses)] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_steps": 3, "max_epochs": -1}, [("epoch 1", 1, 2), ("epoch 2", 2, 3)]),
        ({"max_epochs": 3}, [("epoch 1", 1, 2), ("epoch 2", 2, 4), ("epoch 3", 3, 6)]),
    ],
)
def test_epochs_and_steps(arguments, expected):
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))
    fit(audit_callback(every_n_epochs=1), Module(), *loaders, **arguments)
    assert [(row["trigger"], row["epoch"], row["step"]) for row in rows()] == expected


def test_between_audits_it_neither_computes_nor_waits(monkeypatch):
    """Once all levels are reached nothing is added up; and no step moves a number to the host."""
    callback = audit_callback(at_train_loss=[1.0, 1e-9], at_fit_end=False)
    moved = []
    for name in ("item", "tolist", "cpu", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)

        def spy(self, *arguments, original=original, name=name):
            moved.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, spy)
    module, trainer = Module(), lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for _ in range(3):
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
    assert moved == []
    assert callback._history.loss.count == 3
    callback._session = Session(trainer, module, callback.which, callback.how, callback.what, callback.where)
    assert callback._history.take_epoch_loss(callback.when, callback._opened.processes) == 0.5
    assert callback.when.due(1, 1e-10, callback._history.reached) is not None
    callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
    assert callback._history.loss.count == 0
    assert callback._history.take_epoch_loss(callback.when, callback._opened.processes) is None


def test_the_loss_that_triggers_is_the_mean_over_the_processes_batches():
    """One process with three batches, one with a single batch, one with none at all."""

    class Three(Processes):
        def gather(self, value):
            return [(0, value), (1, (0.8, 1)), (2, (0.0, 0))]

    assert EpochLoss(torch.tensor(0.6), 3).take_mean(Three()) == pytest.approx(1.4 / 4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_that_triggers_is_the_mean_over_the_epoch(accumulate):
    losses = iter([0.9, 0.1, 0.4, 0.2] * 2)

    class Given(Module):
        def training_step(self, batch, batch_idx):
            return self.weight * 0 + next(losses)

    loaders = DataLoader(Items(images(4)), 1), DataLoader(Items(images(4, seed=1)))
    callback = audit_callback(at_train_loss=[0.401, 0.399], at_fit_end=False)
    fit(callback, Given(), *loaders, max_epochs=2, accumulate_grad_batches=accumulate)
    assert [row["trigger"] for row in rows()] == ["train_loss<=0.401"]


def test_a_training_step_without_loss_is_pointed_out():
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(functional.mse_loss(self(batch), batch))
            optimizer.step()

    with pytest.warns(UserWarning, match=re.escape("at_train_loss: training_step returns no loss")):
        fit(
            audit_callback(at_train_loss=[1.0]), Manual(), DataLoader(Items(images(4))), DataLoader(Items(images(2, 1)))
        )

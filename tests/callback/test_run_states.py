"""What a model may reach of the run that trains it is as it was after an audit, or is named."""

import ctypes
import multiprocessing
import warnings

import lightning
import pytest
import torch
from state_holders import Holder, changes
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images


class Reaching(Module):
    """Counts its calls where the run keeps its own, and lets its output depend on them in training."""

    def __init__(self):
        super().__init__()
        self.calls = multiprocessing.Value("i", 0)

    def forward(self, x):
        group = self.optimizers().param_groups[0]
        group["calls"] = group.get("calls", 0) + 1
        group["lr"] *= 0.9
        self.lr_schedulers().last_epoch += 1
        self.trainer.calls = [*getattr(self.trainer, "calls", []), 1]
        self.calls.value += 1
        return x * self.weight * (1 + 0.01 * self.calls.value * self.training)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch), batch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def trained(callbacks, module):
    trainer = fit(callbacks, module, DataLoader(Items(images(6)), 3), max_epochs=2)
    group = trainer.optimizers[0].param_groups[0]
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    counts = module.calls.value, trainer.calls, group["calls"], scheduler.last_epoch
    return float(module.weight), group["lr"], counts


@pytest.mark.usefixtures("without_report", "without_processes_of_before")
def test_optimizers_schedulers_the_trainer_and_shared_values_are_as_without_audits():
    audit = audit_callback(every_n_epochs=1, at_epochs=[0], controls=Items(images(4, seed=1)))
    audited, plain = trained(audit, Reaching()), trained([], Reaching())
    assert audited == plain
    assert plain[2][0] == 4


@pytest.mark.usefixtures("without_processes_of_before")
def test_values_of_c_are_put_back_and_named_where_workers_may_have_written():
    array, number = multiprocessing.Array("d", 3), ctypes.c_int(1)

    def act(module):
        array[0] += 1
        number.value += 1

    module = Holder([array, number], act)
    assert changes(module) == ""
    assert (list(array), number.value) == ([0.0] * 3, 1)
    worker = multiprocessing.get_context("fork").Process(target=multiprocessing.Event().wait, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a process that has threads
        worker.start()
    try:
        assert changes(module) == "kept[0] (shared with other processes)"
    finally:
        worker.kill()
        worker.join()
    assert (list(array), number.value) == ([1.0, 0.0, 0.0], 1)


def test_a_trainer_goes_its_own_way():
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.kept = before = []

    def act(module):
        trainer.kept.append(1)
        trainer.kept, trainer.new, trainer.should_stop = None, 1, True

    assert changes(Holder(trainer, act)) == ""
    assert trainer.kept is before
    assert before == []
    assert not hasattr(trainer, "new")
    assert trainer.should_stop


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.usefixtures("without_report")
def test_scripted_parts_take_no_hooks_and_end_no_training():
    class Scripted(Module):
        def __init__(self):
            super().__init__()
            self.net = torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1)))

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch), batch)

        def forward(self, x):
            return self.net(x)

    callback = audit_callback(controls=Items(images(4, seed=1)))
    fit(callback, Scripted(), DataLoader(Items(images(6)), 3))
    assert callback.last_report is not None

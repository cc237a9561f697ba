"""The run of tests of what goes wrong, in a process of its own where it must be killed, and what it wrote."""

import logging
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, images, trainer_with

from lightning_memaudit.results.run_folder import RunFolder

IGNORED = ("seconds", "time", "cost")


class FaultyModule(Module):
    """Counts the calls of an audit, and does what it is told at one of them; training steps do not count."""

    def __init__(self, at_call=None, act=None):
        super().__init__()
        self.at_call, self.act = at_call, act
        self._calls = logging.Filterer()  # out of reach of what puts back the state of modules after an audit
        self._calls.value = 0

    @property
    def calls(self):
        return self._calls.value

    def forward(self, x):
        if not torch.is_grad_enabled():
            self._calls.value += 1
            if self.at_call is not None and self.at_call(self.calls):
                changed = self.act(x)
                if changed is not None:
                    return changed
        return x * self.weight


def fit(folder, module=None, callbacks=(), ckpt_path=None, max_epochs=3, logger=False, **audit):
    """Train three epochs of three steps with an audit after each."""
    settings = {
        "every_n_epochs": 1,
        "patterns": ["half", "random-0.5"],
        "methods": ["autoencoder_iterations", "biharmonic"],
        "block_size": 4,
    }
    callback = audit_callback(**(settings | audit))
    saver = ModelCheckpoint(Path(folder, "saved"), save_last=True, save_on_train_epoch_end=True)
    trainer = trainer_with(
        *callbacks, callback, saver, max_epochs=max_epochs, logger=logger, default_root_dir=folder,
        num_sanity_val_steps=0,
    )  # fmt: skip
    loaders = DataLoader(Items(images()), 2), DataLoader(Items(images(seed=1)), 2)
    trainer.fit(module or FaultyModule(), *loaders, ckpt_path=ckpt_path)
    return trainer, callback


def results(folder="."):
    run = RunFolder(f"{folder}/memaudit")
    audits = [{key: value for key, value in row.items() if key not in IGNORED} for row in run.audits()]
    return audits, run.images()


def numbers(folder="."):
    if not (RunFolder(f"{folder}/memaudit").path / "audits.jsonl").exists():
        return []
    return sorted({row["audit"] for row in results(folder)[0]})


def raising(error):
    def act(*_, **__):
        raise error

    return act


def _kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, where, number):
    """Run, and be killed without warning at the ``number``-th call of the model, write or rename."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    torch.set_num_threads(1)
    if where == "model":
        fit(folder, FaultyModule(lambda call: call == number, _kill))
        return
    owner, name = {"write": (os, "fsync"), "rename": (Path, "replace")}[where]
    original, count = getattr(owner, name), [0]

    def counted(*arguments, **named):
        if owner is os or "memaudit" in str(arguments[0]):
            count[0] += 1
            if count[0] == number:
                _kill()
        return original(*arguments, **named)

    setattr(owner, name, counted)
    fit(folder)

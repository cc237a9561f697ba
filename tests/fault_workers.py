"""The run of ``test_faults.py``, in a process of its own where it must be killed."""

import os
import signal
import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_memaudit import MemorizationAuditCallback


class Items(Dataset):
    def __init__(self, seed, count=6):
        self.images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class Module(lightning.LightningModule):
    """Counts the calls of an audit, and does what it is told at one of them; training steps do not count."""

    def __init__(self, at_call=None, act=None):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))
        self.at_call, self.act, self.calls = at_call, act, 0

    def forward(self, x):
        if not torch.is_grad_enabled():
            self.calls += 1
            if self.at_call is not None and self.at_call(self.calls):
                changed = self.act(x)
                if changed is not None:
                    return changed
        return x * self.weight

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch), batch)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, module=None, callbacks=(), ckpt_path=None, max_epochs=3, logger=False, **audit):
    """Train three epochs of three steps with an audit after each."""
    settings = {
        "every_n_epochs": 1,
        "patterns": ["half", "random-0.5"],
        "methods": ["autoencoder_iterations", "biharmonic"],
        "print_table": False,
        "figures": False,
        "block_size": 4,
    }
    callback = MemorizationAuditCallback(**(settings | audit))
    saver = ModelCheckpoint(Path(folder, "saved"), save_last=True, save_on_train_epoch_end=True)
    trainer = lightning.Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=logger, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[*callbacks, callback, saver],
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module or Module(), DataLoader(Items(0), 2), DataLoader(Items(1), 2), ckpt_path=ckpt_path)
    return trainer, callback


def _kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, where, number):
    """Run, and be killed without warning at the ``number``-th call of the model, write or rename."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    torch.set_num_threads(1)
    if where == "model":
        fit(folder, Module(lambda call: call == number, _kill))
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

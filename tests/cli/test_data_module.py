"""While a checkpoint is audited its data module is the trainer's, so that batches go the way they went in training."""

import importlib
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images

from lightning_memaudit.cli.audit import NO_CHECKPOINT, AuditTrainer
from lightning_memaudit.cli.twins import imported_as_one

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")


class Asks(lightning.LightningModule):
    """Asks the data module of its trainer how large the images are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def setup(self, stage):
        self.size_in_setup = self.trainer.datamodule.size

    def on_after_batch_transfer(self, batch, dataloader_idx):
        raise AssertionError("the data module's hook comes before the model's")

    def forward(self, batch):
        return self.layer(batch)


class Normalizes(lightning.LightningDataModule):
    """Normalizes on the device, and has nothing to predict."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def setup(self, stage):
        self.calls.append(f"setup {stage}")
        self.size = 8

    def predict_dataloader(self):
        raise AssertionError("there is nothing to predict")

    def train_dataloader(self):
        return DataLoader(TensorDataset(images(6)), batch_size=3)

    def val_dataloader(self):
        return DataLoader(TensorDataset(images(6, seed=1)), batch_size=3)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.calls.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [(batch[0] - 0.5) / 0.25]

    def load_state_dict(self, state):
        self.state = state


class Look(Callback):
    """Sends a batch to the device when the audit begins."""

    def on_predict_start(self, trainer, pl_module):
        self.datamodule = trainer.datamodule
        batch = pl_module._on_before_batch_transfer([images(2)])
        self.seen = trainer.strategy.batch_to_device(batch)


def audit(datamodule, ckpt_path=NO_CHECKPOINT, model=None):
    look, settings = Look(), audit_callback(at_fit_end=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = AuditTrainer(accelerator="cpu", logger=False, callbacks=[settings, look], **quiet)
    model = model or Asks()
    trainer.audit(model, datamodule, ckpt_path=ckpt_path)
    return look, trainer, model


def test_batches_pass_the_hooks_of_the_data_module():
    data = Normalizes()
    look, trainer, model = audit(data)
    assert look.datamodule is trainer.datamodule is data
    assert data.trainer is trainer
    torch.testing.assert_close(look.seen[0], (images(2) - 0.5) / 0.25)
    assert [call for call in data.calls if not call.startswith("setup")][:2] == ["before", "transfer"]
    assert {call for call in data.calls if call.startswith("setup")} == {"setup fit"}
    assert model.size_in_setup == 8, "the data module is set up before the model, as in a training"


def test_its_state_comes_from_the_checkpoint():
    data = Normalizes()
    trainer = lightning.Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(Asks())
    trainer.save_checkpoint("a.ckpt")
    torch.save(torch.load("a.ckpt", weights_only=True) | {"Normalizes": {"epoch": 3}}, "a.ckpt")
    audit(data, "a.ckpt")
    assert data.state == {"epoch": 3}


class Alone(Asks):
    """Has dataloaders and hooks of its own."""

    def setup(self, stage):
        assert self.trainer.datamodule is None

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] * 2]

    def train_dataloader(self):
        return DataLoader(TensorDataset(images(6)), batch_size=3)


def test_a_model_without_a_data_module_has_its_own_hooks():
    look, trainer, _ = audit(None, model=Alone())
    assert trainer.datamodule is None
    torch.testing.assert_close(look.seen[0], images(2) * 2)


def test_a_data_module_of_the_twin(project):
    with imported_as_one(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path.cwd())
        theirs = importlib.import_module(project)
        data = theirs.Data()
        data.size = 8
        type(data).on_after_batch_transfer = lambda self, batch, dataloader_idx: [(batch[0] - 0.5) / 0.25]
        look, trainer, _ = audit(data)
    assert trainer.datamodule is data
    torch.testing.assert_close(look.seen[0], (images(2) - 0.5) / 0.25)

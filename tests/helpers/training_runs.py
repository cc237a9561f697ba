"""Short training runs of a module with one weight, for tests of what an audit makes of them."""

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.results.run_folder import RunFolder


def images(count=6, seed=0, shape=(1, 8, 8)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


class Items(Dataset):
    """Wraps each image as ``wrap(image)``."""

    def __init__(self, items, wrap=lambda image: image):
        self.items, self.wrap = items, wrap

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.wrap(self.items[index])


class Module(lightning.LightningModule):
    """Multiplies its input by a weight near 1; ``unwrap`` finds the images in a batch."""

    def __init__(self, unwrap=lambda batch: batch):
        super().__init__()
        self.unwrap = unwrap
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        return x * self.weight

    def training_step(self, batch, batch_idx):
        x = self.unwrap(batch)
        return functional.mse_loss(x * self.weight, x)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def audit_callback(**arguments):
    methods = {"autoencoder_iterations": AutoencoderIterations(num_iterations=10)}  # what more find is tested elsewhere
    settings = {"patterns": ["half"], "methods": methods, "print_table": False, "figures": False}
    return MemorizationAuditCallback(**(settings | arguments))


def trainer_with(*callbacks, **arguments):
    """On the CPU, in the current folder, quiet; saves checkpoints only where one of the callbacks does."""
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": ".",
    }
    return lightning.Trainer(callbacks=list(callbacks), **(settings | arguments))


def fit(callbacks, module, train, validation=None, ckpt_path=None, datamodule=None, **arguments):
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    trainer = trainer_with(*callbacks, **({"max_epochs": 1} | arguments))
    if datamodule is not None:
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    else:
        trainer.fit(module, train, validation, ckpt_path=ckpt_path)
    return trainer


def rows(folder="memaudit", group="members"):
    return [row for row in RunFolder(folder).audits() if row["group"] == group]


def saved_truth(group="members"):
    return torch.from_numpy(RunFolder("memaudit").newest_recoveries().arrays[f"{group}/truth"])

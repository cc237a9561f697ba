"""A project that nobody here wrote, as a folder with modules, for commands that are run in it."""

from pathlib import Path

MODULE = """\
import {package} as pl
import torch
from {package}.callbacks import Callback
from {package}.utilities import rank_zero_only
from {package}.utilities.types import STEP_OUTPUT
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Autoencoder(pl.LightningModule):
    def __init__(self, width: int = 3, scale: float = 1.0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, width), nn.Linear(width, 4)
        self.encoder, self.decoder = self.layer
        self.scale = scale

    def forward(self, images):
        return self.scale * self.decoder(self.encoder(images))

    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        return nn.functional.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Images(Dataset):
    def __init__(self, count, seed):
        self.images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.made_by = Callback

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        import {package}.callbacks

        assert {package}.callbacks.Callback is self.made_by
        assert {package}.callbacks.Callback.__module__.startswith("lightning.pytorch")
        return self.images[index], 0


class Data(pl.LightningDataModule):
    def __init__(self, count: int = 6, workers: int = 0):
        super().__init__()
        self.save_hyperparameters()
        self.count, self.workers = count, workers

    def _loader(self, seed):
        context = "spawn" if self.workers else None
        images = Images(self.count, seed)
        return DataLoader(images, batch_size=3, num_workers=self.workers, multiprocessing_context=context)

    def train_dataloader(self):
        return self._loader(0)

    def val_dataloader(self):
        return self._loader(1)


class Count(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        rank_zero_only(print)("their callback was called")
"""


def write_project(folder, name="project", package="pytorch_lightning"):
    """Write the package ``name`` with a module ``theirs`` into a folder."""
    place = Path(folder) / name
    place.mkdir()
    (place / "__init__.py").write_text("")
    (place / "theirs.py").write_text(MODULE.format(package=package))
    return f"{name}.theirs"


FAST = [
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--memaudit.methods=[biharmonic]",
    "--memaudit.patterns=[half]",
    "--memaudit.figures=false",
    "--memaudit.print_table=false",
]
"""Options of a command that only has to run."""

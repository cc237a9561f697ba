"""The LightningModule that trains any autoencoder to reproduce its images."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.nn import functional


class AutoencoderModule(LightningModule):
    """Trains an autoencoder on its mean squared reconstruction error, and logs it as ``train/loss``.

    The defaults memorize: Adam at 1e-3 takes the package's networks on 50 images to a loss of 1e-6.

    Args:
        network: Any module from images (B, C, *spatial) to images of the same shape.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes a learning rate scheduler from the optimizer; it steps once per epoch.

    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> from lightning_memaudit.training.networks import FullyConnectedAutoencoder
    >>> module = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), num_layers=3, width=64))
    >>> quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    >>> trainer = Trainer(max_epochs=30, accelerator="cpu", logger=False, **quiet)
    >>> trainer.fit(module, FacesDataModule(num_train=4, num_controls=4))
    >>> trainer.callback_metrics["train/loss"].item() < 0.1  # about 0.2 before training
    True
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        # Live objects have no place in a checkpoint; from the command line these are plain names and numbers.
        self.save_hyperparameters(ignore=["network", "optimizer", "scheduler"])
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images of shape (B, C, *spatial)."""
        reconstruction: Tensor = self.network(images)
        return reconstruction

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean squared error of a batch of images, or of (images, anything)."""
        loss, num_images = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=num_images)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The same on images that are not trained on, logged as ``val/loss``."""
        loss, num_images = self._loss(batch)
        self.log("val/loss", loss, prog_bar=True, batch_size=num_images, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler once per epoch if there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        monitor = scheduler.monitor if isinstance(scheduler, ReduceLROnPlateau) else "train/loss"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    def _loss(self, batch: Any) -> tuple[Tensor, int]:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        return functional.mse_loss(self(images), images), len(images)

"""Checkpoints at chosen training losses, from which a finished training can be audited as its loss fell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class CheckpointAtLoss(Callback):
    """Saves the weights after the first epoch whose loss is at or below each level; ends the training at the last.

    ``audit RUN --ckpt_path RUN/checkpoints/train-loss=1e-03.ckpt`` audits them later, as often as one likes.

    Args:
        levels: Values of the monitored loss.
        monitor: Name of the loss among the logged metrics; averaged over the epoch, it changes while it is averaged.
        dirpath: Folder of the checkpoints; null is ``<default_root_dir>/checkpoints``.

    Raises:
        ValueError: No level, or one that is not positive; at the end of an epoch, that the loss is not logged.

    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> from lightning_memaudit.training.networks import FullyConnectedAutoencoder
    >>> module = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), num_layers=3, width=64))
    >>> quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    >>> save = CheckpointAtLoss([1e-1, 3e-2])
    >>> trainer = Trainer(max_epochs=200, accelerator="cpu", logger=False, callbacks=[save], **quiet)
    >>> trainer.fit(module, FacesDataModule(num_train=4, num_controls=4))
    train-loss=1e-01.ckpt: after ... epochs
    train-loss=3e-02.ckpt: after ... epochs
    >>> sorted(path.name for path in Path("checkpoints").iterdir()), trainer.current_epoch < 200
    (['train-loss=1e-01.ckpt', 'train-loss=3e-02.ckpt'], True)
    """

    def __init__(self, levels: Sequence[float], monitor: str = "train/loss", dirpath: str | Path | None = None) -> None:
        if not levels or not all(0 < level < float("inf") for level in levels):
            raise ValueError(f"levels={list(levels)}: give one positive number or more")
        self.levels = sorted(levels, reverse=True)
        self.monitor, self.dirpath = monitor, dirpath
        self.reached: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where a level was reached."""
        loss = trainer.callback_metrics.get(self.monitor)
        if loss is None:
            known = ", ".join(trainer.callback_metrics) or "nothing"
            raise ValueError(f"monitor={self.monitor!r}: the training logs {known}; name its loss")
        value = float(trainer.strategy.reduce(torch.as_tensor(loss), reduce_op="mean"))
        for level in self.levels:
            if value <= level and level not in self.reached:
                self.reached.append(level)
                # Weights alone: what a training needs to go on is several times as large.
                path = self._folder(trainer) / checkpoint_name(level)
                trainer.save_checkpoint(path, weights_only=True)
                trainer.print(f"{path.name}: after {trainer.current_epoch + 1} epochs", flush=True)
        if value <= self.levels[-1]:
            trainer.should_stop = True

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.dirpath) if self.dirpath is not None else Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The levels that were reached: a training that resumes does not reach them again."""
        return {"reached": list(self.reached)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.reached = list(state_dict["reached"])


def checkpoint_name(level: float) -> str:
    """The file of a level.

    >>> checkpoint_name(0.001), checkpoint_name(2.5e-05)
    ('train-loss=1e-03.ckpt', 'train-loss=2.5e-05.ckpt')
    """
    mantissa, exponent = f"{level:e}".split("e")
    return f"train-loss={mantissa.rstrip('0').rstrip('.')}e{exponent}.ckpt"

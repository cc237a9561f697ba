"""Lines that say how far a long training has come, where no progress bar is seen: without a terminal."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from lightning.pytorch import Callback, LightningModule, Trainer


class ProgressLines(Callback):
    """Prints a line once in a while where the output is no terminal: epochs, loss, and the time left at most.

    Args:
        seconds: Between two lines, at least.
        monitor: Name of the loss among the logged metrics; it is left out where nothing has that name.
        clock: Seconds that only grow.

    Raises:
        ValueError: ``seconds`` is negative.

    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> from lightning_memaudit.training.networks import FullyConnectedAutoencoder
    >>> module = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), num_layers=3, width=64))
    >>> quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    >>> trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[ProgressLines(seconds=0)], **quiet)
    >>> trainer.fit(module, FacesDataModule(num_train=4, num_controls=4))
    epoch 1 of at most 2: train/loss ..., ... s an epoch, at most 0:00:0... left
    epoch 2 of at most 2: train/loss ..., ... s an epoch, at most 0:00:00 left
    """

    def __init__(
        self, seconds: float = 60, monitor: str = "train/loss", clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds}: give a number of at least 0")
        self.seconds, self.monitor, self.clock = seconds, monitor, clock
        self._began = self._last = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; a training that goes on begins at a later epoch."""
        self._began = self._last = self.clock()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print where it is time to."""
        now = self.clock()
        if now - self._last < self.seconds or sys.stdout.isatty():
            return
        self._last = now
        done, most = trainer.current_epoch + 1, trainer.max_epochs
        pace = (now - self._began) / (done - self._first_epoch)
        loss = trainer.callback_metrics.get(self.monitor)
        parts = [] if loss is None else [f"{self.monitor} {float(loss):.1e}"]
        parts.append(f"{pace:.2g} s an epoch")
        total = ""
        if most is not None and most > 0:
            total = f" of at most {most}"
            parts.append(f"at most {timedelta(seconds=round(pace * (most - done)))} left")
        trainer.print(f"epoch {done}{total}: {', '.join(parts)}", flush=True)

"""Sees whether the train dataloader was reloaded with other images than are audited."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.callback.reading.loaders import RunLoaders


class ReloadWatch:
    """Warns once when the train dataloader was reloaded with other images.

    Args:
        loaders: Whose images are audited.

    >>> watch = ReloadWatch(RunLoaders())
    >>> watch.look(trainer=None, reads_the_same=lambda loader: False)  # nothing to compare with
    """

    def __init__(self, loaders: RunLoaders) -> None:
        self._newest = next(iter(loaders.train), None)
        self._told = not loaders.train

    def look(self, trainer: Trainer, reads_the_same: Callable[[Any], bool]) -> None:
        """Look at the dataloader that the trainer has now.

        Args:
            trainer: Of the run.
            reads_the_same: Whether a dataloader holds the audited images.
        """
        if self._told:
            return
        reloaded = RunLoaders.of(trainer.train_dataloader, None).train
        if not reloaded or reloaded[0] is self._newest:
            return
        self._newest = reloaded[0]
        if not reads_the_same(reloaded[0]):
            self._told = True
            rank_zero_warn(
                "members: the train dataloader was reloaded with another data set; the audited members stay those of "
                "the first one: pass members=<all images that are trained on>"
            )

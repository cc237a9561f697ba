"""Sees whether the train dataloader was reloaded with other images than are audited, or its data set has grown."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.callback.reading.loaders import RunLoaders


class ReloadWatch:
    """Warns once when the train dataloader was reloaded with other images, or has more of them than when it was read.

    Args:
        loaders: Whose images are audited.

    >>> watch = ReloadWatch(RunLoaders())
    >>> watch.look(trainer=None, reads_the_same=lambda loader: False)  # nothing to compare with
    """

    def __init__(self, loaders: RunLoaders) -> None:
        self._newest = next(iter(loaders.train), None)
        self._length = _length(self._newest)
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
        if not reloaded:
            return
        if reloaded[0] is self._newest or reads_the_same(reloaded[0]):
            self._newest = reloaded[0]
            self._look_at_length()
            return
        self._told = True
        rank_zero_warn(
            "members: the train dataloader was reloaded with another data set; the audited members stay those of "
            "the first one: pass members=<all images that are trained on>"
        )

    def _look_at_length(self) -> None:
        """A curriculum may let its data set grow, which the same dataloader goes through, or a reloaded one."""
        before, now = self._length, _length(self._newest)
        if before is not None and now is not None and now > before:
            self._told = True
            rank_zero_warn(
                f"members: the data set of the train dataloader has grown from {before} to {now} items; the audited "
                "members stay those of the first ones: pass members=<all images that are trained on>"
            )


def _length(loader: Any) -> int | None:
    """Items of the data set of a loader; None where nobody knows."""
    try:
        return len(loader.dataset)
    except Exception:  # whatever a data set of others does
        return None

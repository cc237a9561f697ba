"""Which batches of a training are watched: the last ones before an audit, and a few others.

When an audit comes is known of numbers of epochs and of steps. It is nearly known of a level of the training loss. It
is not known where the training may end at any time, as by early stopping: the number of batches between two that are
watched grows with their number, so that the newest was not long ago and all of them take no time.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil, inf, isfinite

from lightning.pytorch import Trainer

from lightning_memaudit.callback.history import History
from lightning_memaudit.callback.later_batches import WINDOW
from lightning_memaudit.callback.schedule import Schedule

FIRST, GROWTH = 16, 1.5
"""The first batch that is watched in case of an audit that comes unannounced; of each next the number, in relation."""

NEARLY, FALLEN = 1.2, 0.95
"""Times the level of an audit, the mean loss below which it may come with this epoch; and the share of the loss when
batches were watched for that before, to which it must have fallen."""


class Watch(Enum):
    """Why batches are watched: because an audit comes, or in passing, in case that one comes unannounced.

    >>> Watch("in passing") is Watch.IN_PASSING
    True
    """

    BEFORE_AUDIT = "before an audit"
    IN_PASSING = "in passing"


@dataclass
class WatchTimes:
    """Decides before every batch whether to watch from there.

    Attributes:
        num_batches: So far.
        next: The batch to be watched in case of an audit that comes unannounced.

    >>> times = WatchTimes()
    >>> trainer = Trainer(accelerator="cpu", logger=False, max_epochs=100)
    >>> [number for number in range(80) if times.due(trainer, Schedule(), History(), batch_idx=number)]
    [16, 24, 36, 54]
    """

    num_batches: int = 0
    next: int = FIRST
    _first_step: int = 0
    _in_epoch: int = 0  # batches of the epoch before
    _loss: float = inf

    def due(self, trainer: Trainer, when: Schedule, history: History, batch_idx: int) -> Watch | None:
        """Why to watch from this batch on; None where there is no need to.

        Args:
            trainer: Of the run.
            when: The audits.
            history: What was audited, and the loss of the epoch so far.
            batch_idx: Of the batch in its epoch, from 0.
        """
        if self.num_batches == 0:
            self._first_step = trainer.global_step
        self.num_batches += 1
        is_next = self.num_batches > self.next
        if is_next:
            self.next = ceil(self.next * GROWTH)
        length = trainer.num_training_batches
        if trainer.is_last_batch:
            self._in_epoch = batch_idx + 1
        length = length if isfinite(length) else max(self._in_epoch, batch_idx + 1) if self._in_epoch else inf
        left = length - batch_idx - 1
        if self._left(trainer, when, left, length) < WINDOW or self._is_level_near(when, history, left, length):
            return Watch.BEFORE_AUDIT
        return Watch.IN_PASSING if is_next else None

    def _left(self, trainer: Trainer, when: Schedule, left: float, length: float) -> float:
        """Batches after this one before the next audit whose time is known."""
        epochs, steps = when.next_epoch(trainer.current_epoch), inf
        if when.at_fit_end:
            if trainer.max_epochs is not None and trainer.max_epochs > 0:
                epochs = min(epochs, trainer.max_epochs)
            made = (trainer.global_step - self._first_step) / max(1, self.num_batches - 1)
            if trainer.max_steps > 0 and made > 0:
                steps = (trainer.max_steps - trainer.global_step - 1) / made
        more = epochs - trainer.current_epoch - 1
        return min(steps, left + more * length if more > 0 else left)

    def _is_level_near(self, when: Schedule, history: History, left: float, length: float) -> bool:
        """Whether the epoch is about to end with a loss that an audit waits for; it is looked at once in an epoch."""
        levels = [level for level in when.at_train_loss if level not in history.reached]
        if not levels or left != min(WINDOW, length) - 1:
            return False
        loss = float(history.loss.total) / history.loss.count if history.loss.count else history.newest_loss
        if loss is None or loss > NEARLY * max(levels) or loss > FALLEN * self._loss:
            return False
        self._loss = loss
        return True

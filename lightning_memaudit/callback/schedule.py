"""When an audit is due, and the training loss that decides on it."""

from collections.abc import MutableSet, Sequence, Set
from dataclasses import dataclass
from math import inf

from torch import Tensor

from lightning_memaudit.measurement.processes import Processes


@dataclass(frozen=True)
class Schedule:
    """Decides after every epoch whether an audit is due, and why.

    It keeps no state: the caller passes the set of train-loss levels that were reached before.

    Attributes:
        every_n_epochs: Due after every n-th epoch.
        at_epochs: Due after these numbers of epochs; 0 means before the first.
        at_train_loss: Due when the loss of ``training_step``, averaged over an epoch, first falls to each level. It is
            not the members' own mean squared error in [0, 1], which results call ``train_loss``.
        at_fit_end: Due at the end of fit, unless the last epoch was audited.

    Raises:
        ValueError: A number is out of its range; the message names the argument, the value and the mend.

    >>> schedule, reached = Schedule(every_n_epochs=2, at_train_loss=[0.1]), set()
    >>> [schedule.due(epoch, loss, reached) for epoch, loss in enumerate([0.3, 0.05, 0.04], start=1)]
    [None, 'train_loss<=0.1, epoch 2', None]
    """

    every_n_epochs: int | None = None
    at_epochs: Sequence[int] = ()
    at_train_loss: Sequence[float] = ()
    at_fit_end: bool = True

    def __post_init__(self) -> None:
        if self.every_n_epochs is not None and self.every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={self.every_n_epochs}: must be at least 1, or null to leave it out")
        if any(epoch < 0 for epoch in self.at_epochs):
            raise ValueError(f"at_epochs={list(self.at_epochs)}: epochs are counted from 0 (before training) upwards")
        if not all(0 < level < float("inf") for level in self.at_train_loss):
            raise ValueError(f"at_train_loss={list(self.at_train_loss)}: levels must be positive numbers")

    def check(self, max_epochs: int | None) -> None:
        """Raise when nothing can ever be due within ``max_epochs`` (None or -1: unknown).

        Raises:
            ValueError: The schedule cannot fire.
        """
        certain = self.first_epoch()
        known = max_epochs is not None and max_epochs >= 0
        periodic = certain is not None and (not known or certain <= max_epochs)  # type: ignore[operator]
        if not (self.at_fit_end or self.at_train_loss or periodic):
            raise ValueError(
                f"every_n_epochs={self.every_n_epochs}, at_epochs={list(self.at_epochs)}, at_fit_end=False: no audit "
                f"would ever run within max_epochs={max_epochs}; set one of them, or at_train_loss"
            )

    def first_epoch(self) -> int | None:
        """Epochs after which an audit is certain to have run; None when that depends on the loss or the end of fit."""
        certain = [*self.at_epochs, *([] if self.every_n_epochs is None else [self.every_n_epochs])]
        return min(certain, default=None)

    def next_epoch(self, done: int) -> float:
        """The least number of epochs above ``done`` after which an audit is due, whatever the loss; infinite: none.

        >>> Schedule(every_n_epochs=10, at_epochs=[3]).next_epoch(3)
        10
        """
        n = self.every_n_epochs
        certain = [epoch for epoch in self.at_epochs if epoch > done] + ([] if n is None else [(done // n + 1) * n])
        return min(certain, default=inf)

    def parts_beyond(self, max_epochs: int | None) -> list[str]:
        """The parts that cannot fire within ``max_epochs`` (None or -1: unknown), as ``argument=value``."""
        if max_epochs is None or max_epochs < 0:
            return []
        beyond = [epoch for epoch in self.at_epochs if epoch > max_epochs]
        parts = [f"at_epochs={beyond}"] if beyond else []
        if self.every_n_epochs is not None and self.every_n_epochs > max_epochs:
            parts.append(f"every_n_epochs={self.every_n_epochs}")
        return parts

    def waits_for_loss(self, reached: Set[float]) -> bool:
        """Whether a level of the training loss is not among those ``reached``."""
        return not reached >= set(self.at_train_loss)

    def missed(
        self, reached: Set[float], loss: float | None, members_mse: float | None, std: Sequence[float] | None = None
    ) -> str | None:
        """What to say at the end of fit of levels that were never reached, where they may have been meant otherwise.

        Args:
            reached: Levels that were reached.
            loss: Of ``training_step``, averaged over the newest epoch; None where it is not known.
            members_mse: The members' mean squared error in [0, 1] at the newest audit; None when there was none.
            std: What the data set divides images by.
        """
        levels = [level for level in self.at_train_loss if level not in reached]
        if not levels or (members_mse is not None and members_mse > max(levels)):
            return None
        newest = "" if loss is None else f", {loss:.3g} in the last epoch"
        never = f"never reached by the loss of training_step{newest}"
        mend = "pass at_epochs or every_n_epochs, or levels of that loss"
        if members_mse is None:
            return f"at_train_loss={levels}: {never}, so that there was no audit: {mend}"
        levels = [level for level in levels if members_mse <= level]
        units = ""
        if std is not None:
            scaled = members_mse / (sum(value**2 for value in std) / len(std))
            units = f" (about {scaled:.3g} in the units of std={list(std)})"
        return (
            f"at_train_loss={levels}: {never}, although the members' mean squared error in [0, 1] is "
            f"{members_mse:.3g}{units}. These are two quantities: {mend}"
        )

    def due_at_start(self) -> str | None:
        """Trigger before the first epoch, or None."""
        return "epoch 0" if 0 in self.at_epochs else None

    def due(self, epoch: int, train_loss: float | None, reached: MutableSet[float]) -> str | None:
        """Trigger after ``epoch`` epochs with the last one's mean loss, or None. Levels passed join ``reached``."""
        triggers = []
        if train_loss is not None:
            passed = [level for level in self.at_train_loss if train_loss <= level and level not in reached]
            reached |= set(passed)
            if passed:
                triggers.append(f"train_loss<={min(passed):g}")
        periodic = self.every_n_epochs is not None and epoch % self.every_n_epochs == 0
        if periodic or epoch in self.at_epochs:
            triggers.append(f"epoch {epoch}")
        return ", ".join(triggers) or None


@dataclass
class EpochLoss:
    """Mean loss of ``training_step`` in an epoch, over all batches and processes, added up without waiting for it.

    Attributes:
        total: Sum over the batches so far.
        count: Number of those.

    >>> import torch
    >>> loss = EpochLoss()
    >>> for value in (0.5, 0.25):
    ...     loss.add(torch.tensor(value))
    >>> loss.take_mean(Processes()), loss.count
    (0.375, 0)
    """

    total: Tensor | float = 0.0
    count: int = 0

    def add(self, loss: Tensor) -> None:
        """Add the loss of one batch, a scalar."""
        self.total = self.total + loss.detach()
        self.count += 1

    def take_mean(self, processes: Processes) -> float | None:
        """The mean, after which the sum starts anew; the one synchronization per epoch. None without any loss."""
        parts = [part for _, part in processes.gather((float(self.total), self.count))]
        self.total, self.count = 0.0, 0
        count = sum(count for _, count in parts)
        return float(sum(total for total, _ in parts) / count) if count else None

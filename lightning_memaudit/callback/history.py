"""What a run remembers of its audits, in its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.callback.given_record import GivenRecord
from lightning_memaudit.callback.schedule import EpochLoss, Schedule
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.cost import Bounds


def new_run_id() -> str | None:
    """Tells one run from another, in checkpoints and ``run.json``."""
    return uuid4().hex  # from the operating system: no random state of the training is touched


@dataclass
class History:
    """What a checkpoint must hold so that on resuming no audit is lost and none is done twice.

    Attributes:
        num_audits: Audits done.
        last_step: Optimizer steps at the last one.
        num_epochs: Epochs whose end was seen; None before the first step.
        headline: Numbers of the last audit, for monitors.
        loss: Training loss of the epoch so far.
        reached: Levels of ``at_train_loss`` that were reached.
        run_id: The same in all parts of a run that is resumed; None in a checkpoint of an older version.
        trained_on: Hashes of the audited members, by which an audit that compares with these weights knows them.
        bounds: What is left out of the audits to keep them within bounds: decided once, and kept on resuming.
        given: What the training was given of the audited images.
        newest_loss: Mean training loss of the newest epoch whose end was seen, where a level of it is waited for; not
            kept in checkpoints.

    >>> history = History(num_audits=3, reached={0.1})
    >>> again = History.of(history.state_dict())
    >>> again == history
    True
    """

    num_audits: int = 0
    last_step: int | None = None
    num_epochs: int | None = None
    headline: dict[str, float] = field(default_factory=dict)
    loss: EpochLoss = field(default_factory=EpochLoss)
    reached: set[float] = field(default_factory=set)
    run_id: str | None = field(default_factory=new_run_id)
    newest_loss: float | None = field(default=None, compare=False)
    trained_on: list[str] = field(default_factory=list)
    bounds: Bounds | None = None
    given: GivenRecord = field(default_factory=GivenRecord)

    def state_dict(self) -> dict[str, Any]:
        """Plain Python, which any checkpoint may hold."""
        return {
            "num_audits": self.num_audits,
            "last_step": self.last_step,
            "num_epochs": self.num_epochs,
            "headline": dict(self.headline),
            "loss_sum": float(self.loss.total),
            "loss_count": self.loss.count,
            "schedule": {"reached": sorted(self.reached)},
            "run_id": self.run_id,
            "trained_on": list(self.trained_on),
            "bounds": None if self.bounds is None else self.bounds.to_dict(),
            "given": self.given.state_dict(),
        }

    def take_epoch_loss(self, when: Schedule, processes: Processes) -> float | None:
        """Mean training loss of the epoch, where a level of it is waited for; the next one starts anew.

        Args:
            when: Which levels audits wait for.
            processes: All of which have a part of it.
        """
        if not when.waits_for_loss(self.reached):
            return None
        mean = self.loss.take_mean(processes)
        if mean is None:
            rank_zero_warn("at_train_loss: training_step returns no loss, so no audit will come of it; use at_epochs")
        self.newest_loss = mean
        return mean

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "History":
        """From :meth:`state_dict`."""
        return cls(
            state["num_audits"],
            state["last_step"],
            state["num_epochs"],
            dict(state["headline"]),
            EpochLoss(state["loss_sum"], state["loss_count"]),
            set(state["schedule"]["reached"]),
            state.get("run_id"),
            trained_on=list(state.get("trained_on") or ()),
            bounds=Bounds.of(state["bounds"]) if state.get("bounds") else None,
            given=GivenRecord.of(state.get("given")),
        )

"""Steps of a training that are watched in its course, after the first ones: the training may come to do otherwise."""

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.calls import Compared, FirstCalls
from lightning_memaudit.callback.first_batch import FirstBatch
from lightning_memaudit.callback.first_steps import FirstSteps
from lightning_memaudit.callback.history import History
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.later_batches import WINDOW, LaterBatches
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.callback.seen import Seen
from lightning_memaudit.callback.step_code import takes_iterator
from lightning_memaudit.callback.target_watch import TargetWatch
from lightning_memaudit.callback.telling import MEND_CALL, Refused, Telling
from lightning_memaudit.callback.watch_times import Watch, WatchTimes
from lightning_memaudit.measurement.processes import AuditInterrupted, AuditStopped


class LaterSteps(FirstSteps):
    """Looks at batches in a row as at the first ones; nothing of it ends the training.

    Args:
        caller: Calls the model as the audits do.
        found: What was read.
        seen: What the model sees of the images.
        telling: Says what is found, as of later batches.
        why: In passing no call is made again, and one batch that is as the audit has it is enough.

    >>> from torch import nn
    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.callback.model import ModelCall
    >>> from lightning_memaudit.measurement.processes import Processes
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> model = AutoencoderModule(nn.Identity())
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), model, ModelCall(), Processes())
    >>> found = Inspection()
    >>> later = LaterSteps(caller, found, None, Telling(found).later("in epoch 3"), Watch.BEFORE_AUDIT)
    >>> later.end(stepped=False), later.is_over
    (None, False)
    """

    _watch_of: type[FirstBatch] = LaterBatches

    def __init__(self, caller: Caller, found: Inspection, seen: Seen | None, telling: Telling, why: Watch) -> None:
        super().__init__(caller, found, seen, telling)
        self.why, self._left = why, WINDOW
        self._in_doubt = bool(found.doubts)
        self._compared = Compared(None, True) if why is Watch.IN_PASSING and not self._in_doubt else None
        self._waiting: FirstCalls | None = None

    def begin(self, batch: Any) -> None:
        """Look at a batch before ``training_step`` gets it."""
        self._left -= 1
        self._try(lambda: super(LaterSteps, self).begin(batch))

    def end(self, stepped: bool, batch: Any = None) -> None:
        """Compare what reached the model with what the audit gives it.

        Args:
            stepped: Whether a loss came of the batch; otherwise the step is over.
            batch: Once it is over.
        """
        self._try(lambda: super(LaterSteps, self).end(stepped, batch))
        if not stepped and not self.is_over and self._is_enough():
            self.conclude()

    def _is_enough(self) -> bool:
        shown = self._first.shown if isinstance(self._first, LaterBatches) else []
        is_passed = self.why is Watch.IN_PASSING and bool(shown) and shown[-1].kind == "same"
        return self._left <= 0 or (not self._in_doubt and (is_passed or bool(self.found.doubts)))

    def conclude(self) -> None:
        """Tell what the batches have shown so far, and stop watching."""
        if isinstance(self._first, LaterBatches):
            self._try(self._first.conclude)
        self._try(self.give_again)
        self._try(self._compare_waiting)
        self._stop()

    def _step_after(self) -> None:
        pass  # what all the batches in a row show says more

    def _stop(self) -> None:
        self.close()
        self._is_watching, self._first, self._batch, self._kept_steps = False, None, None, 0
        self._copy = self._again = None

    def _goes_on(self, is_seen: bool) -> bool:
        return True  # until it is concluded

    def _compare_calls(self, calls: FirstCalls) -> Compared:
        if self._in_doubt:
            self._waiting = calls
            return Compared(None, True)
        self._compared = self._compared or super()._compare_calls(calls)
        return self._compared

    def _compare_waiting(self) -> None:
        """Where a doubt of the images is no more, the calls have not been compared yet."""
        if self._in_doubt and not self.found.doubts and self._first is not None and self._waiting is not None:
            compared = super()._compare_calls(self._waiting)
            words = None if compared.alike else self._first.beside or compared.words
            if words is not None:
                self.telling.doubt(words, MEND_CALL)

    def _try(self, look: Callable[[], None]) -> None:
        """Whatever goes wrong in looking stops it; only what concerns all processes stops the training too."""
        try:
            look()
        except (Refused, AuditInterrupted):
            self._stop()
        except AuditStopped:
            raise
        except Exception as error:
            self._stop()
            why = " ".join(str(error).split())
            self.telling.nothing_compared(f"looking at a batch fails ({type(error).__name__}: {why})")


class WatchedSteps:
    """All steps of a training that are watched: the first ones, and some in its course.

    Args:
        caller: Calls the model as the audits do.
        found: What was read.
        seen: What the model sees of the images.

    >>> from lightning.pytorch import Trainer
    >>> from lightning_memaudit.callback.model import ModelCall
    >>> from lightning_memaudit.measurement.processes import Processes
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> model = AutoencoderModule(nn.Identity())
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), model, ModelCall(), Processes())
    >>> WatchedSteps(caller, Inspection(), None).end(stepped=False)  # nothing has begun
    """

    def __init__(self, caller: Caller, found: Inspection, seen: Seen | None) -> None:
        self.caller, self.found, self.seen = caller, found, seen
        self.telling = Telling(found)
        self._first = FirstSteps(caller, found, seen, self.telling)
        self._target = TargetWatch(self._first)
        self._later: LaterSteps | None = None
        self._times = WatchTimes()
        self._compiled, self._is_stopped = 0, False

    def begin(self, batch: Any, batch_idx: int, when: Schedule, history: History) -> None:
        """Look at a batch before ``training_step`` gets it, if it is one to be watched.

        Args:
            batch: The batch.
            batch_idx: Its place in the epoch, from 0.
            when: The audits.
            history: What was audited.

        Raises:
            ValueError: The first batch holds other images, or the same in another range, than are audited.
        """
        self._target.begin(batch, None if takes_iterator(self.caller.pl_module) else self.reconstructing())
        why = self._times.due(self.caller.trainer, when, history, batch_idx)
        if not self._first.is_over:
            self._first.begin(batch)
            return
        if self._later is None and why and not (self._is_stopped or self.telling.is_settled):
            self._compiled = times_compiled()
            telling = self.telling.later(f"in epoch {self.caller.trainer.current_epoch}")
            self._later = LaterSteps(self.caller, self.found, self.seen, telling, why)
        if self._later is not None:
            self._later.begin(batch)

    def end(self, stepped: bool, batch: Any = None) -> None:
        """Compare what reached the model with what the audit gives it.

        Args:
            stepped: Whether a loss came of the batch; otherwise the step is over.
            batch: Once it is over.

        Raises:
            ValueError: That is something else on the first batch.
        """
        if not stepped:
            self._target.end()
        if self._later is not None:
            self._later.end(stepped, batch)
            if self._later.is_over:
                self._later = None
                self._look_at_compilation()
        else:
            self._first.end(stepped, batch)

    def _look_at_compilation(self) -> None:
        """Stop where to watch makes functions be compiled anew, which takes time, and is done a few times at most."""
        if times_compiled() > self._compiled:
            self._is_stopped = True
            when = f"after epoch {self.caller.trainer.current_epoch}"
            self.telling.later(when).nothing_compared("functions would be compiled anew each time")

    def reconstructing(self) -> nn.Module | None:
        """The layer from which what becomes of a batch's images comes; None where that is not known."""
        name, module = self._first.reconstructs, self.caller.pl_module
        # What is compiled would be compiled anew for what watches it.
        return None if name is None or times_compiled() else module.get_submodule(name)

    def conclude(self) -> None:
        """Tell what was seen so far, before an audit."""
        self._first.give_again()
        if self._later is not None:
            self._later.conclude()
            self._later = None

    def close(self) -> None:
        """Stop watching."""
        self._target.close()
        self._first.close()
        if self._later is not None:
            self._later.close()


def times_compiled() -> int:
    """How often something was compiled in this process; hooks on layers that a compiled function calls add to it.

    >>> times_compiled() >= 0
    True
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["frames"]["total"])

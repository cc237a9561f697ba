"""Several processes share one audit: who audits what, how results meet, and how a hang becomes an error.

Control messages travel in a process group of their own, over gloo and with a time limit: they neither disturb the
training's collectives nor wait for ever for a process that is gone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class AuditStopped(RuntimeError):
    """The audit must end at once. Other errors end the work on some images, which a plan may count as failed.

    >>> from lightning_memaudit import audit
    >>> def autoencoder(images):
    ...     raise AuditStopped("enough")
    >>> audit(autoencoder, members=torch.rand(2, 1, 8, 8))  # another error would come back as a ValueError with advice
    Traceback (most recent call last):
    lightning_memaudit.measurement.processes.AuditStopped: enough
    """


class AuditInterrupted(AuditStopped):
    """The run was asked to end, as by SIGTERM, while an audit was running.

    >>> def work():
    ...     raise AuditInterrupted("SIGTERM")
    >>> try:
    ...     Processes().share(work)
    ... except AuditStopped as stopped:
    ...     print(stopped)
    SIGTERM
    """


class ProcessesLost(AuditStopped):
    """The processes no longer answer each other: the training cannot go on either, so this is never just a warning.

    >>> def work():
    ...     raise ProcessesLost("no answer within 1800 s")
    >>> told = []
    >>> try:
    ...     Processes(finish=lambda: told.append("done")).share(work)
    ... except AuditStopped as stopped:
    ...     print(stopped, told)  # after other errors the others would be told; here nobody is left to tell
    no answer within 1800 s []
    """


@dataclass(frozen=True)
class Processes:
    """This process among those that share an audit; the default is a single process.

    Attributes:
        rank: Which share of the images is this process's, counted from 0.
        num_shares: Into how many shares the images are divided. Processes that hold parts of one copy of the model
            (tensor parallel) have the same share.
        group: The process group for control messages; None for a single process.
        timeout: Seconds that processes wait for each other.
        finish: Called when this process has done its part of a shared work, before the parts are exchanged.

    >>> alone = Processes()
    >>> alone.share(lambda: "measured"), alone.gather("mine"), alone.any(False)
    (['measured'], [(0, 'mine')], False)
    """

    rank: int = 0
    num_shares: int = 1
    group: Any = None
    timeout: float = 1800.0
    finish: Callable[[], None] = lambda: None

    @classmethod
    def connect(cls, rank: int, num_shares: int, timeout: float) -> "Processes":
        """Join all processes that torch.distributed knows; every one of them must call this."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls(rank, num_shares, None, timeout)
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        return cls(rank, num_shares, group, timeout)

    def disconnect(self) -> None:
        """Give the process group back."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)

    def gather(self, value: object) -> list[tuple[int, Any]]:
        """The share and the object of every process, in the order of the processes; all of them get it.

        Raises:
            ProcessesLost: Another process died, or did not come here in time.
        """
        mine = (self.rank, value)
        if self.group is None:
            return [mine]
        gathered: list[Any] = [None] * dist.get_world_size(self.group)
        self._together(lambda: dist.all_gather_object(gathered, mine, group=self.group))
        return gathered

    def share(self, work: Callable[[], Result]) -> list[Result]:
        """Do ``work`` in every process and return every share's result, in order, in all of them.

        When it fails in one process it fails in all, after all have come to know: none waits for another in vain.

        Raises:
            Exception: This process's own error.
            RuntimeError: An error of another process.
            ProcessesLost: Another process died, or did not come here in time.
        """
        error: Exception | None = None
        result: Any = None
        try:
            result = work()
        except ProcessesLost:
            raise
        except Exception as caught:
            error = caught
        self.finish()
        gathered = self.gather((result, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        shares: dict[int, Result] = {}
        for process, (share, (part, message)) in enumerate(gathered):
            if message is not None:
                kind = AuditInterrupted if message.startswith(AuditInterrupted.__name__) else RuntimeError
                raise kind(f"in process {process} of {len(gathered)}: {message}")
            shares.setdefault(share, part)
        return [shares[share] for share in sorted(shares)]

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process."""
        if self.group is None:
            return mine
        flag = torch.tensor(int(mine))
        self._together(lambda: dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group))
        return bool(flag)

    def _together(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:  # of torch.distributed: a closed connection, or the time is over
            rank, size = dist.get_rank(), dist.get_world_size()
            raise ProcessesLost(
                f"memorization audit: process {rank} of {size} got no answer from the others within {self.timeout:g} "
                "s: one of them has died or hangs, see its output; if it was only slow, pass a longer process_timeout"
            ) from error


class Lockstep:
    """Calls a model whose weights are spread over the processes: each call needs the others to call it too.

    Processes have different images and stop iterating at different times. Each call is announced; a process that has
    nothing left to ask keeps answering, in :meth:`finish`, with its last input until nobody asks any more. So every
    process must have called once before one may have nothing to ask.

    Args:
        call: The model's forward pass.
        processes: Who takes part.

    >>> from types import SimpleNamespace
    >>> others_call, batch_sizes = iter([True, False]), []  # after this process is done: one more call by another
    >>> processes = SimpleNamespace(any=lambda mine: mine or next(others_call))
    >>> model = Lockstep(lambda images: batch_sizes.append(len(images)), processes)
    >>> model(torch.rand(4, 1, 8, 8))
    >>> model.finish()
    >>> batch_sizes  # the call of its own, then one image to answer the other's
    [4, 1]
    """

    def __init__(self, call: Callable[[Tensor], Any], processes: Processes) -> None:
        self.call = call
        self.processes = processes
        self._answer = torch.empty(0)

    def __call__(self, images: Tensor) -> Any:
        """Call the model, together with all other processes."""
        self._answer = images[:1]
        self.processes.any(True)
        return self.call(images)

    def finish(self) -> None:
        """Answer the other processes until all have finished."""
        while self.processes.any(False):
            self.call(self._answer)

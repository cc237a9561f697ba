"""Several processes share one audit: who audits what, how results meet, and how a hang becomes an error.

Control messages travel in a process group of their own, over gloo and with a time limit: they neither disturb the
training's collectives nor wait for ever for a process that is gone. Why a process stops is also left on a board, which
the others look at while they work and while they wait: they need not finish their part to learn of it.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from lightning_memaudit.measurement.board import Board, Notice
from lightning_memaudit.measurement.held_signal import HeldSignal

Result = TypeVar("Result")

PERIOD = 1.0
"""Seconds between two looks at the board."""


class AuditStopped(Exception):
    """The audit must end at once. Other errors end the work on some images, which a plan may count as failed.

    No RuntimeError: a cause that is passed on may read like an error after which others try again, with less memory.

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


class StoppedElsewhere(AuditStopped):
    """Another process has failed, or was asked to end.

    Attributes:
        notice: Which one, and why.

    >>> raise StoppedElsewhere(Notice(1, 2, "RuntimeError: cannot be read"))
    Traceback (most recent call last):
    lightning_memaudit.measurement.processes.StoppedElsewhere: in process 1 of 2: RuntimeError: cannot be read
    """

    def __init__(self, notice: Notice) -> None:
        super().__init__(str(notice))
        self.notice = notice


def describe(error: BaseException) -> str:
    """An error in one line, with its class."""
    return f"{type(error).__name__}: {error}"


def nothing() -> None:
    """Do nothing; unlike a lambda it can be pickled."""


@dataclass
class _Work:
    """The shared work that is going on; the copies of one ``Processes`` have it in common."""

    number: int = 0
    going_on: bool = False
    stopping: bool = False
    notice: Notice | None = None
    looked: float = float("-inf")
    holding: bool = False
    sigterm: HeldSignal = field(default_factory=HeldSignal)


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
        board: Where processes leave notices for each other; None for a single process.

    >>> alone = Processes()
    >>> alone.share(lambda: "measured"), alone.gather("mine"), alone.any(False)
    (['measured'], [(0, 'mine')], False)
    """

    rank: int = 0
    num_shares: int = 1
    group: Any = None
    timeout: float = 1800.0
    finish: Callable[[], None] = nothing
    board: Board | None = None
    _work: _Work = field(default_factory=_Work, repr=False, compare=False)

    @classmethod
    def connect(cls, rank: int, num_shares: int, timeout: float) -> "Processes":
        """Join all processes that torch.distributed knows; every one of them must call this."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls(rank, num_shares, None, timeout)
        group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        name = [f"lightning_memaudit/{uuid.uuid4().hex}"]
        dist.broadcast_object_list(name, src=0, group=group)
        board = Board(dist.distributed_c10d._get_default_store(), name[0], dist.get_rank(), dist.get_world_size())
        return cls(rank, num_shares, group, timeout, board=board)

    def disconnect(self) -> None:
        """Give the process group back."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)

    # Work that all do together

    def gather(self, value: object) -> list[tuple[int, Any]]:
        """The share and the object of every process, in the order of the processes; all of them get it.

        Raises:
            ProcessesLost: Another process died, or did not come here in time.
        """
        mine = (self.rank, value)
        if self.group is None:
            return [mine]
        self.most(0)  # may be a long wait; what follows it is a short one
        gathered: list[Any] = [None] * dist.get_world_size(self.group)
        try:
            dist.all_gather_object(gathered, mine, group=self.group)
        except RuntimeError as error:
            raise self.lost(error) from error
        return gathered

    def share(self, work: Callable[[], Result]) -> list[Result]:
        """Do ``work`` in every process and return every share's result, in order, in all of them.

        When it fails in one process it fails in all: the others stop at their next :meth:`check`, or when they have
        done their part. None waits for another in vain.

        Raises:
            Exception: This process's own error.
            RuntimeError: An error of another process.
            AuditInterrupted: SIGTERM came to any process.
            ProcessesLost: Another process died, or did not come here in time.
        """
        with self.holding_sigterm():
            return self._share(work)

    def _share(self, work: Callable[[], Result]) -> list[Result]:
        state = self._work
        state.number += 1
        state.going_on, state.stopping, state.notice = True, False, None
        error: Exception | None = None
        result: Any = None
        try:
            result = work()
        except ProcessesLost:
            raise
        except StoppedElsewhere:
            pass
        except Exception as caught:
            error = caught
            self.announce(describe(error))
        self.finish()
        notice = state.notice if error is None else self._notice(describe(error))
        gathered = self.gather((result, notice))
        state.going_on, state.stopping, state.notice = False, False, None
        if error is not None:
            raise error
        self._raise_first([part[1] for _, part in gathered])
        shares: dict[int, Result] = {}
        for share, (part, _) in gathered:
            shares.setdefault(share, part)
        return [shares[share] for share in sorted(shares)]

    @staticmethod
    def _raise_first(notices: list[Notice | None]) -> None:
        """Raise the first error that a process had itself, or else what another one had told it."""
        own = [notice for process, notice in enumerate(notices) if notice is not None and notice.process == process]
        told = [notice for notice in notices if notice is not None]
        for notice in [*own, *told][:1]:
            kind = AuditInterrupted if notice.cause.startswith(AuditInterrupted.__name__) else RuntimeError
            raise kind(str(notice))

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.most(int(mine)))

    def most(self, mine: int, meanwhile: Callable[[], None] = nothing) -> int:
        """The largest number of all processes.

        Args:
            mine: This process's.
            meanwhile: Called about once a second while this process waits for the others.

        Raises:
            ProcessesLost: Another process died, did not come here in time, or says that it cannot go on.
        """
        if self.group is None:
            return mine
        number = torch.tensor(mine)
        try:
            exchange = dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group, async_op=True)
            while not _is_done(exchange, PERIOD / 2):
                self.must_stop()
                if self._is_time_to_look():
                    self._look()
                    meanwhile()
        except (RuntimeError, ConnectionError) as error:  # a closed connection, or the time is over
            raise self.lost(error) from error
        return int(number)

    # Telling each other

    def must_stop(self) -> bool:
        """Whether the work that is going on must end; a SIGTERM that came here is told to the others."""
        if self._work.sigterm.received and not self._work.stopping:
            self.announce(describe(AuditInterrupted("SIGTERM")))
        return self._work.stopping

    def announce(self, cause: str) -> None:
        """Tell the others that the work that is going on must end, and why."""
        self._work.stopping = True
        if self.board is not None:
            self.board.post(self._subject, self.board.notice(cause))

    def check(self) -> None:
        """Raise if the work that is going on must end; looks at the board at most once a second.

        Raises:
            AuditInterrupted: SIGTERM came to this process.
            StoppedElsewhere: Another process has failed, or was asked to end.
            ProcessesLost: The processes cannot go on together.
        """
        if self._work.sigterm.received:
            raise AuditInterrupted("SIGTERM")
        if self.board is None:
            return
        if self._work.notice is None and self._is_time_to_look():
            try:
                self._look()
            except ConnectionError as error:
                raise self.lost(error) from error
        if self._work.notice is not None:
            raise StoppedElsewhere(self._work.notice)

    def stop(self) -> NoReturn:
        """End the work that is going on, as another process has asked.

        Raises:
            AuditStopped: With the cause, where it can be known.
        """
        self._work.looked = float("-inf")
        self.check()
        raise AuditStopped("another process has asked all to stop, see its output")

    def _is_time_to_look(self) -> bool:
        return time.monotonic() - self._work.looked >= PERIOD

    def _look(self) -> None:
        self._work.looked = time.monotonic()
        self.raise_if_lost()
        if self.board is None or not self._work.going_on or self._work.notice is not None:
            return
        notice = self.board.read(self._subject)
        if notice is not None and notice.process != self.board.process:
            self._work.notice, self._work.stopping = notice, True

    @property
    def _subject(self) -> str:
        return f"work {self._work.number}"

    def _notice(self, cause: str) -> Notice:
        return Notice(0, 1, cause) if self.board is None else self.board.notice(cause)

    # The end

    def raise_if_lost(self) -> None:
        """Raise ProcessesLost if another process has said that they cannot go on together."""
        notice = None if self.board is None else self.board.read_lost()
        if notice is not None:
            raise ProcessesLost(f"memorization audit: {notice}")

    def lost(self, error: Exception) -> "ProcessesLost":
        """What to raise when another process is gone: its own cause, where it has left one."""
        try:
            notice = None if self.board is None else self.board.read_lost()
        except ConnectionError:
            notice = None
        if notice is not None:
            return ProcessesLost(f"memorization audit: {notice}")
        message = f"process {dist.get_rank()} of {dist.get_world_size()} got no answer from the others"
        if "Timed out" in str(error):
            message += (
                f" within {self.timeout:g} s: one of them has died or hangs, see its output; if it was only slow, pass "
                "a longer process_timeout"
            )
        else:
            message += f": one of them has died, see its output ({describe(error)})"
        if self.board is not None:
            self.board.post_lost(self.board.notice(message))
        return ProcessesLost(f"memorization audit: {message}")

    def give_up(self, notice: Notice, error: Exception | None = None, patience: float = 3.0) -> NoReturn:
        """End this process, and tell the others why: they cannot go on without it.

        Args:
            notice: What happened, and where.
            error: What is raised is caused by it.
            patience: Seconds that this process stays until the others have read the notice; it may hold the store.

        Raises:
            ProcessesLost: Always.
        """
        if self.board is not None:
            notice = self.board.post_lost(notice, patience)
        raise ProcessesLost(f"memorization audit: {notice}") from error

    @contextmanager
    def holding_sigterm(self) -> Iterator[None]:
        """Within: SIGTERM to any process is noted, see :meth:`check`. Afterwards all act on it together.

        Every process must enter this; it may be entered again within.
        """
        state = self._work
        if self.group is None or state.holding:
            yield
            return
        together = True
        state.holding = True
        state.sigterm.hold()
        try:
            yield
        except BaseException as error:
            together = isinstance(error, Exception) and not isinstance(error, ProcessesLost)
            raise
        finally:
            try:
                if together and self.any(state.sigterm.received):
                    # As if it had come to all of them. The handler of the first may send it to the others, to whom it
                    # must have come before they stop to note it.
                    state.sigterm.act()
                    self.any(False)
            finally:
                state.sigterm.release()
                state.holding = False


def _is_done(exchange: Any, seconds: float) -> bool:
    """Wait for a collective no longer than so many seconds, in between which Python can handle signals.

    Raises:
        RuntimeError: The collective failed.
    """
    try:
        exchange.wait(timedelta(seconds=seconds))
    except RuntimeError:
        if not exchange.is_completed():
            return False
        exchange.wait()  # failed, or was completed just now
    return True

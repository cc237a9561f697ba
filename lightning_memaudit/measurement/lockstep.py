"""Calls of a model whose weights are spread over the processes, so that each needs the others to make it too."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_memaudit.measurement.board import Notice
from lightning_memaudit.measurement.processes import AuditStopped, Processes, describe
from lightning_memaudit.measurement.watchdog import Watchdog, end_process

DONE, CALL, STOP = 0, 1, 2
"""What a process announces before each call; what happens is the largest of all announcements."""

PATIENCE = 5.0
"""Seconds, beside twice the longest call so far, that a call which failed here may take to fail in the others."""


class Lockstep:
    """Calls a model whose weights are spread over the processes: each call needs the others to call it too.

    Processes have different images and stop iterating at different times. Each call is announced; a process that has
    nothing left to ask keeps answering, in :meth:`finish`, with its last input until nobody asks any more. So every
    process must have called once before one may have nothing to ask.

    A process that fails between two calls announces that instead, and all stop before the next call. When the call
    itself fails, the others may wait for this process within theirs. If it failed in every process after the same
    number of collectives they are still in step, and it is an error like any other. Otherwise they have lost each
    other: the cause is passed on, and every process ends with it.

    Args:
        call: The model's forward pass, (B, C, *spatial) to the same shape.
        processes: Who takes part.

    >>> from types import SimpleNamespace
    >>> others_call, batch_sizes = iter([CALL, CALL, DONE]), []  # after this process is done: one more call by another
    >>> processes = SimpleNamespace(
    ...     most=lambda mine, meanwhile: max(mine, next(others_call)), must_stop=lambda: False, group=None
    ... )
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
        self._stopped = False
        self._number = 0
        self._failed = 0
        self._longest = 0.0
        self._watchdog: Watchdog | None = None
        if processes.group is not None:
            self._watchdog = Watchdog(self._read_lost, processes.timeout, self._explain, self._end)

    def __call__(self, images: Tensor) -> Any:
        """Call the model, together with all other processes.

        Raises:
            AuditStopped: Another process has failed or was asked to end.
            ProcessesLost: The call failed here or in another process, but not alike in all.
        """
        # A batch of a conditional model is answered whole.
        self._answer = images[:1] if isinstance(images, Tensor) else images
        if self._stopped or self._announce(CALL) == STOP:
            self.processes.stop()
        return self._call(images)

    def finish(self) -> None:
        """Answer the other processes until all have finished, or until this or another one stops."""
        while not self._stopped and self._announce(STOP if self.processes.must_stop() else DONE) == CALL:
            try:
                self._call(self._answer)
            except AuditStopped:
                raise
            except Exception:  # in step with the others, who report it; nobody needs this result
                continue
        self._stopped = False
        if self._watchdog is not None:
            self._watchdog.rest()

    def _announce(self, mine: int) -> int:
        together = self.processes.most(mine, self._check_last_call)
        self._stopped = together == STOP
        return together

    def _check_last_call(self) -> None:
        """While this process waits for the next announcement: has the call that it completed failed in another?"""
        board = self.processes.board
        if board is not None and self._failed < self._number:
            notice = board.read(f"call {self._number} failed")
            if notice is not None:
                self.processes.give_up(notice)

    @torch.no_grad()  # a backward pass would need the others too, who may not make it
    def _call(self, images: Tensor) -> Any:
        if self._watchdog is None:
            return self.call(images)
        self._number += 1
        before, began = collectives_begun(), time.monotonic()
        try:
            with self._watchdog.call():
                result = self.call(images)
        except Exception as error:
            self._failed = self._number
            self._check_in_step(error, collectives_begun() - before)
            raise
        self._longest = max(self._longest, time.monotonic() - began)
        return result

    def _check_in_step(self, error: Exception, num_collectives: int) -> None:
        """After a call that failed here: return if it failed in all processes, after as many collectives."""
        processes, board = self.processes, self.processes.board
        if _is_of_connection(error) or board is None:
            raise processes.lost(error) from error
        mine = board.notice(describe(error))
        subject = f"call {self._number} failed"
        board.post(f"{subject} in {board.process}", board.notice(json.dumps(num_collectives)))
        board.post(subject, mine)
        subjects = [f"{subject} in {process}" for process in range(board.num_processes)]
        deadline = time.monotonic() + min(processes.timeout, PATIENCE + 2 * self._longest)
        try:
            while not (failed := board.wait_for(subjects, 0.5)) and time.monotonic() < deadline:
                processes.raise_if_lost()
            places = {notice.cause for one in subjects if (notice := board.read(one))} if failed else set()
        except ConnectionError:
            raise processes.lost(error) from error
        if len(places) != 1:
            processes.give_up(mine, error)

    def _read_lost(self) -> Notice | None:
        return None if self.processes.board is None else self.processes.board.read_lost()

    def _explain(self, seconds: float) -> str:
        return (
            f"process {dist.get_rank()} of {dist.get_world_size()} has waited {seconds:.0f} s within a call of the "
            "model, which needs the others: one of them has died or hangs, see its output; if it was only slow, pass "
            "a longer process_timeout"
        )

    def _end(self, message: str) -> None:
        """What the watchdog does: tell the others, unless one of them has told this process, and end it."""
        board, watchdog = self.processes.board, self._watchdog
        if board is not None and watchdog is not None and watchdog.notice is None:
            notice = board.notice(message)
            # In a thread: the store may be as stuck as the call is.
            telling = threading.Thread(target=board.post_lost, args=(notice,), daemon=True)
            telling.start()
            telling.join(2.0)
        end_process(message)


def collectives_begun() -> int:
    """How many collectives this process has begun since it started, in all process groups together."""
    count = 0
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    for group in groups:
        try:
            count += group._get_sequence_number_for_group()
        except RuntimeError:  # a backend that does not count, or has not begun
            continue
    return count


def _is_of_connection(error: Exception) -> bool:
    """Whether a collective failed because another process is gone; gloo has no class of its own for that."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    )

"""Ends a process that is stuck where no exception can reach it."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_memaudit.measurement.board import Notice


class Watchdog:
    """Looks once a second after calls which other processes take part in, and which may therefore never return.

    A collective of a process that is gone, or stuck, blocks in native code. What then remains is to say why, and to
    end this process too.

    Args:
        look: The notice that the processes have lost each other, if there is one. A ``ConnectionError`` says so, too.
        limit: Seconds that one call may take.
        explain: Makes a message of the seconds that a call has taken.
        end: Ends the process with a message.
        patience: Seconds that a call may go on once the processes are known to have lost each other: most return by
            themselves, with an error, when the connections of the process that ends are closed.

    Attributes:
        notice: What was found by looking.

    >>> told = []
    >>> watchdog = Watchdog(lambda: None, 0.1, lambda seconds: f"stuck for more than {seconds:.0f} s", told.append)
    >>> with watchdog.call():
    ...     while not told:
    ...         time.sleep(0.1)
    >>> told
    ['stuck for more than 1 s']
    >>> watchdog.rest()
    """

    def __init__(
        self,
        look: Callable[[], Notice | None],
        limit: float,
        explain: Callable[[float], str],
        end: Callable[[str], None] | None = None,
        patience: float = 20.0,
    ) -> None:
        self.look = look
        self.limit = limit
        self.explain = explain
        self.end = end or end_process
        self.patience = patience
        self.notice: Notice | None = None
        self._since: float | None = None
        self._resting = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call."""
        if self._thread is None:
            self._resting.clear()
            self._thread = threading.Thread(target=self._watch, name="memorization audit watchdog", daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def rest(self) -> None:
        """Stop looking until the next call."""
        self._resting.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def _watch(self) -> None:
        while not self._resting.wait(1.0):
            since = self._since
            if since is None:
                continue
            message = self._complaint(since)
            if message is not None and self._since == since:
                self.end(message)
                return

    def _complaint(self, since: float) -> str | None:
        seconds = time.monotonic() - since
        if seconds > self.limit:
            return self.explain(seconds)
        gone = None
        try:
            self.notice = self.notice or self.look()
        except ConnectionError as error:
            gone = str(error)
        lost = gone if self.notice is None else str(self.notice)
        return lost if lost is not None and seconds > self.patience else None


def end_process(message: str) -> None:
    """Print a message and end this process at once, with exit code 1."""
    print(f"memorization audit: {message}", file=sys.stderr, flush=True)
    os._exit(1)

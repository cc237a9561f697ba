"""Short messages between the processes of a run that need nobody to wait for them."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOST = "lost"

LONGEST = 2000
"""Characters of a cause that are passed on; messages of compilers can be very long."""


@dataclass(frozen=True)
class Notice:
    """What one process tells the others.

    Attributes:
        process: Which one, counted from 0.
        num_processes: Of how many.
        cause: What happened there.

    >>> print(Notice(1, 2, "RuntimeError: cannot be read"))
    in process 1 of 2: RuntimeError: cannot be read
    """

    process: int
    num_processes: int
    cause: str

    def __str__(self) -> str:
        """The cause, and where it happened."""
        return f"in process {self.process} of {self.num_processes}: {self.cause}"


class Board:
    """Where processes leave notices for each other: keys of the key-value store through which they first met.

    Unlike a collective, reading it needs no other process, not even one that is alive.

    Args:
        store: A ``torch.distributed.Store``.
        name: Beginning of all keys; the same in all processes, and of no other board in this store.
        process: This process, counted from 0.
        num_processes: How many there are.

    >>> import torch.distributed as dist
    >>> store = dist.HashStore()
    >>> first, second = (Board(store, "run", process, 2) for process in (0, 1))
    >>> first.read("ill") is None
    True
    >>> second.post("ill", second.notice("out of memory"))
    >>> print(first.read("ill"))
    in process 1 of 2: out of memory
    """

    def __init__(self, store: Any, name: str, process: int, num_processes: int) -> None:
        self.store = store
        self.name = name
        self.process = process
        self.num_processes = num_processes
        self._lost: Notice | None = None  # once read it is known, also when the store is gone

    def notice(self, cause: str) -> Notice:
        """A notice of this process."""
        return Notice(self.process, self.num_processes, cause[:LONGEST])

    def post(self, subject: str, notice: Notice) -> None:
        """Leave a notice, in place of an earlier one; a store that is gone has no readers, so that is no error."""
        try:
            self.store.set(self._key(subject), json.dumps(asdict(notice)))
        except (RuntimeError, ValueError):
            return

    def read(self, subject: str) -> Notice | None:
        """The notice, if there is one.

        Raises:
            ConnectionError: The store is gone, and so is the process that held it.
        """
        try:
            if not self.store.check([self._key(subject)]):
                return None
            return Notice(**json.loads(self.store.get(self._key(subject))))
        except RuntimeError as error:
            raise ConnectionError(f"the store of the run is gone: {error}") from error

    def wait_for(self, subjects: Sequence[str], seconds: float) -> bool:
        """Whether there is a notice on every subject, now or within so many seconds.

        Raises:
            ConnectionError: The store is gone, and so is the process that held it.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self.store.check([self._key(subject) for subject in subjects]):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
        except RuntimeError as error:
            raise ConnectionError(f"the store of the run is gone: {error}") from error
        return True

    def read_lost(self) -> Notice | None:
        """Why the processes cannot go on together, if they cannot; who posted it sees that it was read.

        Raises:
            ConnectionError: The store is gone, and so is the process that held it.
        """
        if self._lost is None:
            self._lost = self.read(LOST)
            if self._lost is not None:
                self.post(f"{LOST} seen by {self.process}", self._lost)
        return self._lost

    def post_lost(self, notice: Notice, patience: float = 0.0) -> Notice:
        """Tell the others that the processes cannot go on together, unless that was told before.

        Args:
            notice: What happened, and where.
            patience: Seconds to wait until all others have read it: this process may hold the store.

        Returns:
            What was told first.
        """
        others = set(range(self.num_processes)) - {self.process}
        try:
            first = self.read(LOST)
            if first is None:
                self.post(LOST, notice)
                self.wait_for([f"{LOST} seen by {other}" for other in others], patience)
        except ConnectionError:
            return notice
        return first or notice

    def _key(self, subject: str) -> str:
        return f"{self.name}/{subject}"

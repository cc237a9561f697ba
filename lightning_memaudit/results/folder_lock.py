"""One run at a time in a results folder."""

import os
import socket
import warnings
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""The file in a results folder that is locked. It stays: whoever removed it would let two others in at once."""


class FolderLock:
    """Keeps a second run out of a results folder, from :meth:`acquire` to :meth:`release` or the end of the process.

    The operating system holds the lock, so that a killed process leaves none behind, and forked processes have no part
    in it. Where the file system knows no locks there is a warning, and no protection.

    Args:
        folder: The results folder, which must be there.

    >>> folder = Path("memaudit")
    >>> folder.mkdir(exist_ok=True)
    >>> first, second = FolderLock(folder), FolderLock(folder)
    >>> first.acquire()
    >>> second.acquire()
    Traceback (most recent call last):
    PermissionError: results folder memaudit is in use by process 17 on host, since ...: pass another dirpath or name
    >>> first.release()
    >>> second.acquire()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # No lock by mere existence of a file, where there is no other: a killed process would leave it behind.
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False, fallback_to_soft=False)

    def acquire(self) -> None:
        """Take the lock, or say who has it.

        Raises:
            PermissionError: Another run has it, in this process or another, on this machine or another.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise PermissionError(
                f"results folder {self.folder} is in use by {self._holder()}: pass another dirpath or name, or wait "
                "until that run is over"
            ) from None
        except (OSError, NotImplementedError) as error:
            warnings.warn(
                f"results folder {self.folder} cannot be locked ({error}): see to it that no other run writes to it",
                stacklevel=2,
            )
            return
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with suppress(OSError):
            (self.folder / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")

    def release(self) -> None:
        """Give the lock back; nothing where it is not held."""
        self._lock.release()

    def _holder(self) -> str:
        try:
            return (self.folder / LOCK).read_text(errors="replace").strip() or "another run"
        except OSError:
            return "another run"

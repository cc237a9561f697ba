"""Where open files are read: a process that is forked from this one moves on in them for both."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DESCRIPTORS = "/dev/fd"
"""Lists the open files of this process, where the system has it; elsewhere no process is forked."""


@contextmanager
def positions_kept() -> Iterator[None]:
    """Put the positions of files that are open for reading back to where they were.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as made, open(made.name, "rb", buffering=0) as file:
    ...     _ = made.write(b"abc"), made.flush()
    ...     with positions_kept():
    ...         _ = file.read(2)
    ...     file.read()
    b'abc'
    """
    before = _positions()
    try:
        yield
    finally:
        for descriptor, (file, position) in _positions().items():
            if before.get(descriptor, (None, position))[0] == file and before[descriptor][1] != position:
                os.lseek(descriptor, before[descriptor][1], os.SEEK_SET)


def _positions() -> dict[int, tuple[tuple[int, int], int]]:
    """By descriptor of each regular file that is only read: which file it is, and how far it was read."""
    found = {}
    with suppress(OSError, ImportError):
        import fcntl

        for entry in list(Path(DESCRIPTORS).iterdir()):
            with suppress(OSError, ValueError):  # one that is not open any more, as that of the list itself
                descriptor = int(entry.name)
                about = os.fstat(descriptor)
                read_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
                if stat.S_ISREG(about.st_mode) and read_only:
                    position = os.lseek(descriptor, 0, os.SEEK_CUR)
                    found[descriptor] = ((about.st_dev, about.st_ino), position)
    return found

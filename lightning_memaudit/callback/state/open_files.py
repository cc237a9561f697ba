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
    """Put the positions of files that are open for reading back to where they were, unless they were written to.

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


def _positions() -> dict[int, tuple[tuple[int, ...], int]]:
    """By descriptor of each regular file that can be read: which file it is and its content, and how far it was read.

    Of one that can be written to as well, its size and the time of the last change tell whether it was.
    """
    found = {}
    with suppress(OSError, ImportError):
        import fcntl

        for entry in list(Path(DESCRIPTORS).iterdir()):
            with suppress(OSError, ValueError):  # one that is not open any more, as that of the list itself
                descriptor = int(entry.name)
                about = os.fstat(descriptor)
                access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
                if stat.S_ISREG(about.st_mode) and access != os.O_WRONLY:
                    position = os.lseek(descriptor, 0, os.SEEK_CUR)
                    content = (about.st_size, about.st_mtime_ns) if access == os.O_RDWR else ()
                    found[descriptor] = ((about.st_dev, about.st_ino, *content), position)
    return found

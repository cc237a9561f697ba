"""What processes share: a reading process would write to the memory of the run, unless it takes copies.

What a queue or a pipe holds has no copy: taking from it would take it from the run, so that this is an error there.
"""

import ctypes
import mmap
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.managers import BaseProxy, DictProxy, ListProxy
from multiprocessing.queues import Queue, SimpleQueue
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import SynchronizedBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DEEPEST, MOST_VISITED = 6, 10_000

MOST_COPIED = 2**30
"""Bytes of mapped memory behind which there is no file, as which it could be mapped again."""

MAPS = Path("/proc/self/maps")
"""Says of every mapping whether it is shared, and of which file it is, where the system has it."""


class TakesFromRunError(ValueError):
    """Reading an item would take something from the run that it cannot be given back.

    >>> raise TakesFromRunError("Queue.get")
    Traceback (most recent call last):
    lightning_memaudit.callback.state.shared_memory.TakesFromRunError: Queue.get
    """


def make_private(*owners: object) -> None:
    """Replace shared tensors, mapped memory and values of ``multiprocessing``, to which the owners lead, by copies.

    Taking from queues and pipes raises :class:`TakesFromRunError` from then on; what is put there goes nowhere. To be
    called in a process that must leave no trace in the others.

    Args:
        owners: Data sets, samplers, functions that collate.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> counter = SimpleNamespace(reads=torch.zeros(()).share_memory_())
    >>> make_private(counter)
    >>> counter.reads.is_shared()
    False
    """
    _guard_pipes()
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(owner, 0) for owner in owners]
    while waiting and len(seen) < MOST_VISITED:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEEPEST or isinstance(value, str | bytes | int | float | type | None):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            in_memory = value.layout is torch.strided and value.device.type == "cpu"
            if in_memory and value.is_shared():  # type: ignore[no-untyped-call]
                value.data = value.detach().clone()
        elif isinstance(value, SynchronizedBase):
            shared: Any = value
            with suppress(AttributeError, TypeError):
                shared._obj = type(shared._obj).from_buffer_copy(shared._obj)
        elif isinstance(value, Queue | SimpleQueue | Connection) or _is_queue_of_manager(value):
            _guard(value)
        elif isinstance(value, mmap.mmap):
            with suppress(OSError, ValueError, TypeError):
                _map_privately(value)
        elif isinstance(value, np.ndarray | memoryview):
            waiting.append((value.base if isinstance(value, np.ndarray) else value.obj, depth))
        elif isinstance(value, Mapping | list | tuple):
            if isinstance(value, dict | list):
                _replace_parts(value)
            parts = value.values() if isinstance(value, Mapping) else value
            waiting += [(part, depth + 1) for part in parts]
        else:
            if isinstance(value, SharedMemory):
                waiting.append((value.buf, depth))
            with suppress(TypeError):
                _replace_parts(vars(value))
                waiting += [(part, depth + 1) for part in vars(value).values()]
            for cell in getattr(value, "__closure__", None) or ():
                with suppress(ValueError):
                    waiting.append((cell.cell_contents, depth + 1))


def _replace_parts(parts: Any) -> None:
    """Copies in the place of what cannot be made private where it is: files in memory, and what a manager keeps."""
    for key, part in list(parts.items() if isinstance(parts, dict) else enumerate(parts)):
        with suppress(Exception):  # a manager may be gone
            if isinstance(part, np.memmap) and part.mode in ("r+", "w+"):
                parts[key] = _not_written_back(part)
            elif isinstance(part, DictProxy | ListProxy):
                parts[key] = part[:] if isinstance(part, ListProxy) else part.copy()


def _not_written_back(mapped: "np.memmap[Any, Any]") -> Any:
    """The same file in memory, whose changes stay there; a copy of what is only a part of it."""
    name, base = getattr(mapped, "filename", None), getattr(mapped, "base", None)
    if name is None or not isinstance(base, mmap.mmap):
        return np.array(mapped)
    mapped.flush()
    order: Any = "F" if mapped.flags.f_contiguous and not mapped.flags.c_contiguous else "C"
    return np.memmap(name, mapped.dtype, "c", mapped.offset, mapped.shape, order)


def _is_queue_of_manager(value: Any) -> bool:
    return isinstance(value, BaseProxy) and all(hasattr(value, name) for name in ("get", "put", "qsize"))


def _guard(value: Any) -> None:
    """Let nothing be taken from a queue or a connection in this process, and nothing be put there."""
    for name in ("get", "get_nowait", "recv", "recv_bytes", "recv_bytes_into"):
        if hasattr(value, name):
            setattr(value, name, partial(_refuse, f"{type(value).__name__}.{name}"))
    for name in ("put", "put_nowait", "send", "send_bytes", "task_done"):
        if hasattr(value, name):
            setattr(value, name, _do_nothing)


def _refuse(name: str, *_: Any, **__: Any) -> None:
    raise TakesFromRunError(name)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _guard_pipes() -> None:
    """Let ``os.read`` take nothing from the pipes that this process has been given by the run."""
    given = {entry for name in _open_descriptors() if (entry := _pipe(name)) is not None}
    read = os.read

    def guarded(descriptor: int, length: int, /) -> bytes:
        if _pipe(descriptor) in given:
            raise TakesFromRunError("os.read of a pipe")
        return read(descriptor, length)

    os.read = guarded


def _open_descriptors() -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - a list before any is closed
    return []


def _pipe(descriptor: int) -> tuple[int, int, int] | None:
    """Which pipe it is; None for anything else."""
    with suppress(OSError):
        about = os.fstat(descriptor)
        return (descriptor, about.st_dev, about.st_ino) if stat.S_ISFIFO(about.st_mode) else None
    return None


def _map_privately(mapped: mmap.mmap) -> None:
    """Let what is written to shared memory stay in this process, whoever holds views of it, at the same address."""
    size = len(mapped)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    found = next((line for line in MAPS.read_text().splitlines() if _holds(line, address)), None)
    if found is None or found.split()[1][3] != "s":
        return
    span, _, offset, _, inode, *path = found.split(maxsplit=5)
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed, protection = 0x10, mmap.PROT_READ | mmap.PROT_WRITE  # MAP_FIXED of Linux
    if path and Path(path[0]).exists() and Path(path[0]).stat().st_ino == int(inode):
        with Path(path[0]).open("rb") as file:
            begins = int(offset, 16) + address - int(span.split("-")[0], 16)
            system.mmap(address, size, protection, mmap.MAP_PRIVATE | fixed, file.fileno(), begins)
    elif size <= MOST_COPIED:
        content = mapped[:]
        system.mmap(address, size, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed, -1, 0)
        mapped[:] = content


def _holds(line: str, address: int) -> bool:
    """Whether a line of :data:`MAPS` is of the mapping at an address."""
    begin, end = (int(one, 16) for one in line.split(maxsplit=1)[0].split("-"))
    return begin <= address < end

"""What processes share: a reading process would write to the memory of the run, unless it takes copies."""

import mmap
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.managers import DictProxy, ListProxy
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
from torch import Tensor

DEEPEST, MOST_VISITED = 6, 10_000


def make_private(*owners: object) -> None:
    """Replace shared tensors, mapped files and values of ``multiprocessing``, to which the owners lead, by copies.

    To be called in a process that must leave no trace in the others.

    Args:
        owners: Data sets, samplers, functions that collate.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> counter = SimpleNamespace(reads=torch.zeros(()).share_memory_())
    >>> make_private(counter)
    >>> counter.reads.is_shared()
    False
    """
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(owner, 0) for owner in owners]
    while waiting and len(seen) < MOST_VISITED:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEEPEST or isinstance(value, str | bytes | int | float | type | None):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.device.type == "cpu" and value.is_shared():  # type: ignore[no-untyped-call]
                value.data = value.detach().clone()
        elif isinstance(value, SynchronizedBase):
            shared: Any = value
            with suppress(AttributeError, TypeError):
                shared._obj = type(shared._obj).from_buffer_copy(shared._obj)
        elif isinstance(value, Mapping | list | tuple):
            if isinstance(value, dict | list):
                _replace_parts(value)
            parts = value.values() if isinstance(value, Mapping) else value
            waiting += [(part, depth + 1) for part in parts]
        else:
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

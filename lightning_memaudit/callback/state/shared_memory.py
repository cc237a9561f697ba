"""What processes share: a reading process would write to the memory of the run, unless it takes copies."""

from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

from torch import Tensor

DEEPEST, MOST_VISITED = 6, 10_000


def make_private(*owners: object) -> None:
    """Replace shared tensors and values of ``multiprocessing``, to which the owners lead, by copies of their own.

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
        elif isinstance(value, Mapping):
            waiting += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]
        else:
            with suppress(TypeError):
                waiting += [(part, depth + 1) for part in vars(value).values()]
            for cell in getattr(value, "__closure__", None) or ():
                with suppress(ValueError):
                    waiting.append((cell.cell_contents, depth + 1))

"""What other processes share with this one: a reading process would write to it as well."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import torch
from torch import Tensor

DEEPEST, MOST_VISITED, MOST_BYTES = 6, 10_000, 2**26


@contextmanager
def preserved_shared_memory(*owners: object) -> Iterator[None]:
    """Put back shared tensors and values of ``multiprocessing`` that the attributes of data sets lead to.

    Args:
        owners: Data sets, samplers, functions that collate.

    >>> from types import SimpleNamespace
    >>> counter = SimpleNamespace(reads=torch.zeros(()).share_memory_())
    >>> with preserved_shared_memory(counter):
    ...     _ = counter.reads.add_(1)
    >>> counter.reads
    tensor(0.)
    """
    shared = _shared(owners)
    tensors = [(one, one.clone()) for one in shared if isinstance(one, Tensor)]
    values = [(one, bytes(memoryview(one).cast("B"))) for one in shared if not isinstance(one, Tensor)]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in tensors:
                tensor.copy_(before)
        for value, content in values:
            memoryview(value).cast("B")[:] = content


def _shared(owners: tuple[object, ...]) -> list[Any]:
    """Shared tensors and ctypes, each once; images in shared memory, which are large, are left out."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(owner, 0) for owner in owners]
    while waiting and len(seen) < MOST_VISITED:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEEPEST or isinstance(value, str | bytes | int | float | type | None):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            shared = value.device.type == "cpu" and value.is_shared()  # type: ignore[no-untyped-call]
            if shared and value.nbytes <= MOST_BYTES:
                found.append(value)
        elif isinstance(value, SynchronizedBase):
            found.append(value.get_obj())
        elif type(value).__module__ == "multiprocessing.sharedctypes" or hasattr(value, "_b_base_"):
            with suppress(TypeError):
                memoryview(value)
                found.append(value)
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
    return found

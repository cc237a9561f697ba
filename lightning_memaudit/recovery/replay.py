"""On a GPU: small kernels on fixed tensors, started together: one after the other takes longer than they do."""

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_allowed: ContextVar[bool] = ContextVar("replays_allowed", default=False)


@contextmanager
def replays() -> Iterator[None]:
    """Let work be replayed within.

    For a process that trains nothing: where a capture fails, what the device's random generator and its allocator keep
    for captures may stay behind, and the next step of a training would find it.
    """
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def replays_on(device: torch.device) -> bool:
    """Whether work on this device is replayed here and now."""
    return device.type == "cuda" and _allowed.get()


class Replay:
    """Work that is repeated on the same tensors; on a GPU as one CUDA graph from the second call on.

    The autoencoder is never part of it: what it does may change from call to call.

    Args:
        work: Reads and writes tensors that stay where they are, waits for nothing, and returns nothing.
        device: Where those are.

    >>> counter = torch.zeros(2)
    >>> count = Replay(lambda: counter.add_(1), counter.device)
    >>> for _ in range(3):
    ...     count()
    >>> counter.tolist()
    [3.0, 3.0]
    """

    def __init__(self, work: Callable[[], object], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._captures = replays_on(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work once."""
        self._calls += 1
        # The first call loads what the kernels need, which a graph may not.
        if self._calls == 2 and self._captures:
            try:
                self._graph = self._captured()
            except RuntimeError as error:  # an allocator or a driver that has no graphs: the work is the same without
                self._captures = False
                _allowed.set(False)
                warnings.warn(f"CUDA graphs are not used: {error}", stacklevel=2)
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The work as a graph; it is not done meanwhile."""
        graph = torch.cuda.CUDAGraph()
        stream, current = _stream(self._device, threading.get_ident()), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            # Other threads, such as one that pins memory for a data loader, go on with what they do.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._work()
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return graph


@functools.cache
def _stream(device: torch.device, thread: int) -> torch.cuda.Stream:
    """One for all graphs of a thread: libraries keep memory for every stream that they have seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

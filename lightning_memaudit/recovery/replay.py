"""On a GPU: small kernels on fixed tensors, started together: one after the other takes longer than they do."""

import functools
from collections.abc import Callable

import torch


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
        self._captures = device.type == "cuda"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work once."""
        self._calls += 1
        # The first call loads what the kernels need, which a graph may not.
        if self._calls == 2 and self._captures:
            try:
                self._graph = self._captured()
            except RuntimeError:  # an allocator or a driver that has no graphs: the work is the same without
                self._captures = False
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The work as a graph; it is not done meanwhile."""
        graph = torch.cuda.CUDAGraph()
        stream, current = _stream(self._device), torch.cuda.current_stream(self._device)
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
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs: libraries keep memory for every stream that they have seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

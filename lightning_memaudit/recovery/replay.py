"""On a GPU: small kernels on fixed tensors, started together: one after the other takes longer than they do."""

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
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work once."""
        self._calls += 1
        if self._calls == 1 or self._device.type != "cuda":
            self._work()
            return
        if self._graph is None:
            self._graph = self._captured()
        self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The work as a graph; it is not done meanwhile."""
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            # Other threads, such as one that pins memory for a data loader, go on with what they do.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return graph

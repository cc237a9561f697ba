"""The inpainter in a thread beside the forward passes: of large images it takes seconds, most of them outside Python.

A thread and not a process: the sparse solver lets other threads run, and no process has to be started in the middle of
a training.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from lightning_memaudit.measurement.degradations import Degraded
from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.methods.registry import Method, is_inpainter
from lightning_memaudit.recovery.types import concatenate
from lightning_memaudit.results.names import INPAINTER

LEAST_PIXELS = 96 * 96
"""Smaller images are inpainted in less time than it takes to hand them over."""


class Begun:
    """The inpainter, with some of its results on their way.

    Args:
        method: The inpainter itself, for other observations.
        results: By the address of the observations, what waits for their recovery.

    >>> from lightning_memaudit.recovery.methods.registry import METHODS
    >>> images, mask = torch.full((2, 1, 96, 96), 0.5), torch.eye(96).expand(2, 1, 96, 96)
    >>> with inpainting_beside({"biharmonic": METHODS["biharmonic"]()}, [Degraded(images * mask, mask)]) as methods:
    ...     recovery = methods["biharmonic"](torch.clone, images, mask)
    >>> recovery.image.shape
    torch.Size([2, 1, 96, 96])
    """

    needs_mask: ClassVar[bool] = True
    uses_autoencoder: ClassVar[bool] = False

    def __init__(self, method: Method, results: Mapping[int, Callable[[], Recovery]]) -> None:
        self._method = method
        self._results = results

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """What the inpainter makes of ``observed``, (B, C, *spatial), given ``mask``; waits where that is on its way.

        Raises:
            Exception: What the inpainter raised.
        """
        if observed.data_ptr() in self._results:
            return self._results[observed.data_ptr()]()
        return self._method(autoencoder, observed, mask)  # type: ignore[call-arg]


@contextmanager
def inpainting_beside(methods: Mapping[str, Method], degraded: Sequence[Degraded]) -> Iterator[Mapping[str, Method]]:
    """Let the inpainter begin while the other methods run, where there is a processor for it and images are large.

    At the end of the block what has not begun is dropped, and what has is waited for: one image at most. A method of
    another kind that goes by its name stays as it is.

    Args:
        methods: By name.
        degraded: Of every pattern the observations (B, C, *spatial) and true masks.

    Returns:
        The methods, with the inpainter replaced by one that waits for its results.
    """
    method = methods.get(INPAINTER)
    large = [one for one in degraded if len(one.observed) and one.observed[0, 0].numel() >= LEAST_PIXELS]
    if method is None or not large or not is_inpainter(method) or _num_processors() < 2:
        yield methods
        return
    executor = ThreadPoolExecutor(1, thread_name_prefix="inpainting")
    try:
        results = {one.observed.data_ptr(): _begin(executor, method, one) for one in large}
        yield {**methods, INPAINTER: Begun(method, results)}
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(executor: ThreadPoolExecutor, method: Method, one: Degraded) -> Callable[[], Recovery]:
    # Copied here: a device is only used by the thread that everything else runs in.
    observed, mask = one.observed.detach().cpu(), one.mask.cpu()
    rows = [slice(row, row + 1) for row in range(len(observed))]
    futures = [executor.submit(method, torch.clone, observed[row], mask[row]) for row in rows]  # type: ignore[arg-type]

    def result() -> Recovery:
        whole = concatenate([future.result() for future in futures])
        device = one.observed.device
        return whole._replace(
            image=whole.image.to(device),
            mask=one.mask,
            score=whole.score.to(device),
            certified=whole.certified.to(device),
            num_evaluations=whole.num_evaluations.to(device),
        )

    return result


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

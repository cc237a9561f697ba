"""Timings that can be compared: interleaved, repeated, medians with their spread."""

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch


class Timing(NamedTuple):
    """Seconds of one piece of work over the repeats.

    Attributes:
        median: Median.
        low: Fastest.
        high: Slowest.

    >>> naps = interleave({"nap": lambda: time.sleep(0.02)}, repeats=3, device=torch.device("cpu"))["nap"]
    >>> 0.01 < naps.low <= naps.median <= naps.high
    True
    """

    median: float
    low: float
    high: float


def interleave(works: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Time every piece of work ``repeats`` times in turn, after one round that does not count.

    In turn, so that a machine that is slower for a while is slower for all of them.

    Args:
        works: The pieces of work by name.
        repeats: How often each is timed.
        device: Waited for before and after each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: Timing(float(np.median(all_)), min(all_), max(all_)) for name, all_ in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:  # noqa: PTH123 - a device file, not a path to handle
            return next(line.partition(":")[2].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

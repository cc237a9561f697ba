"""One method on several patterns and groups of images at once: large batches cost less per image than small ones.

Images that are hard to recover are the last in a batch, where they would otherwise be few. A recovery does not depend
on the other images of its batch, so that what is found is the same.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.measurement.degradations import Degradation, Degraded
from lightning_memaudit.recovery import (
    Autoencoder,
    AutoencoderIterations,
    BlindRecovery,
    KnownMaskRecovery,
    Recovery,
)
from lightning_memaudit.recovery.batches import rows_per_chunk
from lightning_memaudit.recovery.methods.registry import Method, recover
from lightning_memaudit.recovery.types import concatenate

Found = tuple[Method, Recovery]
"""A method, and what it made of some observations."""


class Timed(NamedTuple):
    """What a method made of one pattern, and how long it took.

    Attributes:
        recovery: Of the pattern's observations.
        seconds: Wall time; of several patterns at once each has a share, by its evaluations of f.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> degraded = [parse_degradation(name)(images, [0, 1], 0) for name in ("random-0.5", "block-0.25")]
    >>> both = recover_together(AutoencoderIterations(), torch.clone, degraded, [[], []])
    >>> [torch.equal(one.recovery.image, part.observed) for one, part in zip(both, degraded)]
    [True, True]
    """

    recovery: Recovery
    seconds: float


def pattern_batches(
    patterns: Sequence[Degradation], images: Tensor, number: int | None = None
) -> list[Sequence[Degradation]]:
    """Patterns whose observations fit into one batch of the recovery together, in their order.

    Args:
        patterns: All patterns.
        images: (B, C, *spatial).
        number: Images of that size in all; None is B.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> patterns = [parse_degradation(name) for name in ("random-0.5", "random-0.9", "block-0.25")]
    >>> [len(pattern_batches(patterns, torch.zeros(2, 3, side, side))) for side in (32, 2048)]
    [1, 3]
    """
    number = max(1, len(images) if number is None else number)
    at_once = max(1, rows_per_chunk(images, None) // (ATTEMPTS_PER_IMAGE * number))
    return [patterns[begin : begin + at_once] for begin in range(0, len(patterns), at_once)]


ATTEMPTS_PER_IMAGE = 4
"""Rows that a search may make of each image at once."""


def recover_together(
    method: Method, autoencoder: Autoencoder, degraded: Sequence[Degraded], earlier: Sequence[Sequence[Found]]
) -> list[Timed]:
    """Call a method on several sets of observations: as one batch where that changes nothing but the time.

    Args:
        method: Any method.
        autoencoder: f, images (B, C, *spatial) to the same shape.
        degraded: Of every pattern and group the observations (B, C, *spatial) and true masks.
        earlier: Of each of these what other methods have found, see
            :func:`~lightning_memaudit.recovery.methods.registry.recover`.

    Returns:
        One recovery for each of ``degraded``.
    """
    shapes = {(one.observed.shape[1:], one.mask.shape[1:]) for one in degraded}
    if len(degraded) > 1 and len(shapes) == 1 and _rows_are_independent(method):
        return _as_one_batch(method, autoencoder, degraded, earlier)
    found = []
    for one, before in zip(degraded, earlier, strict=True):
        began = time.perf_counter()
        recovery = recover(method, autoencoder, one.observed, one.mask, before)
        found.append(Timed(recovery, time.perf_counter() - began))
    return found


def _rows_are_independent(method: Method) -> bool:
    if type(method) not in (AutoencoderIterations, BlindRecovery, KnownMaskRecovery):
        return False
    return not method.record_at  # type: ignore[union-attr]


def _as_one_batch(
    method: Method, autoencoder: Autoencoder, degraded: Sequence[Degraded], earlier: Sequence[Sequence[Found]]
) -> list[Timed]:
    observed, mask = (torch.cat(field) for field in zip(*degraded, strict=True))
    began = time.perf_counter()
    # What calibrates on copies of its observations does so pattern by pattern and group by group.
    calibrates = isinstance(method, BlindRecovery) and method.certification is not None
    searching = replace(method, certification=None) if calibrates else method  # type: ignore[type-var]
    whole = recover(searching, autoencoder, observed, mask, _joined(earlier))
    seconds = time.perf_counter() - began
    shares = whole.num_evaluations.double() / whole.num_evaluations.sum().clamp_min(1)
    found = []
    sizes = [len(one.observed) for one in degraded]
    for rows in torch.split(torch.arange(len(observed), device=observed.device), sizes):
        recovery = whole.select(rows)
        mine = seconds * float(shares[rows].sum())
        if isinstance(method, BlindRecovery) and calibrates:
            began = time.perf_counter()
            recovery = method.certify(autoencoder, observed[rows], recovery)
            mine += time.perf_counter() - began
        found.append(Timed(recovery, mine))
    return found


def _joined(earlier: Sequence[Sequence[Found]]) -> list[Found]:
    """What every method has found in all sets together, for those that ran on each of them."""
    by_method = [{id(method): (method, recovery) for method, recovery in one} for one in earlier]
    everywhere = [key for key in by_method[0] if all(key in one for one in by_method)]
    return [(by_method[0][key][0], concatenate([one[key][1] for one in by_method])) for key in everywhere]

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
from lightning_memaudit.recovery.copies import Uncertified
from lightning_memaudit.recovery.methods.registry import (
    Method,
    calibrates_on_copies,
    is_inpainter,
    recover,
    uses_autoencoder,
)
from lightning_memaudit.recovery.types import concatenate

Found = tuple[Method, Recovery]
"""A method, and what it made of some observations."""


class Observations(NamedTuple):
    """Images of one group behind one pattern, and what is known of them before a method recovers them.

    Attributes:
        pattern: Its name.
        degraded: B observations and true masks.
        controls: (B,) bool, which of them are images that were not trained on, each picture once.
        earlier: What other methods have found, see :func:`~lightning_memaudit.recovery.methods.registry.recover`.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> sets = [
    ...     Observations(name, parse_degradation(name)(images, [0, 1], 0), torch.tensor([False, False]))
    ...     for name in ("random-0.5", "block-0.25")
    ... ]
    >>> both = recover_together(AutoencoderIterations(), torch.clone, sets)
    >>> [torch.equal(one.recovery.image, part.degraded.observed) for one, part in zip(both, sets)]
    [True, True]
    """

    pattern: str
    degraded: Degraded
    controls: Tensor
    earlier: Sequence[Found] = ()


class Timed(NamedTuple):
    """What a method made of a set of observations, and how long it took.

    Attributes:
        recovery: Of these observations.
        seconds: Wall time; of several sets at once each has a share, of the search by its evaluations of f, or by its
            images where there are none, of turned copies an equal one.

    >>> Timed(AutoencoderIterations()(torch.clone, torch.zeros(1, 1, 8, 8)), seconds=0.5).recovery.image.shape
    torch.Size([1, 1, 8, 8])
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


def recover_together(method: Method, autoencoder: Autoencoder, sets: Sequence[Observations]) -> list[Timed]:
    """Call a method on several sets of observations: as one batch where that changes nothing but the time.

    A blind method that certifies by turned copies takes the controls of the same pattern before these.

    Args:
        method: Any method.
        autoencoder: f, images (B, C, *spatial) to the same shape.
        sets: Of one autoencoder, each of at least one image.

    Returns:
        One recovery for each of ``sets``.
    """
    if not calibrates_on_copies(method):
        return _search(method, autoencoder, sets)
    found = _search(replace(method, certification=None), autoencoder, sets)
    scores: dict[str, list[Tensor]] = {}
    for one, (recovery, _) in zip(sets, found, strict=True):
        scores.setdefault(one.pattern, []).append(recovery.score[one.controls.to(recovery.score.device)])
    began = time.perf_counter()
    uncertified = [
        Uncertified(one.degraded.observed, recovery, torch.cat(scores[one.pattern]))
        for one, (recovery, _) in zip(sets, found, strict=True)
    ]
    alike = len({one.degraded.observed.shape[1:] for one in sets}) == 1
    at_once = [uncertified] if alike else [[one] for one in uncertified]
    certified = [recovery for some in at_once for recovery in method.certify_all(autoencoder, some)]
    # What has no calibration took next to no time.
    shares = [float(recovery.calibration is not None) for recovery in certified]
    each = (time.perf_counter() - began) / max(1.0, sum(shares))
    rows = zip(certified, found, shares, strict=True)
    return [Timed(recovery, before.seconds + each * share) for recovery, before, share in rows]


def _search(method: Method, autoencoder: Autoencoder, sets: Sequence[Observations]) -> list[Timed]:
    shapes = {(one.degraded.observed.shape[1:], one.degraded.mask.shape[1:]) for one in sets}
    if len(sets) > 1 and len(shapes) == 1 and rows_are_independent(method):
        return _as_one_batch(method, autoencoder, sets)
    found = []
    for one in sets:
        began = time.perf_counter()
        recovery = recover(method, autoencoder, *one.degraded[:2], one.earlier)
        found.append(Timed(recovery, time.perf_counter() - began))
    return found


def rows_are_independent(method: Method) -> bool:
    """Whether the method may be called on all patterns and groups at once."""
    if not uses_autoencoder(method):
        return is_inpainter(method)
    if type(method) not in (AutoencoderIterations, BlindRecovery, KnownMaskRecovery):
        return False
    return not method.record_at  # type: ignore[union-attr]


def _as_one_batch(method: Method, autoencoder: Autoencoder, sets: Sequence[Observations]) -> list[Timed]:
    observed, mask = (torch.cat(field) for field in zip(*(one.degraded for one in sets), strict=True))
    began = time.perf_counter()
    whole = recover(method, autoencoder, observed, mask, _joined([one.earlier for one in sets]))
    seconds = time.perf_counter() - began
    work = whole.num_evaluations.double()
    if not work.any():  # the inpainter never calls f: every image has the same share
        work = torch.ones_like(work)
    shares = work / work.sum()
    rows = torch.split(torch.arange(len(observed), device=observed.device), [len(one.controls) for one in sets])
    return [Timed(whole.select(some), seconds * float(shares[some].sum())) for some in rows]


def _joined(earlier: Sequence[Sequence[Found]]) -> list[Found]:
    """What every method has found in all sets together, for those that ran on each of them."""
    by_method = [{id(method): (method, recovery) for method, recovery in one} for one in earlier]
    everywhere = [key for key in by_method[0] if all(key in one for one in by_method)]
    return [(by_method[0][key][0], concatenate([one[key][1] for one in by_method])) for key in everywhere]

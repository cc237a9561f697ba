"""How much work recoveries are: evaluations and calls of the autoencoder, by method and mask, as measured before.

What it takes to recover an image hangs on whether it comes back at all. Before an audit nobody knows; but how well the
autoencoder reproduces the intact image says a lot, and how much of it is hidden.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_memaudit.measurement.degradations import Degradation
from lightning_memaudit.measurement.measured_work import LEAST_ANSWERING_DB, MEASURED
from lightning_memaudit.recovery import AutoencoderIterations, BlindRecovery, KnownMaskRecovery, WhiteBoxRecovery
from lightning_memaudit.recovery.gradients import GRADIENT_EVALUATIONS
from lightning_memaudit.recovery.methods.registry import Method, uses_autoencoder

MOST_EVALUATIONS = 700
"""Of one image by a search that may spend as many as it likes."""

UNKNOWN_KIND = 200.0
"""Evaluations of a method that nobody has measured, such as one of the user's own."""

SEARCHED_AGAIN = 0.1
"""Of the images of a known mask, those for which a blind search before it has read another mask."""

TOGETHER = ("half", "block")
"""Kinds of masks whose hidden pixels lie together; those of all others lie apart, more or less."""


class Work(NamedTuple):
    """What a method takes.

    Attributes:
        forwards: Images that the autoencoder is given without a backward pass, per image.
        calls: Calls of the autoencoder for these, per block of images that are recovered together.
        gradients: Steps by gradients, per image.
        gradient_calls: Calls for these, per block.

    >>> Work(forwards=55, calls=29, gradients=10, gradient_calls=12).evaluations
    85.0
    """

    forwards: float
    calls: float
    gradients: float = 0.0
    gradient_calls: float = 0.0

    @property
    def evaluations(self) -> float:
        """Per image, as methods count them: a backward pass is two."""
        return float(self.forwards + GRADIENT_EVALUATIONS * self.gradients)

    def times(self, factor: float) -> "Work":
        """The work of a method that takes so many times as much."""
        return Work(*(factor * value for value in self))

    def at_most(self, evaluations: float | None) -> "Work":
        """The work of a method that may spend no more than so many."""
        if evaluations is None or self.evaluations <= evaluations:
            return self
        return self.times(evaluations / self.evaluations)


NOTHING = Work(0.0, 0.0)


def work_of(method: Method, pattern: Degradation, own_psnr: float, gradients: bool, answers: bool = True) -> Work:
    """What a method takes to recover images from a degradation.

    Args:
        method: Any method.
        pattern: The degradation.
        own_psnr: How well the autoencoder reproduces the intact images, in dB.
        gradients: Whether the autoencoder can be differentiated.
        answers: Whether it may return anything else for one intact image than for others; else it is soon given up.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> easy, hard = parse_degradation("random-0.5"), parse_degradation("block-0.75")
    >>> [work_of(BlindRecovery(), one, 15.0, gradients=True).evaluations > 100 for one in (easy, hard)]
    [True, True]
    >>> round(work_of(BlindRecovery(max_evaluations=60), hard, 15.0, gradients=True).evaluations, 6)
    60.0
    """
    if not uses_autoencoder(method):
        return NOTHING
    # With noise, or where anything may stand in the hidden pixels, a blind search has no mask to rely on.
    relies = not isinstance(method, BlindRecovery) or (not pattern.noise and pattern.fill is not None)
    kind = kind_of(method, gradients and relies)
    if kind is None:
        return Work(UNKNOWN_KIND, UNKNOWN_KIND)
    if answers and kind == "search":
        own_psnr = max(own_psnr, LEAST_ANSWERING_DB)
    work = looked_up(MEASURED[kind], pattern, own_psnr)
    if isinstance(method, BlindRecovery | KnownMaskRecovery):
        if method.penalties is not None:
            return Work(work.forwards * len(method.penalties), work.calls)
        return work.at_most(method.max_evaluations)
    return work


def most_evaluations(method: Method) -> float:
    """Of one image by a method, at most; infinite where that is not known.

    >>> [most_evaluations(one) for one in (AutoencoderIterations(), BlindRecovery(), BlindRecovery(penalties=[0.1, 1]))]
    [200, 700, 404]
    """
    if isinstance(method, AutoencoderIterations):
        return method.num_iterations
    if not isinstance(method, BlindRecovery | KnownMaskRecovery):
        return math.inf
    if method.penalties is not None:
        return (method.alternation.num_iterations + 2) * len(method.penalties)
    return method.max_evaluations or MOST_EVALUATIONS


def share_searched(method: Method, earlier: Sequence[Method], pattern: Degradation) -> float:
    """The share of its images that a method searches itself.

    Args:
        method: The method.
        earlier: Those that have been called on the same images; a known mask takes over what one searched alike.
        pattern: The degradation; with noise, or where anything may stand in the hidden pixels, nothing is alike.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> methods = [KnownMaskRecovery(), [BlindRecovery()]]
    >>> [share_searched(*methods, parse_degradation(f"half{more}")) for more in ("", "+fill-noise")]
    [0.1, 1.0]
    """
    relies = not pattern.noise and pattern.fill is not None
    if not relies or not isinstance(method, KnownMaskRecovery) or method.penalties is not None:
        return 1.0
    alike = (isinstance(one, BlindRecovery) and one.penalties is None for one in earlier)
    return SEARCHED_AGAIN if any(alike) else 1.0


def kind_of(method: Method, gradients: bool) -> str | None:
    """Which methods of :data:`MEASURED` take as much; None where none does.

    Args:
        method: The method.
        gradients: Whether it can use them.
    """
    if isinstance(method, WhiteBoxRecovery):
        return "white_box"
    if isinstance(method, AutoencoderIterations):
        return "autoencoder_iterations"
    if isinstance(method, BlindRecovery | KnownMaskRecovery):
        if method.penalties is not None:
            return "given_penalties"
        return "search" if gradients and method.gradients == "auto" else "search_without_gradients"
    return None


def looked_up(
    measured: Mapping[str, Mapping[float, tuple[tuple[float, ...], ...]]], pattern: Degradation, own_psnr: float
) -> Work:
    """Between what was measured of the nearest hidden shares and of autoencoders that reproduce images about as well.

    Args:
        measured: Of one kind of method: by shape of the mask and by hidden share, rows of ``own_psnr`` and
            :class:`Work`, rising.
        pattern: The degradation; a blur counts as one that hides half of the pixels.
        own_psnr: In dB.
    """
    by_share = measured["together" if pattern.kind in TOGETHER else "apart"]
    rows = [(share, *between(by_share[share], own_psnr)) for share in sorted(by_share)]
    return Work(*between(rows, pattern.fraction))


def between(rows: Sequence[Sequence[float]], at: float) -> list[float]:
    """The columns after the first, interpolated; beyond the ends they stay as they are there."""
    first, *columns = np.asarray(rows, dtype=np.float64).T
    return [float(np.interp(at, first, column)) for column in columns]

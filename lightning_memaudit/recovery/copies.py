"""Calibrations on turned copies: the copies of several sets of observations are searched together, as one batch is."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.certification import (
    COPIES_MARGIN,
    MAX_FALSE_RATE,
    NO_THRESHOLD,
    calibrate,
    certify,
    controls_needed,
    turned_copies,
)
from lightning_memaudit.recovery.checks import LEAST_EVALUATIONS
from lightning_memaudit.recovery.types import Calibration, Recovery

FIRST_COPIES = 24
"""So many turned copies tell whether the rest of them can matter."""


class Uncertified(NamedTuple):
    """Observations and what was found for them, which may be certified.

    Attributes:
        observed: (B, C, *spatial).
        recovery: Of these.
        controls: Scores of images that were not trained on, degraded and searched alike, (n,); NaN where one failed,
            None where there are none.

    >>> from lightning_memaudit.recovery import BlindRecovery
    >>> stored, method = torch.rand(1, 1, 8, 8), BlindRecovery(certification=None)
    >>> observed = stored * (torch.arange(64).view(1, 1, 8, 8) % 2)
    >>> one = Uncertified(observed, method(lambda images: stored.expand_as(images), observed), torch.tensor([1.0]))
    >>> calibration, = calibrate_on_copies(lambda copies, evaluations: torch.ones(len(copies)), [one])
    >>> calibration.source, calibration.threshold  # one control, and 98 copies whose scores are halved
    ('controls and turned copies', 0.5)
    """

    observed: Tensor
    recovery: Recovery
    controls: Tensor | None


class _Wanted(NamedTuple):
    """Copies (B, C, *spatial) to search, with so many evaluations of f each at most."""

    copies: Tensor
    evaluations: int


def calibrate_on_copies(
    scores_of: Callable[[Tensor, int], Tensor], sets: Sequence[Uncertified]
) -> list[Calibration | None]:
    """Calibrate each set by its controls and turned copies of its own observations.

    Args:
        scores_of: From copies (B, C, *spatial) and the evaluations that each may take to their scores, (B,).
        sets: Of images of one size.

    Returns:
        One for each set; None where nothing in it might be certified.
    """
    courses = [_calibration(one) for one in sets]
    found: list[Calibration | None] = [None] * len(sets)
    wanted: dict[int, _Wanted] = {}

    def go_on(number: int, scores: Tensor | None) -> None:
        try:
            wanted[number] = next(courses[number]) if scores is None else courses[number].send(scores)
        except StopIteration as end:
            found[number] = end.value

    for number in range(len(sets)):
        go_on(number, None)
    while wanted:
        # Copies that may take as many evaluations are one batch.
        evaluations = next(iter(wanted.values())).evaluations
        alike = {number: one.copies for number, one in wanted.items() if one.evaluations == evaluations}
        scores = scores_of(torch.cat(list(alike.values())), evaluations)
        parts = torch.split(scores, [len(one) for one in alike.values()])
        for number, some in zip(alike, parts, strict=True):
            del wanted[number]
            go_on(number, some)
    return found


def _calibration(one: Uncertified) -> Generator[_Wanted, Tensor, Calibration | None]:
    """Search turned copies, beside the controls, no longer than the images that might be certified were searched.

    A few first: where these score too low for any image to be certified, more of them change nothing.
    """
    recovery = one.recovery
    controls = recovery.score[:0] if one.controls is None else one.controls[~one.controls.isnan()]
    certifiable = certify(recovery, NO_THRESHOLD).certified
    if not bool(certifiable.any()):
        return None
    source = "controls and turned copies" if len(controls) else "turned copies"
    missing = max(0, controls_needed(MAX_FALSE_RATE) - len(controls))
    copies, first = turned_copies(one.observed, missing), max(0, FIRST_COPIES - len(controls))
    scores = controls
    for some in (copies[:0], copies[:first], copies[first:]):  # at first the controls alone
        if len(some):
            longest = max(LEAST_EVALUATIONS, int(recovery.num_evaluations[certifiable].max()))
            found = yield _Wanted(some, longest)
            scores = torch.cat([scores, COPIES_MARGIN * found])
        if not len(scores):
            continue
        certifiable = certify(recovery, replace(NO_THRESHOLD, threshold=float(scores.min()))).certified
        if not bool(certifiable.any()):
            reason = f"no image scores lower than all of {len(scores)} {source}, so nothing is certified"
            return replace(calibrate(scores, MAX_FALSE_RATE, source=source), reason=reason)
    return calibrate(scores, MAX_FALSE_RATE, source=source)

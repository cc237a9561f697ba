"""Certificates from an audit's own controls: the blind method's threshold in each pattern, and who falls below it.

Every pattern has a threshold of its own, from one score of each control image. So n counts images, the rate 1 / (n + 1)
holds for each pattern, and its interval too: scores of one image under several patterns depend on each other.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import Calibration, calibrate
from lightning_memaudit.recovery.certification import MAX_FALSE_RATE, NO_THRESHOLD, controls_needed, is_certified
from lightning_memaudit.recovery.methods.registry import Method, calibrates_on_copies, claims
from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.comparability import differences
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.rows import Row

CONTROLS, TURNED_COPIES, GIVEN, OWN, NONE = "controls", "turned copies", "given", "the method itself", "none"
"""Where the certificates that are in force come from: ``source`` of a row's ``certification``."""

NEEDED = controls_needed(MAX_FALSE_RATE)


def without_own_certificates(plan: Plan, groups: Sequence[Group]) -> Plan:
    """The plan without the blind methods' calibration on turned copies, where the audit's controls will replace it.

    An audit with enough controls sets the threshold from these, see :func:`certify_from_controls`. Then a blind method
    need not spend evaluations on turned copies, whose threshold would be overwritten.

    Args:
        plan: What the audit does.
        groups: This process's share of the groups.
    """
    controls = [group for group in groups if group.name == "controls"]
    # There are at least as many as the highest position of the share says, however the others are divided.
    least = max((position + 1 for group in controls for position in group.positions), default=0)
    shown_before = {position for group in controls for position in group.repeated if position < least}
    if least - len(shown_before) < NEEDED:
        return plan
    methods = {
        name: replace(method, certification=None) if calibrates_on_copies(method) else method
        for name, method in plan.methods.items()
    }
    return replace(plan, methods=methods)


def certify_from_controls(cells: Sequence[Cell], plan: Plan) -> dict[tuple[str, str], Row]:
    """Certify in the cells of all methods that claim, pattern by pattern, by their scores of the controls.

    With fewer controls than the rate takes, the cells keep what the method itself has certified, for which it takes
    turned copies beside them; but nothing that scores no lower than all of these controls, which were not all at hand
    where images were searched block by block, condition by condition or in several processes. With controls of another
    source than the members nothing is certified.

    Args:
        cells: All cells of an audit; their certificates are replaced.
        plan: What was asked for, before :func:`without_own_certificates`.

    Returns:
        By pattern and method, for those that claim: which calibration is in force and what it claims, for the rows of
        ``audits.jsonl``.
    """
    described: dict[tuple[str, str], Row] = {}
    claiming = {name: method for name, method in plan.methods.items() if claims(method)}
    images = ImageColumns.of_columns({(cell.group, cell.pattern, cell.method): cell.columns for cell in cells})
    for name, method in claiming.items():
        given = getattr(method, "certification", None)
        patterns = list(dict.fromkeys(cell.pattern for cell in cells if cell.method == name))
        different = [str(one) for one in differences(images, patterns, name)] if patterns else []
        for pattern in patterns:
            mine = [cell for cell in cells if (cell.method, cell.pattern) == (name, pattern)]
            if isinstance(given, Calibration):
                described[pattern, name] = _describe(given, GIVEN if given.threshold is not None else NONE)
                continue
            for cell in mine:
                cell.columns["claims"] = np.ones_like(cell.columns["claims"])
            controls = [_distinct_scores(cell) for cell in mine if cell.group == "controls"]
            scores = np.concatenate(controls) if controls else np.zeros(0)
            known = scores[~np.isnan(scores)]
            few = known if calibrates_on_copies(method) else known[:0]  # that count towards the threshold
            if len(scores) < NEEDED and not (len(few) and different):
                described[pattern, name] = _own(method, len(known))
                if len(few):
                    _certify(mine, replace(NO_THRESHOLD, threshold=float(few.min())), among_certified=True)
            else:
                calibration = _calibration(known, different)
                _certify(mine, calibration)
                described[pattern, name] = _describe(calibration, NONE if calibration.threshold is None else CONTROLS)
    return described


def _calibration(scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", different: Sequence[str]) -> Calibration:
    calibration = calibrate(torch.from_numpy(scores), source="controls with a score")
    if not different:
        return calibration
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    reason = (
        f"members and controls differ in {different[0]}{more}, which owes nothing to the autoencoder: controls of "
        "another source set no threshold, so nothing is certified"
    )
    return replace(calibration, threshold=None, reason=reason)


def _distinct_scores(cell: Cell) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Scores of the controls that show no member, each picture once: others are no images that were not trained on."""
    scores = cell.columns["score"].astype(np.float64)
    repeated = cell.columns.get("repeated")
    return scores if repeated is None else scores[~repeated.astype(bool)]


def _certify(cells: Sequence[Cell], calibration: Calibration, among_certified: bool = False) -> None:
    """Replace the certificates; or take those back that this calibration does not give."""
    for cell in cells:
        columns = (cell.columns[key].astype(np.float64) for key in ("score", "expected_error", "gain"))
        score, error, gain = map(torch.from_numpy, columns)
        certified = is_certified(score, error, gain, calibration).numpy()
        cell.columns["certified"] = certified & cell.columns["certified"].astype(bool) if among_certified else certified


def _own(method: Method, num_controls: int) -> Row:
    """What a method certifies by itself, where the controls are too few to set the threshold."""
    few = f"{num_controls} controls cannot show a false-certification rate of {MAX_FALSE_RATE:.2g}: it takes {NEEDED}"
    if not calibrates_on_copies(method):
        return _row(OWN, None, f"{few}, so the certificates are the method's own", num_controls, None, (None, None))
    rate = 1 / (NEEDED + 1)
    part = "make up for the others" if num_controls else "stand in for them"
    reason = f"{few}, so turned copies of the degraded images {part}"
    return _row(TURNED_COPIES, None, reason, num_controls, rate, (None, None))


def _describe(calibration: Calibration, source: str) -> Row:
    """How often a certificate is false, or why none was made."""
    return _row(
        source,
        calibration.threshold,
        calibration.reason,
        calibration.num_controls,
        None if source == NONE else calibration.false_rate,
        calibration.interval if source != NONE else (None, None),
    )


def _row(
    source: str,
    threshold: float | None,
    reason: str,
    num_controls: int,
    rate: float | None,
    interval: tuple[float | None, float | None],
) -> Row:
    """``certification`` of a row of ``audits.jsonl``."""
    low, high = interval
    return {
        "source": source,
        "threshold": threshold,
        "reason": reason,
        "num_control_scores": num_controls,
        "false_rate": rate,
        "false_rate_low": low,
        "false_rate_high": high,
    }

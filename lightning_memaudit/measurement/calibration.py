"""Certificates from an audit's own controls: the blind method's threshold, and who falls below it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import BlindRecovery, Calibration, calibrate
from lightning_memaudit.recovery.certification import MAX_FALSE_RATE, controls_needed, is_certified
from lightning_memaudit.recovery.methods.registry import claims
from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.rows import Row


def without_own_certificates(plan: Plan, groups: Sequence[Group], num_shares: int = 1) -> Plan:
    """The plan without the blind methods' calibration on turned copies, where the audit's controls will replace it.

    An audit with enough scores of controls sets the threshold from these, see :func:`certify_from_controls`. Then a
    blind method need not spend evaluations on turned copies, whose threshold would be overwritten.

    Args:
        plan: What the audit does.
        groups: This process's share of the groups.
        num_shares: Into how many shares the groups are divided.
    """
    num_controls = sum(len(group.images) for group in groups if group.name == "controls") * num_shares
    patterns = Counter(name for _, name in plan.cells)
    needed = controls_needed(MAX_FALSE_RATE)
    methods = {
        name: replace(method, certification=None)
        if isinstance(method, BlindRecovery)
        and method.certification == "turned_copies"
        and num_controls * patterns[name] >= needed
        else method
        for name, method in plan.methods.items()
    }
    return replace(plan, methods=methods)


def certify_from_controls(cells: Sequence[Cell], plan: Plan) -> dict[str, Calibration]:
    """Certify in the cells of all methods that claim, by their scores of the controls under all patterns together.

    With too few controls the cells keep what the method itself has certified.

    Args:
        cells: All cells of an audit; their certificates are replaced.
        plan: What was asked for, before :func:`without_own_certificates`.

    Returns:
        The calibration of every method that claims.
    """
    calibrations: dict[str, Calibration] = {}
    for name, method in plan.methods.items():
        if not claims(method) or isinstance(getattr(method, "certification", None), Calibration):
            continue
        mine = [cell for cell in cells if cell.method == name]
        scores = [cell.columns["score"].astype(np.float64) for cell in mine if cell.group == "controls"]
        pooled = np.concatenate(scores) if scores else np.zeros(0)
        calibration = calibrations[name] = calibrate(torch.from_numpy(pooled[~np.isnan(pooled)]))
        for cell in mine:
            cell.columns["claims"] = np.ones_like(cell.columns["claims"])
            if calibration.threshold is not None:
                columns = (cell.columns[key].astype(np.float64) for key in ("score", "expected_error", "gain"))
                score, error, gain = map(torch.from_numpy, columns)
                cell.columns["certified"] = is_certified(score, error, gain, calibration).numpy()
    return calibrations


def describe(calibration: Calibration) -> Row:
    """How often a certificate is false, or why none was made: ``certification`` in the rows of ``audits.jsonl``."""
    low, high = calibration.interval
    return {
        "threshold": calibration.threshold,
        "reason": calibration.reason,
        "num_control_scores": calibration.num_controls,
        "false_rate": calibration.false_rate,
        "false_rate_low": low,
        "false_rate_high": high,
    }

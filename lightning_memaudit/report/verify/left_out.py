"""What ``run.json`` says that was to be run, against what was: a pattern, a method or an audit that is not there."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lightning_memaudit.report.verify.check import Check, first
from lightning_memaudit.results.chain import by_audit
from lightning_memaudit.results.run_folder import AUDITS, RUN, RunFolder

Row = Mapping[str, Any]
Cells = list[tuple[str, str]]
"""Patterns and methods that ran together."""


def whole_plan(name: str, folder: RunFolder) -> Check:
    """Every method was run on every pattern that it is for, in the order of ``run.json``, in both groups."""
    settings = folder.run().get("settings") or {}
    if not settings.get("patterns") or not settings.get("methods"):
        return Check(name, None, f"{RUN} does not name them")
    rows = by_audit(folder.audits())[-1]
    return first(name, _plan_problems(settings, rows), f"{len(rows)} rows of the newest audit")


def _plan_problems(settings: Row, rows: Sequence[Row]) -> Iterator[str]:
    patterns, methods = list(settings["patterns"]), list(settings["methods"])
    for group in dict.fromkeys(row["group"] for row in rows):
        found = [(row["pattern"], row["method"]) for row in rows if row["group"] == group]
        wanted = _cells(patterns, methods, settings.get("method_settings") or {}, found)
        lacking = [cell for cell in wanted if cell not in found]
        if lacking:
            yield f"{group}/{'/'.join(lacking[0])} is not in {AUDITS}, though {RUN} names pattern and method"
        elif found != wanted:
            order = f"methods {', '.join(dict.fromkeys(method for _, method in found))}"
            yield f"{group}: {AUDITS} has other patterns or another order than {RUN}: its {order}"


def _cells(patterns: Sequence[str], methods: Sequence[str], described: Row, found: Cells) -> Cells:
    """What runs of these patterns and methods.

    What a method that is not the package's recovers from is not known: of the patterns of one kind it runs on all or
    on none.
    """
    from lightning_memaudit.measurement.degradations import parse_degradation
    from lightning_memaudit.recovery.methods.registry import METHODS, recovers_from

    family = {pattern: parse_degradation(pattern).family for pattern in patterns}
    runs: dict[str, set[str]] = {}
    for method in methods:
        own = METHODS[method]() if method in METHODS else None
        known = own is not None and str(described.get(method, repr(own))).startswith(f"{type(own).__name__}(")
        if own is not None and known:
            runs[method] = {kind for kind in family.values() if recovers_from(own, kind)}
        else:
            runs[method] = {family[pattern] for pattern, one in found if one == method and pattern in family}
            runs[method] = runs[method] or set(family.values())
    return [(pattern, method) for pattern in patterns for method in methods if family[pattern] in runs[method]]


def in_order(name: str, folder: RunFolder) -> Check:
    """Epochs and steps of training do not go down from audit to audit."""
    rows = [same[0] for same in by_audit(folder.audits())]
    return first(name, _order_problems(rows), f"epochs and steps of {len(rows)} audits")


def _order_problems(rows: Sequence[Row]) -> Iterator[str]:
    for key in ("epoch", "step"):
        known = [(row["audit"], row[key]) for row in rows if row.get(key) is not None]
        for (before, one), (audit, other) in pairwise(known):
            if other < one:
                yield f"audit {audit} was after {other} {key}s, and audit {before}, which it follows, after {one}"

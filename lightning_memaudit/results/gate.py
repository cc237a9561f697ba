"""Conditions on the numbers of a report, such as ``memorized_rate>0.05``: a gate before a release.

A number that is not there never passes: its condition is undecided, which is neither held nor not held. So is one that
does not hold only because too few images were audited, recoveries failed or diverged, or the audit was cut; and, where
an inconclusive verdict counts, one on memorized images that the audit could not have shown.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lightning_memaudit.results.cost import Cut
from lightning_memaudit.results.names import INPAINTER, did_you_mean
from lightning_memaudit.results.proportions import Proportion

OUTCOME = "outcome"
OUTCOMES = ("memorized", "traces", "not_memorized", "inconclusive")
Value = float | int | str | None


class Named(NamedTuple):
    """What a condition can name.

    Attributes:
        what: For people.
        low: Its least value.
        high: Its largest.
        kind: ``int`` for a count, ``float`` for another number, ``str`` for the outcome.

    >>> NAMES["memorized_rate"].high
    1.0
    """

    what: str
    low: float = 0.0
    high: float = 1.0
    kind: type = float


NAMES: dict[str, Named] = {
    OUTCOME: Named(f"the verdict: {', '.join(OUTCOMES)}", kind=str),
    "num_memorized": Named("members that came back beyond every baseline", high=math.inf, kind=int),
    "memorized_rate": Named("share of members that came back beyond every baseline"),
    "memorized_rate_low": Named("lower end of the 95% interval of memorized_rate"),
    "memorized_rate_high": Named("upper end of the 95% interval of memorized_rate"),
    "control_memorized_rate": Named("share of controls that came back beyond every baseline"),
    "recovery_rate": Named("share of members that reach the threshold, over all patterns"),
    "control_recovery_rate": Named("share of controls that reach the threshold, over all patterns"),
    "extracted": Named("members that came out by themselves", high=math.inf, kind=int),
    "recovery_gain": Named("median recovery gain of members, dB", low=-math.inf, high=math.inf),
    "gain_auroc": Named("AUROC of the recovery gain"),
    "membership_auroc": Named("AUROC of the blind score"),
    "plain_loss_auroc": Named("AUROC of the autoencoder's own error"),
    "reference_auroc": Named("AUROC of the own error less that of the reference models"),
    "train_loss": Named("mean squared error of the members", high=math.inf),
}
"""What a condition can name: as the metrics of loggers are named, where there are such."""

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([^\s<>=!]+)\s*")


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Attributes:
        name: One of :data:`NAMES`.
        comparison: One of :data:`COMPARISONS`.
        bound: What the number is compared with; an outcome for ``outcome``.

    >>> condition = Condition.of("memorized_rate > 0.05")
    >>> str(condition), condition.holds(0.98), condition.holds(None)
    ('memorized_rate>0.05', True, None)
    >>> Condition.of("memorized_rate>5")
    Traceback (most recent call last):
    ValueError: fail_if='memorized_rate>5': memorized_rate lies from 0 to 1, so that this can never hold
    """

    name: str
    comparison: str
    bound: float | str

    @classmethod
    def of(cls, text: str) -> "Condition":
        """Read a condition.

        Raises:
            ValueError: It is none, names what is not known, or can never hold.
        """
        what = f"fail_if={text!r}"
        match = _CONDITION.fullmatch(text)
        if match is None:
            hint = "" if set(text) & set("<>=") else " (in quotes, or the shell takes < and > for itself)"
            signs = " ".join(COMPARISONS)
            raise ValueError(f"{what}: pass a name, one of {signs} and a value{hint}, such as 'memorized_rate>0.05'")
        name, comparison, given = match.groups()
        if name not in NAMES:
            hint = f"{did_you_mean(name, NAMES)} ".lstrip()
            raise ValueError(f"{what}: {name!r} is not known; {hint}known: {', '.join(NAMES)}")
        if name == OUTCOME:
            return cls(name, comparison, _outcome(what, comparison, given))
        return cls(name, comparison, _bound(what, name, comparison, given))

    def holds(self, value: Value) -> bool | None:
        """Whether it holds of a value; None where that is missing or no number."""
        if self.name == OUTCOME:
            return None if value not in OUTCOMES else COMPARISONS[self.comparison](value, self.bound)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        bound = self.bound if isinstance(self.bound, str) else f"{self.bound:.15g}"
        return f"{self.name}{self.comparison}{bound}"


def _outcome(what: str, comparison: str, given: str) -> str:
    given = given.strip("'\"")
    if comparison not in ("==", "!="):
        raise ValueError(f"{what}: outcomes have no order; pass == or !=")
    if given not in OUTCOMES:
        hint = f"{did_you_mean(given, OUTCOMES)} ".lstrip()
        raise ValueError(f"{what}: {given!r} is no outcome; {hint}known: {', '.join(OUTCOMES)}")
    return given


def _bound(what: str, name: str, comparison: str, given: str) -> float:
    known = NAMES[name]
    try:
        bound = float(given)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        share = f"; shares are numbers from 0 to 1: {name}{comparison}0.05" if given.endswith("%") else ""
        raise ValueError(f"{what}: {given!r} is no finite number{share}")
    if _never(comparison, bound, known.low, known.high) or (
        comparison == "==" and known.kind is int and bound != int(bound)
    ):
        lies = f"from {known.low:g}" + (f" to {known.high:g}" if math.isfinite(known.high) else " upwards")
        whole = "a whole number " if known.kind is int else ""
        verb = "is" if whole else "lies"
        raise ValueError(f"{what}: {name} {verb} {whole}{lies}, so that this can never hold")
    return bound


def _never(comparison: str, bound: float, low: float, high: float) -> bool:
    """Whether this holds of no number from ``low`` to ``high``."""
    return {
        ">": bound >= high,
        ">=": bound > high,
        "<": bound <= low,
        "<=": bound < low,
        "==": not low <= bound <= high,
        "!=": False,
    }[comparison]


def read_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions in their order, once each; a text may hold several between commas.

    Raises:
        ValueError: One of them is none.

    >>> [str(one) for one in read_conditions(["num_memorized>0, outcome==traces", "num_memorized>0"])]
    ['num_memorized>0', 'outcome==traces']
    """
    return tuple(dict.fromkeys(Condition.of(one) for text in texts for one in text.strip("[] ").split(",")))


def named_numbers(document: Mapping[str, Any]) -> dict[str, Value]:
    """Every name of :data:`NAMES` with its value in a report; None where it was not measured.

    Args:
        document: The content of ``report.json``.
    """
    judgement, membership = document["judgement"], document["membership"]
    memorized = document["memorized_rate"] or {}
    controls = (judgement["counted"]["controls"] or {}).get("memorized") or {}
    extracted = judgement.get("extracted")
    gain = (judgement["gain"] or {}).get("overall") or {}
    areas = {name: (membership.get(name) or {}).get("value") for name in _AREAS}
    return {
        OUTCOME: document["verdict"]["outcome"],
        "num_memorized": document["num_memorized"],
        "memorized_rate": memorized.get("rate"),
        "memorized_rate_low": memorized.get("low"),
        "memorized_rate_high": memorized.get("high"),
        "control_memorized_rate": controls.get("rate"),
        **{f"{name}recovery_rate": _pooled(document, group) for name, group in _RATES},
        "extracted": None if extracted is None else extracted["members"]["count"],
        "recovery_gain": gain.get("members"),
        **{_AREAS[name]: area for name, area in areas.items()},
        "train_loss": judgement["train_loss"],
    }


_AREAS = {
    "recovery_gain": "gain_auroc",
    "blind_score": "membership_auroc",
    "plain_loss": "plain_loss_auroc",
    "reference": "reference_auroc",
}


def _pooled(document: Mapping[str, Any], group: str, counted: Sequence[str] = ("num_recovered",)) -> float | None:
    """The audited method's rate over all patterns, as loggers get it."""
    method = document["judgement"]["method"]
    rows = [row for row in document["rates"] if row["group"] == group and row["method"] == method]
    total = sum(row["num_images"] for row in rows)
    return sum(row.get(name) or 0 for row in rows for name in counted) / total if total else None


_OWN_OUTPUT = {"train_loss", "plain_loss_auroc", "reference_auroc", "extracted"}
"""Names that owe nothing to what was recovered from degraded images."""

_RATES = (("", "members"), ("control_", "controls"))

_WHAT_CAME_BACK = {"num_memorized", "memorized_rate", "memorized_rate_low", "memorized_rate_high", "recovery_rate"}
"""Names that say how many came back whole."""


def _most(document: Mapping[str, Any]) -> dict[str, float]:
    """The largest values that the images of this audit could have given: all of them memorized."""
    memorized, extracted = document["memorized_rate"], document["judgement"].get("extracted")
    most: dict[str, float | None] = {}
    if memorized is not None:
        every = Proportion.of(np.ones(memorized["num"], dtype=bool))
        most = {"num_memorized": every.count, "memorized_rate_low": every.low}
    if extracted is not None:
        starts = (document.get("extraction") or {}).get("num_starts")
        most["extracted"] = min(extracted["members"]["num"], math.inf if starts is None else starts)
    return {name: value for name, value in most.items() if value is not None}


def _failed(document: Mapping[str, Any]) -> int:
    """Recoveries by the audited method and the inpainter that failed: they count as if nothing had come back."""
    methods = (document["judgement"]["method"], INPAINTER)
    return sum(row.get("num_failed") or 0 for row in document["rates"] if row["method"] in methods)


def _with_untested(document: Mapping[str, Any]) -> dict[str, float | None]:
    """Values as they would be had all come back whose recoveries diverged; members that count, from every pattern."""
    every = ("num_recovered", "num_diverged")
    values = {f"{name}recovery_rate": _pooled(document, group, every) for name, group in _RATES}
    untested, memorized = document["judgement"].get("untested"), document["memorized_rate"]
    if untested is None or memorized is None:
        return values
    count = min(memorized["num"], memorized["count"] + untested["count"])
    found = Proportion.of(np.arange(memorized["num"]) < count)
    rates = {"memorized_rate": found.rate, "memorized_rate_low": found.low, "memorized_rate_high": found.high}
    return {**values, **rates, "num_memorized": found.count}


def _cut(document: Mapping[str, Any], name: str) -> str | None:
    """What the audit did less of than was asked for, to a condition that it bears on."""
    wanted = {"extracted": "extraction"}.get(name, "max_evaluations")
    cuts = (document.get("cost") or {}).get("cuts") or []
    found = next((Cut(**cut) for cut in cuts if cut["argument"] == wanted), None)
    return None if found is None or (name in _OWN_OUTPUT and name != "extracted") else found.words


def _not_shown(document: Mapping[str, Any], condition: Condition, strict: bool) -> str | None:
    """Why a condition that does not hold might hold all the same; None where nothing speaks for that."""
    name, high = condition.name, _most(document).get(condition.name)
    if (
        isinstance(condition.bound, float)
        and high is not None
        and _never(condition.comparison, condition.bound, 0, high)
    ):
        of_what, more = ("images and starts", " or raise extraction") if name == "extracted" else ("images", "")
        return f"with the {of_what} of this audit {name} is at most {high:.6g}; audit more members{more}"
    if name not in _OWN_OUTPUT and (failed := _failed(document)):
        return f"{failed} recoveries failed, which counts as if nothing had come back"
    if condition.holds(_with_untested(document).get(name)):
        untested = None if name.startswith("control_") else document["judgement"].get("untested")
        of_all = "" if untested is None else f" of {untested['count']} of {untested['num']} members"
        return f"recoveries{of_all} diverged, which counts as if nothing had come back"
    if name == "reference_auroc" and (caution := _caution(document)):
        return caution[0].lower() + caution[1:].rstrip(".")
    if name == "gain_auroc" and (told := _told_by_one(document, condition)):
        return told
    if words := _cut(document, name):
        return f"the audit was cut to keep within max_seconds: {words}"
    codes = document["verdict"].get("absence_not_shown")
    if strict and codes and name in _WHAT_CAME_BACK:
        return f"there are traces, and whole images may not have come back for other reasons: {', '.join(codes)}"
    return None


def _caution(document: Mapping[str, Any]) -> str | None:
    """What speaks against the reference models."""
    told = (document["judgement"].get("memberships") or {}).get("reference") or {}
    caution: str | None = told.get("caution")
    return caution


def _told_by_one(document: Mapping[str, Any], condition: Condition) -> str | None:
    """That one pattern tells it, by the whole of an interval that allows for all patterns, and their mean does not."""
    for one in (document["judgement"]["gain"] or {}).get("patterns") or ():
        area = one["auroc"]
        if area is not None and condition.holds(area["low"]) and condition.holds(area["high"]):
            interval = f"{area['low']:.2f} to {area['high']:.2f}"
            return f"{condition.name} is of the mean over all patterns; from {one['pattern']} it is {interval}"
    return None


@dataclass(frozen=True)
class Examined:
    """What the conditions say of one report.

    Attributes:
        numbers: All that a condition can name, with their values.
        held: Whether each condition holds; None where that cannot be decided.
        strict: Whether an inconclusive verdict counts.
        why: Why a condition cannot be decided; where it is not here, what it names was not measured.

    >>> numbers = {"outcome": "inconclusive", "extracted": None}
    >>> gate = Examined(numbers, {Condition.of("extracted>0"): None}, strict=False)
    >>> gate.fails, gate.is_undecided, gate.reason(Condition.of("extracted>0"))
    (False, True, 'extracted was not measured')
    """

    numbers: Mapping[str, Value]
    held: Mapping[Condition, bool | None]
    strict: bool
    why: Mapping[Condition, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any], conditions: Sequence[Condition], strict: bool) -> "Examined":
        """Examine the content of a ``report.json``."""
        numbers = named_numbers(document)
        held = {one: one.holds(numbers[one.name]) for one in conditions}
        doubts = {one: _not_shown(document, one, strict) for one, holds in held.items() if holds is False}
        why = {one: doubt for one, doubt in doubts.items() if doubt is not None}
        return cls(numbers, {**held, **dict.fromkeys(why)}, strict, why)

    def reason(self, condition: Condition) -> str:
        """Why a condition cannot be decided."""
        return self.why.get(condition, f"{condition.name} was not measured")

    @property
    def fails(self) -> bool:
        """Whether any condition holds."""
        return any(self.held.values())

    @property
    def is_inconclusive(self) -> bool:
        """Whether the verdict is."""
        return self.numbers[OUTCOME] == "inconclusive"

    @property
    def is_undecided(self) -> bool:
        """Whether a condition could not be decided, or the verdict is inconclusive and that counts."""
        return None in self.held.values() or (self.strict and self.is_inconclusive)

"""What an audit was expected to cost before it began, what it took, and what was cut to keep it within bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ARGUMENTS = ("methods", "num_members", "num_controls", "max_evaluations", "extraction")
"""What may be cut, by the argument that would have done the same."""


@dataclass(frozen=True)
class Cut:
    """One thing that an audit does less of than was asked for.

    Attributes:
        argument: The argument that, given as ``used``, makes the same audit; one of :data:`ARGUMENTS`.
        asked: What it would have been: a number, or names of methods; None where only the method itself bounds it.
        used: What it is.

    >>> Cut("num_members", 100, 30).words, Cut("max_evaluations", None, 60).words
    ('num_members is 30 instead of 100', 'max_evaluations is 60 instead of what each method takes')
    """

    argument: str
    asked: Any
    used: Any

    @property
    def words(self) -> str:
        """What was cut, in words."""
        asked = "what each method takes" if self.asked is None else _said(self.asked)
        return f"{self.argument} is {_said(self.used)} instead of {asked}"


@dataclass(frozen=True)
class Bounds:
    """What was decided before an audit began, from its estimated cost alone; no result had been seen.

    Attributes:
        cuts: What it does less of than was asked for.
        max_seconds: The bound that was given; None for none.
        needed: Estimated seconds without the cuts.
        expected: Estimated seconds with them.

    >>> bounds = Bounds((Cut("num_members", 100, 30), Cut("num_controls", 100, 30)), max_seconds=60, needed=200)
    >>> bounds.sentence
    'Cut before it began, from its estimated cost alone (about 3 min; max_seconds=60): num_members is 30 instead of \
100, num_controls is 30 instead of 100.'
    >>> Bounds.of(bounds.to_dict()) == bounds, Bounds().sentence
    (True, '')
    """

    cuts: tuple[Cut, ...] = ()
    max_seconds: float | None = None
    needed: float | None = None
    expected: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the audit is expected to take no longer than was allowed."""
        return self.max_seconds is None or self.expected is None or self.expected <= self.max_seconds

    @property
    def sentence(self) -> str:
        """What was cut and why, in one line; empty where nothing was and the bound is kept."""
        bound = "" if self.max_seconds is None else f"; max_seconds={self.max_seconds:g}"
        needed = "" if self.needed is None else about(self.needed)
        said = ""
        if self.cuts:
            why = f"({needed}{bound})" if bound else f"({needed} with the default methods, on images so large)"
            words = ", ".join(cut.words for cut in self.cuts)
            said = f"Cut before it began, from its estimated cost alone {why}: {words}."
        if not self.is_kept and self.expected is not None:
            said += (
                f"{' ' if said else ''}Even so it is expected to take {about(self.expected)}, above "
                f"max_seconds={self.max_seconds:g}: no smaller audit could conclude anything."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON and checkpoints."""
        cuts = [{**asdict(cut), "asked": _plain(cut.asked), "used": _plain(cut.used)} for cut in self.cuts]
        return {**asdict(self), "cuts": cuts}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Bounds":
        """From :meth:`to_dict`."""
        cuts = tuple(Cut(cut["argument"], cut["asked"], cut["used"]) for cut in content["cuts"])
        return cls(cuts, content["max_seconds"], content["needed"], content["expected"])


def cost_row(
    estimate: Mapping[str, Any] | None, bounds: Bounds, seconds: float, num_evaluations: int
) -> dict[str, Any]:
    """What ``audits.jsonl`` says of an audit's cost: the estimate beside what it took, and what was cut.

    Args:
        estimate: ``seconds``, ``num_evaluations`` and ``num_bytes``; None where none could be made.
        bounds: What was decided before.
        seconds: That it took.
        num_evaluations: That it made.

    >>> row = cost_row({"seconds": 40.0, "num_evaluations": 5200, "num_bytes": 3e8}, Bounds(), 38.123456, 5104)
    >>> row["estimated_seconds"], row["seconds"], row["cuts"]
    (40.0, 38.123, [])
    """
    known = estimate or {}
    return {
        "seconds": round(seconds, 3),
        "estimated_seconds": _rounded(known.get("seconds"), 3),
        "num_evaluations": num_evaluations,
        "estimated_num_evaluations": _rounded(known.get("num_evaluations"), 0),
        "estimated_num_bytes": _rounded(known.get("num_bytes"), 0),
        **{key: value for key, value in bounds.to_dict().items() if key != "expected"},
        "sentence": bounds.sentence,
    }


def cost_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was cut from an audit, and that its bound was not kept; none where there is nothing to say.

    Args:
        rows: Of one audit.
    """
    cost = (rows[0].get("cost") if rows else None) or {}
    sentence = cost.get("sentence")
    return [str(sentence)] if sentence else []


def about(seconds: float) -> str:
    """A duration for people, in one unit.

    >>> about(42), about(170), about(5400), about(400_000)
    ('about 42 s', 'about 3 min', 'about 90 min', 'about 111 h')
    """
    number, unit = (seconds, "s") if seconds < 90 else (seconds / 60, "min")
    if number > 90:
        number, unit = seconds / 3600, "h"
    return f"about {number:.0f} {unit}"


def _rounded(value: Any, digits: int) -> Any:
    if value is None:
        return None
    return round(float(value), digits) if digits else round(float(value))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _said(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple | list) else f"{value}"

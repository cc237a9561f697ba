"""What a reason is, and the words that reasons share."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.proportions import Proportion


@dataclass(frozen=True)
class Reason:
    """Why nothing can be concluded.

    Attributes:
        code: For programs.
        clause: Completes "no training image came back, but ...".
        explanation: A sentence or two.
        remedy: What to do about it.

    >>> Reason("too_few_members", "too few were audited", "Two are few.", "Audit more members.").code
    'too_few_members'
    """

    code: str
    clause: str
    explanation: str
    remedy: str


def of(share: Proportion) -> str:
    """``3 of 10``."""
    return f"{share.count} of {share.num}"


def loss(judgement: Judgement) -> str:
    """The train loss in short."""
    return "unknown" if judgement.train_loss is None else f"{judgement.train_loss:.1e}"


def decibels(value: float | None) -> str:
    """With its unit."""
    return "unknown" if value is None else f"{value:.1f} dB"


def listed(names: Sequence[str], word: str = "or") -> str:
    """``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def positive(number: float) -> str:
    """A number above 0 that is not printed as 0.

    >>> positive(1.26), positive(0.013)
    ('1.3', '0.01')
    """
    return f"{number:.1f}" if number >= 0.05 else f"{number:.1g}"


def words(name: str) -> str:
    """A method's name for people."""
    return name.replace("_", " ")


def untried(judgement: Judgement, *patterns: str) -> list[str]:
    """Those of the patterns that were not audited: what was tried is no advice."""
    tried = {one.pattern for one in judgement.patterns}
    return [pattern for pattern in patterns if pattern not in tried]

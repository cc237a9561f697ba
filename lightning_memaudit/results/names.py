"""Names that the rooms share, and how a wrong one is answered; nothing here imports torch."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

INPAINTER = "biharmonic"
"""The generic inpainter: what it recovers without any autoencoder is no evidence of memorization."""

TOLD_NOTHING = ("blind", "blind_black_box", "paper_blind", "white_box", "autoencoder_iterations", "blind_deblurring")
"""The package's methods that are given no more than the degraded image and the autoencoder, the audited one first."""

TOLD_THE_MASK = ("known_mask", "ddnm", INPAINTER)
"""Those that are told which pixels are missing: bounds and baselines, audited where there is nothing else."""

CALLING = (*TOLD_NOTHING, "known_mask")
"""The package's methods that call the autoencoder; its others never do."""

DEFAULT_NAME = "memaudit"
"""Of the callback: prefix of the metrics, and folder of the results within a run."""

_NAME = re.compile(r"[A-Za-z0-9_.+-]*[A-Za-z0-9_+-]")


def primary_method(names: Sequence[str], without_autoencoder: Collection[str] = ()) -> str:
    """The method that the headline speaks of, whatever the order in which they run.

    The first of those of the package that are told nothing, ``blind`` before all; else one of other names, the first by
    the alphabet; else one that is told the mask.

    Args:
        names: The methods that run, at least one.
        without_autoencoder: Those among them that never call the autoencoder: what they bring back says nothing of it.

    >>> primary_method(["diffusion", "known_mask", "biharmonic"], without_autoencoder=["diffusion", "biharmonic"])
    'known_mask'
    >>> primary_method(["known_mask", "paper_blind"]), primary_method(["paper_blind", "known_mask"])
    ('paper_blind', 'paper_blind')
    """
    asked = [name for name in names if name != INPAINTER and name not in without_autoencoder]
    return min(asked or names, key=_preference)


def _preference(name: str) -> tuple[int, int, str]:
    for group, known in ((0, TOLD_NOTHING), (2, TOLD_THE_MASK)):
        if name in known:
            return group, known.index(name), name
    return 1, 0, name


def check_name(name: str, argument: str) -> None:
    """Raise unless a name can be part of metrics, arrays, folders and pages: the one rule for all names.

    Args:
        name: The name.
        argument: It and its value, as the message shall show them.

    Raises:
        ValueError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{argument}: pass letters, digits, '_', '-', '+' and '.' only, the last none of '.'")


def did_you_mean(given: str, known: Iterable[str], quoted: bool = True) -> str:
    """``did you mean 'this'?`` when something known is near, else nothing; never what was given.

    >>> did_you_mean("blnd", ["blind", "known_mask"])
    "did you mean 'blind'?"
    """
    others = list(known)
    near = [] if given in others else difflib.get_close_matches(given, others, n=1, cutoff=0.6)
    return f"did you mean {repr(near[0]) if quoted else near[0]}?" if near else ""

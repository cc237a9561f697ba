"""Which version says that it wrote a run, and what other rules held then."""

from collections.abc import Mapping
from typing import Any

HASHES = (0, 2, 0)
"""From here on every run has a chain and a seal; some of the version before have."""
RULES = (0, 3, 4)
"""From here on no order chooses the audited method, or which repeats count, and low contrast makes no repeats."""
THRESHOLD = (0, 3, 5)
"""From here on images count once that are as alike as what counts as recovered."""
TOGETHER = (0, 3, 7)
"""From here on several of the patterns are weighed together, where all of them together tell nothing, in no order of
their names; and controls on which recovery failed do not count."""
SAME_AUDIT = (0, 3, 8)
"""From here on only the same audit of the same images is a negative control, and recoveries that came to nothing are
counted."""


def named_version(run: Mapping[str, Any]) -> str:
    """What ``run.json`` says; empty where it says nothing."""
    return str((run.get("versions") or {}).get("lightning_memaudit", ""))


def is_before(run: Mapping[str, Any], version: tuple[int, ...]) -> bool:
    """Whether a run says that an earlier version wrote it; one that says nothing is of this one.

    >>> [is_before({"versions": {"lightning_memaudit": one}}, RULES) for one in ("0.3.3", "0.3.4", "", "1.0.dev0")]
    [True, False, False, False]
    """
    return is_earlier(named_version(run), version)


def is_earlier(named: str, version: tuple[int, ...]) -> bool:
    """The same of the version itself.

    >>> is_earlier("0.3.6", TOGETHER), is_earlier("0.3.7", TOGETHER)
    (True, False)
    """
    parts = named.split(".")
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < version

"""Consoles that lack a sign get a plain one in its place, where Python would end the command within a line."""

import codecs
import io
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

SIGNS = {
    "✓": "ok",
    "✗": "x",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "·": "*",
    "×": "x",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "≈": "~",
    "→": "->",
    "←": "<-",
    "●": "*",
    "◕": "*",
    "◐": "o",
    "○": "o",
    "•": "*",
    "σ": "sigma",
    "λ": "lambda",
    "µ": "u",
}
"""What is written for a sign of ours; line drawing and bars are replaced by their names in Unicode."""

NAME = "lightning_memaudit.plain"
"""Of the handler of errors, as Python's codecs know it."""

GENTLE = ("strict", "surrogateescape", "backslashreplace")
"""Handlers of Python's own choice; whoever asked for another one gets it."""


def plain(text: str) -> str:
    r"""The text in ASCII: signs by plain ones, all else by escapes.

    >>> plain("✓ rows: 3 × 4 ≥ 11"), plain("│━│ ████ 猫")
    ('ok rows: 3 x 4 >= 11', '|-| #### \\u732b')
    """
    return "".join(char if char.isascii() else _sign(char) for char in text)


def _sign(char: str) -> str:
    if char in SIGNS:
        return SIGNS[char]
    name = unicodedata.name(char, "")
    if name.startswith("BOX DRAWINGS"):
        return "+" if " AND " in name else "|" if name.endswith(("VERTICAL", "UP", "DOWN")) else "-"
    if "BLOCK" in name or "SHADE" in name:
        return "#"
    if name.startswith("BRAILLE"):
        return "."
    return char.encode("ascii", "backslashreplace").decode("ascii")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error(NAME, _replace)


@contextmanager
def plain_signs() -> Iterator[None]:
    """Write to consoles of any encoding, as long as this lasts: what the encoding lacks is written plainly."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in GENTLE:
            changed.append((stream, stream.errors))
            stream.reconfigure(errors=NAME)
    try:
        yield
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)

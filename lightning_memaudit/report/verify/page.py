"""The page, drawn again: its hash alone would only show that someone wrote it down."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_memaudit import __version__
from lightning_memaudit.report.document import run_name
from lightning_memaudit.report.html import render
from lightning_memaudit.report.labels import printable, shortened
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.report.write import BARE_HTML, HTML
from lightning_memaudit.results.files import is_own
from lightning_memaudit.results.run_folder import RunFolder

_RUN = re.compile(r'<meta name="memaudit-run" content="([^"]*)">')
_DRAWN = re.compile(r'<svg.*?</svg>|src="data:[^"]*"', re.DOTALL)


def same_name(name: str, folder: RunFolder) -> Check:
    """What its pages call the run, which may be any words, is the name of its folder, until that is moved."""
    texts = [_text(folder, page) for page in (HTML, BARE_HTML) if is_own(folder.path / page)]
    names = {called for text in texts if (called := _called(text)) is not None}
    here = printable(run_name(folder))
    if not names:
        return Check(name, None, "no page names it")
    if names == {here}:
        return Check(name, True, shortened(here))
    pages = ", ".join(repr(shortened(one)) for one in sorted(names))
    return Check(name, None, f"its page calls it {pages}, the folder is {shortened(here)!r}")


def same_page(name: str, folder: RunFolder, document: Mapping[str, Any]) -> Check:
    """The page is what ``report.json`` and the saved recoveries make, with its pictures or without any.

    Charts and pictures come from libraries, whose other versions may draw them otherwise: where all else is the same,
    they are said not to be checked.
    """
    there = [page for page in (HTML, BARE_HTML) if is_own(folder.path / page)]
    if not there:
        return Check(name, None, f"there is no {HTML}")
    view = RunView(folder, dict(document))
    checks = [_same(name, view, page, (True, False) if page == HTML else (False,)) for page in there]
    return min(checks, key=lambda check: (check.passed is not False, check.passed is not None))


def _same(name: str, view: RunView, page: str, ways: Sequence[bool]) -> Check:
    """One page, drawn again with pictures or without."""
    text = _text(view.folder, page)
    called = _called(text)
    if called is None or view.document["tool"]["version"] != __version__:
        return Check(name, None, "another version wrote it: make it again with `report`")
    different = []
    for pictures in ways:
        again = render([view.folder], [view.document], pictures, [called], [view])
        if text == again:
            return Check(name, True, "to the last byte")
        different.append(_first_difference(_DRAWN.sub("", text), _DRAWN.sub("", again)))
    if None in different:
        return Check(name, None, "all but its charts and pictures is; those would be drawn otherwise here")
    return Check(name, False, f"{page} says {different[0]}")


def _text(folder: RunFolder, page: str) -> str:
    return (folder.path / page).read_text(encoding="utf-8", errors="replace")


def _called(text: str) -> str | None:
    """What a page calls the run; None where it does not say."""
    called = _RUN.search(text)
    return None if called is None else html.unescape(called[1])


def _first_difference(text: str, again: str) -> str | None:
    """The first line that the page has, and what it should be; None where there is none."""
    one, other = text.splitlines(), again.splitlines()
    for line, should_be in zip(one, other, strict=False):
        if line != should_be:
            return f"{_short(line)}, and should say {_short(should_be)}"
    return None if len(one) == len(other) else f"{len(one)} lines, and should have {len(other)}"


def _short(line: str) -> str:
    text = " ".join(re.sub(r"<[^>]*>", " ", line).split())
    return repr(text if len(text) < 80 else text[:77] + "...")

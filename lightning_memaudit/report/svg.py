"""Charts as inline SVG: drawn by matplotlib, made small, with colours that come from the page."""

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lightning_memaudit.report.style import METHOD_STYLES, figure_style

PAGE_COLORS = {"#000000": "currentColor", "#e4e4e4": "var(--line)", "#444444": "var(--soft)"}
PAGE_COLORS |= {"#ffffff": "var(--page)", "#c4c4c4": "var(--others)"}
PAGE_COLORS |= {color.lower(): f"var(--{name.replace('_', '-')})" for name, (color, _) in METHOD_STYLES.items()}
"""From matplotlib's colours to the page's."""

_COLOR = re.compile("|".join(PAGE_COLORS), re.IGNORECASE)
_FONT = re.compile(r"font: [^;\"]*?(\d+(?:\.\d+)?px)[^;\"]*")
_FAMILY = re.compile(r";? ?font-family: [^;\"]*")


def to_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """The figure as inline SVG: colours of the page, ids that are unique to ``prefix``, and its width in inches.

    By that the page makes no chart larger than the others, however few panels it has: letters are of one size.

    Args:
        figure: Any.
        prefix: Unique within the page.
        description: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "memaudit", "font.family": "sans-serif"}
    with figure_style(), matplotlib.rc_context(settings):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = smaller(text[text.index("<svg") :], prefix)
    label, width = escape(description), f"--inches: {figure.get_figwidth():.2f}"
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}" style="{width}"', 1)
    return Markup(text)  # made here; the one foreign text, the label, is escaped


def smaller(svg: str, prefix: str) -> str:
    r"""The same picture with less to say: two decimals, no ids but those that are referred to, no comments.

    What is written in it stays as it is; only its tags are made shorter.

    >>> smaller('<g id="a">\n <text x="1.23456" style="fill: #000000"> 0.12345</text>\n</g>', "chart")
    '<g><text x="1.23" style="fill: currentColor"> 0.12345</text></g>'
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s*\n\s*<", "><", svg)
    used = set(re.findall(r"#([\w.-]+)", " ".join(re.findall(r'(?:href="|url\()#[\w.-]+', svg))))
    names = {name: f"{prefix}-{number}" for number, name in enumerate(sorted(used))}
    svg = re.sub(r"<[^>]+>", lambda tag: _shorter(tag[0], names), svg)
    return _MARKS.sub(_styled_once, svg)


_MARKS = re.compile(r"<g>((?:<use [^>]*/>){2,})</g>")
_STYLE = re.compile(r' style="([^"]*)"')


def _styled_once(group: "re.Match[str]") -> str:
    """Marks of one style in a group that has it."""
    styles = set(_STYLE.findall(group[1]))
    if len(styles) != 1:
        return group[0]
    return f'<g style="{styles.pop()}">{_STYLE.sub("", group[1])}</g>'


def _shorter(tag: str, names: dict[str, str]) -> str:
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version|xmlns(?::xlink)?)="[^"]*"', "", tag)
    tag = re.sub(r'(?<=href="#)[\w.-]+|(?<=url\(#)[\w.-]+', lambda found: names[found[0]], tag)
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", tag)
    tag = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = _FAMILY.sub("", _FONT.sub(r"font-size: \1", tag))
    tag = _COLOR.sub(lambda found: PAGE_COLORS[found[0].lower()], tag)
    return re.sub(r"\s+", " ", tag).replace('; "', '"')

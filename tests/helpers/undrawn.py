"""Pages without their charts, for all tests but those that look at them."""

import contextlib

import pytest
from markupsafe import Markup, escape

from lightning_memaudit.report.svg import to_svg

CHARTS = ("charts", "gain_charts", "comparison")


def described(figure, prefix, description):
    """What a chart shows, and nothing of it."""
    return Markup(f'<svg role="img" aria-label="{escape(description)}"></svg>')


@contextlib.contextmanager
def charts_by(draw):
    """Charts are made as ever, and what stands for them on a page is what ``draw`` makes of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CHARTS:
            patch.setattr(f"lightning_memaudit.report.{name}.to_svg", draw)
        yield


def undrawn():
    """Pages whose charts say what they show, and show nothing: drawing them takes longer than all else of a page."""
    return charts_by(described)


def drawing():
    """Charts as they are."""
    return charts_by(to_svg)

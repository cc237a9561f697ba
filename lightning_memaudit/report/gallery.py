"""The gallery of images that came out of the weights by themselves: each beside the truth."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_memaudit.report.labels import image_name
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.sheet import Sheet, wrapped
from lightning_memaudit.report.style import drawn_name
from lightning_memaudit.report.views import chosen, drawn_as

COLUMNS = 12
MAX_SHOWN = 48
"""Images in the gallery; those with the largest basins."""


class Extracted(NamedTuple):
    """One image that came out, beside the truth.

    Attributes:
        row: Of ``images`` in the extraction of ``report.json``.
        truth: (C, *spatial).
        image: (C, *spatial), the fixed point.
        share: Of the starts, that ended there.

    >>> one = Extracted({"image": 3, "psnr": 41.26}, np.zeros((1, 8, 8)), np.zeros((1, 8, 8)), share=0.125)
    >>> one.caption
    '12.5%, 41.3 dB'
    """

    row: Mapping[str, Any]
    truth: "np.ndarray[Any, Any]"
    image: "np.ndarray[Any, Any]"
    share: float

    @property
    def caption(self) -> str:
        """The basin and the quality."""
        return f"{self.share:.1%}, {self.row['psnr']:.1f} dB"


def gallery(view: RunView) -> list[Extracted]:
    """The images that came out, as far as pictures of them were saved; of their channels those that are shown."""
    saved, found = view.saved, view.document["extraction"]
    if not found or saved is None or "extraction/image" not in saved.arrays:
        return []
    arrays, starts = saved.arrays, max(1, found["num_starts"])
    triples = zip(found["images"], arrays["extraction/truth"], arrays["extraction/image"], strict=False)
    return [
        Extracted(row, chosen(truth, view.channels), chosen(image, view.channels), row["basin"] / starts)
        for row, truth, image in islice(triples, MAX_SHOWN)
    ]


def extraction_figure(view: RunView) -> dict[str, Figure]:
    """The gallery of the newest audit by the name of its figure; none where nothing came out."""
    shown = gallery(view)
    if not shown or view.saved is None:
        return {}
    drawn = drawn_as(view.saved.arrays["extraction/truth"].shape[1:], view.channels, hidden=False)
    return {"extraction": _draw(shown, view.document["extraction"]["sentence"], drawn)}


def _draw(shown: Sequence[Extracted], sentence: str, drawn: str = "") -> Figure:
    columns = max(6, min(COLUMNS, len(shown)))
    words = "Above what came out, with the share of the starts that ended there and its PSNR; below it the truth."
    title = [line for text in (sentence, words, drawn) if text for line in wrapped(text, 13 * columns)]
    sheet = Sheet(
        2 * -(-len(shown) // columns), columns, 0.95, left=0.7, top=0.3 + 0.16 * len(title), like=shown[0].truth
    )
    sheet.title("\n".join(title))
    for number, one in enumerate(shown):
        line, column = divmod(number, columns)
        if not column:
            sheet.label(2 * line, "came\nout")
            sheet.label(2 * line + 1, "truth")
        sheet.image(2 * line, column, one.image, one.caption, recovered=True)
        sheet.image(2 * line + 1, column, one.truth, _caption(one))
    return sheet.figure


def _caption(one: Extracted) -> str:
    """``member 29``: an image that was never trained on must not pass for one that was."""
    return f"{one.row['group'].removesuffix('s')} {drawn_name(image_name(one.row), one.row['image'], 9)}"

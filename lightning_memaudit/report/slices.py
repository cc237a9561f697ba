"""A volume beside what came back of it, slice by slice: a piece of HTML with a slider, which needs nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lightning_memaudit.report.pictures import picture
from lightning_memaudit.report.views import chosen

MOST_SLICES = 32
"""On a slider; of more, so many that are evenly spaced."""
MOST_SIDE = 128
"""Values of a slice along each axis; of more, every second, third, ..."""
WIDTH = 160
"""Of a slice as shown, in pixels."""

_PAGE = Markup(
    "<style>body{{font:14px sans-serif;background:#fff;color:#111}} figure{{display:inline-block;margin:0 8px 0 0}}"
    " div{{width:{width}px;height:{height}px;overflow:hidden}}"
    " img{{width:{width}px;image-rendering:pixelated;margin-top:calc(var(--slice)*-{height}px)}}</style>"
    '<body style="--slice:{first}"><p><label>slice <output>{number}</output> of {depth}, across the first axis: '
    '<input type="range" min="0" max="{last}" value="{first}" style="width:{width}px" '
    "oninput=\"document.body.style.setProperty('--slice',this.value);"
    "document.querySelector('output').value=[{numbers}][this.value]\"></label></p>{figures}</body>"
)  # constants of this file


def slider(
    volumes: "Sequence[tuple[str, np.ndarray[Any, Any]]]", at: int | None = None, channels: Sequence[int] | None = None
) -> str:
    """HTML that shows the slices across the first axis of volumes side by side; a slider goes through them.

    Args:
        volumes: Captions with volumes (C, D, H, W) in [0, 1], of one size.
        at: The slice to begin with; None is the one in the middle.
        channels: Those to show, see :func:`.chosen`.

    >>> page = slider([("truth", np.zeros((1, 6, 8, 8))), ("recovered", np.zeros((1, 6, 8, 8)))], at=2)
    >>> page.count("<img"), 'max="5" value="2"' in page
    (2, True)
    """
    depth, height, width = volumes[0][1].shape[1:]
    shown = np.unique(np.linspace(0, depth - 1, min(depth, MOST_SLICES)).round().astype(int))
    begin = int(np.abs(shown - (depth // 2 if at is None else at)).argmin())
    figures = Markup("").join(
        Markup('<figure><div><img src="{}" alt="{}"></div><figcaption>{}</figcaption></figure>').format(
            picture(_tower(chosen(volume, channels), shown)), caption, caption
        )
        for caption, volume in volumes
    )
    return str(
        _PAGE.format(
            width=WIDTH,
            height=round(WIDTH * len(range(0, height, _step(height))) / len(range(0, width, _step(width))), 2),
            first=begin,
            last=len(shown) - 1,
            number=shown[begin] + 1,
            depth=depth,
            numbers=", ".join(str(one + 1) for one in shown),
            figures=figures,
        )
    )


def _step(side: int) -> int:
    return -(-side // MOST_SIDE)


def _tower(volume: "np.ndarray[Any, Any]", shown: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The slices of a volume (C, D, H, W), one below the other: (C, slices times height, width)."""
    height, width = volume.shape[2:]
    some = volume[:, shown, :: _step(height), :: _step(width)]
    return some.reshape(len(some), -1, some.shape[-1])

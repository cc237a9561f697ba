"""Images of any number of axes as pictures: volumes as three slices through one point, signals as curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = "np.ndarray[Any, Any]"

BETWEEN = 0.8
"""The grey between slices, and where there is none: neither hidden nor observed in a mask."""

MOST_SAMPLES = 256
"""Columns of a signal's curve; a longer signal is drawn by its extremes."""

SHOWN_CHANNELS = 3


def chosen(image: "np.ndarray[Any, Any]", channels: Sequence[int] | None) -> "np.ndarray[Any, Any]":
    """The channels of an image (C, *spatial) that are shown; all of it where None are chosen, or it has but one.

    >>> image = np.arange(5)[:, None, None] * np.ones((1, 2, 2))
    >>> chosen(image, [3, 2, 1])[:, 0, 0].tolist(), chosen(image[:1], [3, 2, 1]).shape  # as a mask that all share
    ([3.0, 2.0, 1.0], (1, 2, 2))
    """
    if channels is None or len(image) <= max(channels):
        return image
    return image[list(channels)]


def picture_of(
    image: "np.ndarray[Any, Any]", at: "tuple[int, ...] | None" = None, channels: Sequence[int] | None = None
) -> "np.ndarray[Any, Any]":
    """An image (C, *spatial) in [0, 1] as a picture (C, H, W).

    A picture stays what it is. Of a volume there are three slices through one point: across the depth at the top left,
    below it across the height, to the right of it across the width; an axis keeps its place from slice to slice. A
    signal becomes the curves of its first three channels, one above the other, dark on white.

    Args:
        image: (C, L), (C, H, W) or (C, D, H, W).
        at: The point, an index per spatial axis; None is the middle.
        channels: Those to show, see :func:`chosen`.

    >>> [picture_of(np.zeros(shape)).shape for shape in ((1, 8, 8), (2, 5, 6, 7), (1, 64))]
    [(1, 8, 8), (2, 12, 13), (1, 32, 64)]
    """
    image = chosen(image, channels)
    if image.ndim == 2:
        return _curves(image)
    if image.ndim == 3:
        return image
    depth, height, width = image.shape[1:]
    d, h, w = at or (depth // 2, height // 2, width // 2)
    gap = max(1, width // 32)
    sheet = np.full((len(image), height + gap + depth, width + gap + depth), BETWEEN, image.dtype)
    sheet[:, :height, :width] = image[:, d]
    sheet[:, height + gap :, :width] = image[:, :, h]
    sheet[:, :height, width + gap :] = image[:, :, :, w].transpose(0, 2, 1)
    return sheet


def picture_of_mask(
    mask: "np.ndarray[Any, Any]", at: "tuple[int, ...] | None" = None, channels: Sequence[int] | None = None
) -> "np.ndarray[Any, Any]":
    """A mask (1 or C, *spatial) beside the picture of its image: white where observed, black where hidden.

    That of a signal is a band as long as its curve, of every channel one where they differ.

    Args:
        mask: In [0, 1], 1 where observed.
        at: As for the image, see :func:`picture_of`.
        channels: Likewise.

    >>> band = picture_of_mask(np.repeat([[1.0, 0.0]], 32, axis=1))
    >>> band.shape, float(band[0, :, 0].mean()), float(band[0, :, -1].mean())
    ((1, 32, 64), 1.0, 0.0)
    """
    if mask.ndim != 2:
        return picture_of(mask, at, channels)
    shown = chosen(mask, channels)[:SHOWN_CHANNELS].astype(np.float64)
    first, _, height = _columns(shown)
    return np.repeat(shown[:, first], height, axis=0)[None]


def drawn_as(shape: "tuple[int, ...]", shown: Sequence[int] | None = None, hidden: bool = True) -> str:
    """What a reader must know of how images of this shape, (C, *spatial), are drawn; nothing of gray and RGB pictures.

    Args:
        shape: Of one image.
        shown: The channels that were chosen.
        hidden: Whether a part of each volume was hidden, where it is cut; else it is cut in the middle.

    >>> drawn_as((1, 16, 16, 16))
    'Of a volume there are slices across the first axis (top left), the second (below) and the third (right), \
through one point in its largest hidden part.'
    >>> drawn_as((8, 16, 16))
    'Of 8 channels the first three are shown, as red, green and blue.'
    >>> drawn_as((8, 16, 16), [3, 2, 1])
    'Of 8 channels, counted from 0, those numbered 3, 2, 1 are shown, as red, green and blue.'
    >>> drawn_as((3, 16, 16))
    ''
    """
    sentences = []
    if len(shape) == 4:
        sentences.append(
            "Of a volume there are slices across the first axis (top left), the second (below) and the third (right), "
            f"through {'one point in its largest hidden part' if hidden else 'its middle'}."
        )
    if len(shape) == 2:
        sentences.append("A signal is a curve from 0 (bottom) to 1 (top), its mask black where it was hidden.")
    channels = shape[0]
    if shown is not None and max(shown) < channels:
        which = f"number {shown[0]} is shown"
        if len(shown) > 1:
            colours = "" if len(shape) == 2 else ", as red, green and blue"
            which = f"those numbered {', '.join(map(str, shown))} are shown{colours}"
        sentences.append(f"Of {channels} channels, counted from 0, {which}.")
    elif channels > SHOWN_CHANNELS:
        colours = "" if len(shape) == 2 else ", as red, green and blue"
        sentences.append(f"Of {channels} channels the first three are shown{colours}.")
    elif channels == 2 and len(shape) != 2:
        sentences.append("Of 2 channels the first is shown.")
    return " ".join(sentences)


def _curves(signal: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """(1, H, W): every channel in a band of its own."""
    shown = np.clip(np.nan_to_num(signal[:SHOWN_CHANNELS].astype(np.float64)), 0, 1)
    first, last, height = _columns(shown)
    level = np.rint((1 - shown) * (height - 1)).astype(int)
    rows = np.arange(height)[:, None]
    bands = []
    for channel in level:
        # To the next column's first sample, so that a curve has no gaps.
        parts = [channel[begin : end + 1] for begin, end in zip(first, last, strict=True)]
        top, bottom = (np.array([extreme(part) for part in parts]) for extreme in (np.min, np.max))
        bands.append(np.where((rows >= top) & (rows <= bottom), 0.0, 1.0))
    return np.concatenate(bands)[None]


def _columns(shown: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]":
    """For each column of a picture of channels (C, L) the first sample and the one after the last; a band's height."""
    length = shown.shape[1]
    columns = min(length, MOST_SAMPLES)
    first = np.arange(columns) * length // columns
    last = np.maximum((np.arange(columns) + 1) * length // columns, first + 1)
    return first, last, max(16, max(32, columns // 2) // len(shown))


def hidden_center(mask: "np.ndarray[Any, Any] | None") -> "tuple[int, ...] | None":
    """A point in the middle of the largest hidden part of a volume; None where nothing is hidden, or of other images.

    Args:
        mask: (1 or C, D, H, W), 1 where observed; a voxel is hidden that is hidden in any channel.

    >>> mask = np.ones((1, 8, 8, 8))
    >>> mask[0, 0, 0, 0] = mask[0, 3:6, 4:7, 5:8] = 0
    >>> hidden_center(mask)
    (4, 5, 6)
    """
    if mask is None or mask.ndim != 4:
        return None
    hidden = (np.asarray(mask) < 0.5).any(0)
    if not hidden.any():
        return None
    from scipy import ndimage

    parts, _ = ndimage.label(hidden)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # what is observed
    inside = np.argwhere(parts == sizes.argmax())
    nearest = np.square(inside - inside.mean(0)).sum(1).argmin()
    return tuple(int(index) for index in inside[nearest])


def displayed(
    image: "np.ndarray[Any, Any]", at: "tuple[int, ...] | None" = None, channels: Sequence[int] | None = None
) -> "np.ndarray[Any, Any]":
    """An image (C, *spatial) as matplotlib shows it: (H, W) gray or (H, W, 3) colour in [0, 1].

    Three channels are red, green and blue, of more the first three; of two the first is shown, in grey.

    Args:
        image: See :func:`picture_of`.
        at: Likewise.
        channels: Likewise.

    >>> displayed(np.zeros((13, 8, 8))).shape, displayed(np.zeros((2, 8, 8))).shape
    ((8, 8, 3), (8, 8))
    """
    picture = np.clip(np.nan_to_num(np.asarray(picture_of(image, at, channels), dtype=np.float64)), 0, 1)
    return picture[:SHOWN_CHANNELS].transpose(1, 2, 0) if len(picture) >= SHOWN_CHANNELS else picture[0]

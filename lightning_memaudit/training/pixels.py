"""Values and sizes of pixels: what is in [0, 1], and how an image is brought to a size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8
from torchvision.transforms.v2 import functional as transforms

ImageSize = int | tuple[int, int]


def value_range(values: NDArray[Any]) -> str:
    """The range of an array in words.

    >>> value_range(np.array([3, 250])), value_range(np.array([0.5, np.nan]))
    ('values from 3 to 250', 'values that are no numbers (NaN)')
    """
    low, high = values.min(), values.max()
    if low != low:
        return "values that are no numbers (NaN)"
    return f"values from {low:g} to {high:g}" if values.dtype.kind == "f" else f"values from {low} to {high}"


def in_unit_range(values: NDArray[Any]) -> NDArray[np.float32] | None:
    """The values as float32, or None where any is outside of [0, 1] or NaN: they are never clipped.

    >>> in_unit_range(np.array([0.0, 0.5], dtype=">f8")), in_unit_range(np.array([0.0, 255.0]))
    (array([0. , 0.5], dtype=float32), None)
    """
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
        narrow: NDArray[np.float32] = values.astype(np.float32)
    return narrow if narrow.min() >= 0 and narrow.max() <= 1 else None


def resize_and_crop(image: Tensor, image_size: ImageSize | None) -> Tensor:
    """Resize an image (C, H, W) to cover ``image_size`` and crop its middle; None leaves it as it is.

    Raises:
        ValueError: The size is below 1.
    """
    if image_size is None:
        return image
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(f"image_size={image_size}: give a size of at least 1")
    scale = max(height / image.shape[-2], width / image.shape[-1])
    covering = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
    resized = transforms.resize(image, covering, antialias=True)
    cropped: Tensor = transforms.center_crop(resized, [height, width])
    return cropped.clamp(0, 255 if image.dtype == uint8 else 1)

"""Values and sizes of pixels: what is in [0, 1], and how an image is brought to a size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

ImageSize = int | tuple[int, int] | tuple[int, int, int]


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
    """Resize an image (C, *spatial) to cover ``image_size`` and crop its middle; None leaves it as it is.

    Args:
        image: uint8, or float in [0, 1].
        image_size: Of every spatial axis, or one number for all.

    Raises:
        ValueError: The size is below 1, or has more or fewer axes than the image.

    >>> import torch
    >>> resize_and_crop(torch.rand(1, 12, 20, 16), (6, 8, 8)).shape
    torch.Size([1, 6, 8, 8])
    """
    if image_size is None:
        return image
    num_axes = image.ndim - 1
    sizes = [image_size] * num_axes if isinstance(image_size, int) else list(image_size)
    if min(sizes) < 1:
        raise ValueError(f"image_size={image_size}: give a size of at least 1")
    if len(sizes) != num_axes:
        raise ValueError(f"image_size={image_size}: {len(sizes)} sizes for images of {num_axes} spatial axes")
    if num_axes != 2:
        return _resize_and_crop_any(image, sizes)
    height, width = sizes
    scale = max(height / image.shape[-2], width / image.shape[-1])
    covering = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
    resized = transforms.resize(image, covering, antialias=True)
    cropped: Tensor = transforms.center_crop(resized, [height, width])
    return cropped.clamp(0, 255 if image.dtype == uint8 else 1)


def _resize_and_crop_any(image: Tensor, sizes: list[int]) -> Tensor:
    """Signals and volumes: the mean over what falls together where an axis shrinks, else linear interpolation."""
    spatial = image.shape[1:]
    scale = max(wanted / size for wanted, size in zip(sizes, spatial, strict=True))
    covering = [max(wanted, round(size * scale)) for wanted, size in zip(sizes, spatial, strict=True)]
    mode = "area" if scale <= 1 else "linear" if len(sizes) == 1 else "trilinear"
    resized = functional.interpolate(image[None].float(), covering, mode=mode)[0]
    for axis, (wanted, size) in enumerate(zip(sizes, covering, strict=True), start=1):
        resized = resized.narrow(axis, (size - wanted) // 2, wanted)
    return resized.round().to(uint8) if image.dtype == uint8 else resized.clamp(0, 1)

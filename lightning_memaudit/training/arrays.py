"""Images in arrays, and the .npy and .npz files that hold them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.training.pixels import ImageSize, in_unit_range, resize_and_crop, value_range

LAYOUTS = ("auto", "HWC", "CHW")
CHANNELS = (1, 3, 4)
MEND = "give uint8, uint16, bool, or float scaled to [0, 1]"


class ArrayImages:
    """The images of an array, as (C, H, W): uint8, or float32 in [0, 1].

    uint8 stays what it is and bool becomes 0 and 255; uint16 is divided by 65535; floats of any width and byte order
    must be in [0, 1].

    Args:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W).
        layout: See :class:`ImagesDataModule`.
        image_size: See :func:`resize_and_crop`.
        file: Where the array comes from, for names and messages.

    Raises:
        ValueError: The array is not one of images; at indexing, an image has values outside of [0, 1].

    Attributes:
        names: Of each image: ``<file>[index]``, or the index alone.

    >>> images = ArrayImages(np.zeros((20, 12, 16, 3), dtype=np.uint8))
    >>> len(images), images[0].shape, images.names[19]
    (20, torch.Size([3, 12, 16]), '19')
    >>> ArrayImages(np.zeros((20, 12, 16), dtype=np.int64))
    Traceback (most recent call last):
    ValueError: an array of int64 with values from 0 to 0 does not hold images; give uint8, uint16, bool, or float ...
    """

    def __init__(
        self,
        array: NDArray[Any],
        layout: str = "auto",
        image_size: ImageSize | None = None,
        file: Path | None = None,
    ) -> None:
        self.source = "" if file is None else f"{file}: "
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: give one of {', '.join(LAYOUTS)}")
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise ValueError(
                f"{self.source}an array of shape {list(array.shape)} does not hold images; "
                "give (N, H, W), (N, H, W, C) or (N, C, H, W)"
            )
        if array.dtype.kind not in "bf" and array.dtype.name not in ("uint8", "uint16"):
            values = f" with {value_range(array)}" if array.dtype.kind in "iu" else ""
            raise ValueError(f"{self.source}an array of {array.dtype}{values} does not hold images; {MEND}")
        if array.ndim == 4 and layout == "auto":
            layout = self._find_layout(array.shape)
        self.array, self.channels_last, self.image_size = array, layout == "HWC", image_size
        self.names = [str(index) if file is None else f"{file.name}[{index}]" for index in range(len(array))]

    def _find_layout(self, shape: tuple[int, ...]) -> str:
        last, second = shape[3] in CHANNELS, shape[1] in CHANNELS
        if last == second:
            both = ": the second axis and the last could be them" if last else ""
            raise ValueError(
                f"{self.source}layout=auto cannot tell the channels of shape {list(shape)}{both}; set HWC or CHW"
            )
        return "HWC" if last else "CHW"

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self._pixels(index)
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif self.channels_last:
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return resize_and_crop(torch.from_numpy(pixels), self.image_size)

    def _pixels(self, index: int) -> NDArray[Any]:
        stored = np.array(self.array[index])
        if stored.dtype == np.uint8:
            return stored
        if stored.dtype == np.bool_:
            return stored * np.uint8(255)
        values = in_unit_range(stored / np.float32(65535) if stored.dtype.kind == "u" else stored)
        if values is None:
            raise ValueError(f"{self.source}image {index} is of {stored.dtype} with {value_range(stored)}; {MEND}")
        return values


def open_array(file: Path, key: str | None = None, argument: str = "path") -> NDArray[Any]:
    """Open the array in an .npy or .npz file; an .npy file stays on the disk. Python objects are never unpickled.

    Args:
        file: Where it is.
        key: Which array of several.
        argument: What the user knows the file as, for messages.

    Raises:
        ValueError: The file is damaged, holds no array or Python objects, or several arrays and ``key`` names none.
    """
    named = f"{argument}={str(file)!r}"
    if file.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{named} is neither a folder nor an .npy or .npz file")
    try:
        opened: Any = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(opened, np.ndarray):
            with opened:
                opened = _choose(opened, key, file)
    except _WrongKey:
        raise
    except Exception as error:  # whatever zip, zlib and numpy raise on what is damaged
        raise ValueError(
            f"{named} cannot be read as an array ({_reason(file, error)}); save it again with numpy.save or numpy.savez"
        ) from error
    if not isinstance(opened, np.ndarray):
        raise ValueError(f"{named} cannot be read as an array (what it holds is none); write it with numpy.savez")
    return opened


class _WrongKey(ValueError):
    """The file is fine."""


def _choose(arrays: Any, key: str | None, file: Path) -> Any:
    names = list(arrays)
    if key is None and len(names) == 1:
        key = names[0]
    if key not in names:
        raise _WrongKey(f"key={key!r} is not in {file}; it holds {', '.join(names) or 'nothing'}")
    return arrays[key]


def _reason(file: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if not file.stat().st_size:
        return "it is empty"
    if "Object arrays" in reason or "Python objects" in reason:
        return "it holds Python objects, and reading those could run code"
    if "pickle" in reason:  # numpy's guess about whatever it does not know
        return "it is not in numpy's format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the rest of the message is the path again
    return reason or type(error).__name__

"""Images in arrays, and the .npy and .npz files that hold them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.training.pixels import ImageSize, in_unit_range, resize_and_crop, value_range
from lightning_memaudit.training.windows import NEEDED, Window

LAYOUTS = ("auto", "HWC", "CHW", "DHW", "DHWC", "CDHW", "L", "LC", "CL")
CHANNELS = (1, 3, 4)
MEND = "give uint8, uint16, bool, or float scaled to [0, 1]"
UNITS = f"or, where values are in units of their own, {NEEDED}"


class ArrayImages:
    """The images of an array, as (C, *spatial): uint8, or float32 in [0, 1].

    uint8 stays what it is and bool becomes 0 and 255; uint16 is divided by 65535; floats of any width and byte order
    must be in [0, 1]. With a window, numbers of any type are what it makes of them.

    Args:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W); volumes and signals as ``layout`` says.
        layout: See :class:`ImagesDataModule`.
        image_size: See :func:`resize_and_crop`.
        file: Where the array comes from, for names and messages.
        window: How values in other units become those in [0, 1].

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
        window: Window | None = None,
    ) -> None:
        self.window = window
        self.source = "" if file is None else f"{file}: "
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: give one of {', '.join(LAYOUTS)}")
        # Grey pictures need no layout; all others have as many axes as theirs, after the first.
        fits = array.ndim in (3, 4) if layout in ("auto", "HWC", "CHW") else array.ndim == len(layout) + 1
        if not fits or 0 in array.shape:
            given = "" if layout == "auto" else f" of layout={layout}"
            raise ValueError(
                f"{self.source}an array of shape {list(array.shape)} does not hold images{given}; give (N, H, W), "
                "(N, H, W, C) or (N, C, H, W), or set layout to DHW, DHWC or CDHW for volumes, L, LC or CL for signals"
            )
        number = array.dtype.kind in "biuf"
        if not (array.dtype.kind in "bf" or array.dtype.name in ("uint8", "uint16") or (window and number)):
            values, units = (f" with {value_range(array)}", f"; {UNITS}") if number else ("", "")
            raise ValueError(f"{self.source}an array of {array.dtype}{values} does not hold images; {MEND}{units}")
        if layout == "auto":
            layout = self._find_layout(array.shape) if array.ndim == 4 else "HW"
        if array.ndim == 3 and layout in ("HWC", "CHW"):
            layout = "HW"
        self.array, self.layout, self.image_size = array, layout, image_size
        self.names = [str(index) if file is None else f"{file.name}[{index}]" for index in range(len(array))]

    def _find_layout(self, shape: tuple[int, ...]) -> str:
        last, second = shape[3] in CHANNELS, shape[1] in CHANNELS
        if last == second:
            both = ": the second axis and the last could be them" if last else ""
            raise ValueError(
                f"{self.source}layout=auto cannot tell the channels of shape {list(shape)}{both}; set HWC or CHW, "
                "or DHW for volumes without them"
            )
        return "HWC" if last else "CHW"

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self._pixels(index)
        if "C" not in self.layout:
            pixels = pixels[None]
        elif self.layout.endswith("C"):
            pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        return resize_and_crop(torch.from_numpy(pixels), self.image_size)

    def _pixels(self, index: int) -> NDArray[Any]:
        stored = np.array(self.array[index])
        if self.window is not None:
            try:
                return self.window.scale(stored)
            except ValueError as error:
                raise ValueError(f"{self.source}image {index} cannot be read ({error})") from error
        if stored.dtype == np.uint8:
            return stored
        if stored.dtype == np.bool_:
            return stored * np.uint8(255)
        values = in_unit_range(stored / np.float32(65535) if stored.dtype.kind == "u" else stored)
        if values is None:
            raise ValueError(
                f"{self.source}image {index} is of {stored.dtype} with {value_range(stored)}; {MEND}; {UNITS}"
            )
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

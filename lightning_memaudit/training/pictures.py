"""Picture files, read to their right values or refused by name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightning_memaudit.training.pixels import ImageSize, in_unit_range, resize_and_crop, value_range

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MEND_OR_REMOVE = "mend or remove it"
RESAVE = "save it with 8 or 16 bits, or as float in [0, 1]"
# Tags of TIFF files.
BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 259, 262, 284, 339


class PictureFolder:
    """The pictures in a folder and its subfolders, in the order of their names, see :func:`read_picture`.

    Links to folders are followed. Of pictures with several frames or pages the first is taken, and this is said once.

    Args:
        folder: Where to look; see :data:`PICTURE_SUFFIXES`.
        image_size: See :func:`resize_and_crop`.
        grayscale: One channel, not three.
        argument: What the user knows the folder as, for messages.

    Raises:
        FileNotFoundError: There are no pictures.
        ValueError: A subfolder cannot be read; at indexing, a picture cannot.

    Attributes:
        names: Of each picture: its path within the folder.

    >>> Path("cats").mkdir()
    >>> Image.new("RGB", size=(16, 12)).save("cats/tom.png")
    >>> pictures = PictureFolder(Path("."), grayscale=True)
    >>> len(pictures), pictures[0].shape, pictures[0].dtype, pictures.names
    (1, torch.Size([1, 12, 16]), torch.uint8, ['cats/tom.png'])
    """

    def __init__(
        self, folder: Path, image_size: ImageSize | None = None, grayscale: bool = False, argument: str = "path"
    ) -> None:
        self.files = sorted(file for file in files_below(folder) if file.suffix.lower() in PICTURE_SUFFIXES)
        if not self.files:
            kinds = ", ".join(PICTURE_SUFFIXES)
            raise FileNotFoundError(f"{argument}={str(folder)!r}: no pictures in this folder; looked for {kinds}")
        self.image_size, self.mode = image_size, "L" if grayscale else "RGB"
        self.names = [as_text(file.relative_to(folder)) for file in self.files]
        self._has_said_frames = False

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image, has_frames = _read(self.files[index], self.mode, self.image_size)
        if has_frames and not self._has_said_frames:
            self._has_said_frames = True
            rank_zero_warn(f"{self.files[index]} has several frames or pages: of it and others the first is taken")
        return image


def read_picture(file: Path, mode: str = "RGB", image_size: ImageSize | None = None) -> Tensor:
    """Read a picture (C, H, W), turned as its camera says.

    It is uint8; float32 in [0, 1] where a grey picture has 16 bits per value (its value over 65535) or is of floats in
    [0, 1] (as they are). Of 16 bits per color the high 8 are kept. Transparency is left out, as torchvision's
    ``ImageFolder`` does: the color is what the file holds under it.

    Args:
        file: Of any kind that Pillow knows.
        mode: ``RGB``, or ``L`` for grey.
        image_size: See :func:`resize_and_crop`.

    Raises:
        ValueError: The file cannot be read as a picture, or what its values mean is not known: 32-bit and signed
            integers, floats outside of [0, 1].
    """
    return _read(file, mode, image_size)[0]


def _read(file: Path, mode: str, image_size: ImageSize | None) -> tuple[Tensor, bool]:
    """A picture, and whether it has further frames."""
    try:
        # Pillow would map a file that it opens itself, and scrambles rotated 16-bit TIFFs that way.
        with file.open("rb") as stream, Image.open(stream) as picture:
            pixels = _pixels(picture, mode)
            has_frames = bool(getattr(picture, "is_animated", False))
    except _Refused as refusal:
        raise ValueError(f"{file} cannot be read as a picture ({refusal.reason}); {refusal.mend}") from refusal
    except Exception as error:  # whatever its decoders raise on what is no picture
        raise ValueError(f"{file} cannot be read as a picture ({_reason(file, error)}); {MEND_OR_REMOVE}") from error
    image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()
    return resize_and_crop(image, image_size), has_frames


class _Refused(Exception):
    def __init__(self, reason: str, mend: str = MEND_OR_REMOVE) -> None:
        super().__init__(reason)
        self.reason, self.mend = reason, mend


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is of no kind that Pillow reads" if file.stat().st_size else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the rest of the message is the path again
    return " ".join(str(error).split()) or type(error).__name__


def _pixels(picture: Image.Image, mode: str) -> NDArray[Any]:
    """(H, W) or (H, W, C), uint8, or float32 in [0, 1]."""
    if 0 in picture.size:
        raise _Refused("it has no pixels")
    tags: Any = getattr(picture, "tag_v2", None) or {}
    if picture.format == "TIFF":
        _refuse_misread_tiff(picture, tags)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        gray = _deep_gray(picture, tags)
        return gray if mode == "L" else np.repeat(gray[..., None], 3, axis=2)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "LAB":
        upright = upright.convert("RGB")  # Pillow knows no way to grey
    return np.array(upright.convert(mode))


def _refuse_misread_tiff(picture: Image.Image, tags: Any) -> None:
    """Pillow opens these, and reads other values than they hold."""
    bits, compressed = tags.get(BITS_PER_SAMPLE, (1,)), tags.get(COMPRESSION, 1) != 1
    if picture.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, ()):
        signed = np.array(picture).view(np.int8)
        raise _Refused(f"mode L of signed integers with {value_range(signed)}", RESAVE)
    if picture.mode == "F" and compressed and tags.prefix[:2] == b"MM":
        raise _Refused("Pillow misreads floats of compressed big-endian TIFFs", "save it uncompressed or little-endian")
    if max(bits) > 8 and len(bits) > 1 and not compressed and tags.get(PLANES, 1) == 2:
        raise _Refused("Pillow misreads uncompressed TIFFs of 16-bit planes", "save it with 8 bits, or compressed")


def _deep_gray(picture: Image.Image, tags: Any) -> NDArray[np.float32]:
    """The values in [0, 1] of a grey picture of more than 8 bits, (H, W)."""
    mode, kind = picture.mode, picture.format
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0] if kind == "TIFF" else 16
    values = np.array(ImageOps.exif_transpose(picture))
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):  # as older versions of Pillow open those
        values = values / np.float32(2**bits - 1)
    elif mode == "I":
        raise _Refused(f"mode I, 32-bit or signed integers, with {value_range(values)}", RESAVE)
    gray = in_unit_range(values)
    if gray is None:
        raise _Refused(f"mode {mode} with {value_range(values)}", RESAVE)
    # Pillow turns TIFFs whose 0 is white only where they have 8 bits.
    return 1 - gray if kind == "TIFF" and tags.get(PHOTOMETRIC) == 0 else gray


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, through links.

    Raises:
        ValueError: A subfolder cannot be read.
    """
    visited = set()
    for place, subfolders, names in os.walk(folder, followlinks=True, onerror=_raise):
        subfolders.sort()
        real = Path(place).resolve()
        if real in visited:  # a link back to where it came from
            subfolders.clear()
            continue
        visited.add(real)
        for name in names:
            yield Path(place, name)


def _raise(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename} cannot be read as a folder ({error.strerror}); {MEND_OR_REMOVE}") from error


def as_text(path: Path) -> str:
    """A path with ``/``, and with what is no UTF-8 in it spelled out: it must be possible to write it down."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

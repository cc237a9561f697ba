"""Data modules that need no download: the faces shipped with scikit-image, and a user's own images."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lightning_memaudit.training.images import Count, ImageDataModule, ImagePool

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ImageSize = int | tuple[int, int]


class FacesDataModule(ImageDataModule):
    """The 100 faces of 25x25 grey pixels that scikit-image ships, cut from Labeled Faces in the Wild.

    Real photographs of people, no download: ``skimage.data.lfw_subset`` (its first 100 images are the faces).

    Args:
        num_train: Number of members; ``all`` takes every face that is not kept for controls.
        num_controls: Number of controls.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    >>> data = FacesDataModule(num_train=40, num_controls=10)
    >>> data.setup()
    >>> next(iter(data.train_dataloader())).shape, len(data.control_dataset)
    (torch.Size([40, 1, 25, 25]), 10)
    """

    NUM_FACES = 100

    def __init__(
        self,
        num_train: Count = 50,
        num_controls: int = 50,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """All faces, (100, 1, 25, 25)."""
        from skimage.data import lfw_subset

        faces = lfw_subset()[: self.NUM_FACES]  # type: ignore[no-untyped-call]
        return torch.from_numpy(faces).float()[:, None], None


class ImagesDataModule(ImageDataModule):
    """A user's own images: a folder of pictures, with subfolders, or an array in an .npy or .npz file.

    Args:
        path: Folder or file that members come from.
        control_path: Folder or file that controls come from; null takes them from ``path``.
        num_train: Number of members; ``all`` takes every image that is not kept for controls.
        num_controls: Number of controls.
        image_size: Side of the square, or [height, width], that images are resized to cover and cropped to;
            null keeps their size.
        grayscale: Turn pictures grey; they have three channels otherwise. Arrays keep their channels.
        key: Name of the array in an .npz file that holds several.
        layout: Order of an array's axes after the first; ``auto`` takes a last axis of 1, 3 or 4 for
            channels, then a second one.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    >>> np.save("images.npy", np.random.default_rng(0).integers(0, 256, (20, 12, 16, 3), dtype=np.uint8))
    >>> data = ImagesDataModule("images.npy", num_train=15, num_controls=5, image_size=8)
    >>> data.setup()
    >>> next(iter(data.train_dataloader())).shape
    torch.Size([15, 3, 8, 8])
    """

    def __init__(
        self,
        path: str | Path,
        control_path: str | Path | None = None,
        num_train: Count = 50,
        num_controls: int = 50,
        image_size: ImageSize | None = None,
        grayscale: bool = False,
        key: str | None = None,
        layout: Literal["auto", "HWC", "CHW"] = "auto",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)
        self.path, self.control_path = Path(path), None if control_path is None else Path(control_path)
        self.image_size, self.grayscale = image_size, grayscale
        self.key, self.layout = key, layout

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """Open the folder or array; images are read as they are chosen.

        Raises:
            FileNotFoundError: There is no such folder or file, or no picture in the folder.
            ValueError: The file does not hold images.
        """
        control_pool = None if self.control_path is None else self._open("control_path", self.control_path)
        return self._open("path", self.path), control_pool

    def _open(self, argument: str, path: Path) -> ImagePool:
        if path.is_dir():
            return PictureFolder(path, self.image_size, self.grayscale)
        if not path.exists():
            raise FileNotFoundError(f"{argument}={str(path)!r}: there is no such file or folder")
        return ArrayImages(open_array(path, self.key), self.layout, self.image_size)


class PictureFolder:
    """The pictures in a folder and its subfolders, in the order of their names, as uint8 images (C, H, W).

    Args:
        folder: Where to look; see :data:`PICTURE_SUFFIXES`.
        image_size: See :func:`resize_and_crop`.
        grayscale: One channel, not three.

    Raises:
        FileNotFoundError: There are no pictures.

    >>> Path("cats").mkdir()
    >>> Image.new("RGB", size=(16, 12)).save("cats/tom.png")
    >>> pictures = PictureFolder(Path("."), grayscale=True)
    >>> len(pictures), pictures[0].shape, pictures[0].dtype
    (1, torch.Size([1, 12, 16]), torch.uint8)
    """

    def __init__(self, folder: Path, image_size: ImageSize | None = None, grayscale: bool = False) -> None:
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
        if not self.files:
            kinds = ", ".join(PICTURE_SUFFIXES)
            raise FileNotFoundError(f"path={str(folder)!r}: no pictures in this folder; looked for {kinds}")
        self.image_size, self.mode = image_size, "L" if grayscale else "RGB"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return read_picture(self.files[index], self.mode, self.image_size)


def read_picture(file: Path, mode: str = "RGB", image_size: ImageSize | None = None) -> Tensor:
    """Read a picture as uint8 (C, H, W), turned as its camera says.

    Raises:
        ValueError: The file cannot be read as a picture.
    """
    try:
        with Image.open(file) as picture:
            pixels = np.array(ImageOps.exif_transpose(picture).convert(mode))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a picture ({error}); mend or remove it") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return resize_and_crop(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), image_size)


class ArrayImages:
    """The images of an array, as (C, H, W) of its own kind: uint8, or float in [0, 1].

    Args:
        array: (N, H, W), (N, H, W, C) or (N, C, H, W).
        layout: See :class:`ImagesDataModule`.
        image_size: See :func:`resize_and_crop`.

    Raises:
        ValueError: The array is not one of images.

    >>> images = ArrayImages(np.zeros((20, 12, 16, 3), dtype=np.uint8))
    >>> len(images), images[0].shape
    (20, torch.Size([3, 12, 16]))
    >>> ArrayImages(np.zeros((20, 12, 16), dtype=np.int64))
    Traceback (most recent call last):
    ValueError: an array of int64 does not hold images; give uint8, or float in [0, 1]
    """

    def __init__(self, array: NDArray[Any], layout: str = "auto", image_size: ImageSize | None = None) -> None:
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise ValueError(
                f"an array of shape {list(array.shape)} does not hold images; "
                "give (N, H, W), (N, H, W, C) or (N, C, H, W)"
            )
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"an array of {array.dtype} does not hold images; give uint8, or float in [0, 1]")
        if array.ndim == 4 and layout == "auto":
            if array.shape[-1] in (1, 3, 4):
                layout = "HWC"
            elif array.shape[1] in (1, 3, 4):
                layout = "CHW"
            else:
                raise ValueError(f"layout=auto cannot tell the channels of shape {list(array.shape)}; set HWC or CHW")
        self.array, self.channels_last, self.image_size = array, layout == "HWC", image_size

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        pixels = np.array(self.array[index])
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif self.channels_last:
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        image = torch.from_numpy(pixels)
        return resize_and_crop(image if image.dtype == torch.uint8 else image.float(), self.image_size)


def open_array(file: Path, key: str | None = None) -> NDArray[Any]:
    """Open the array in an .npy or .npz file; an .npy file stays on the disk.

    Raises:
        ValueError: The file holds no array, or several and ``key`` names none of them.
    """
    if file.suffix not in (".npy", ".npz"):
        raise ValueError(f"path={str(file)!r} is neither a folder nor an .npy or .npz file")
    try:
        opened = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"path={str(file)!r} cannot be read as an array ({error})") from error
    if isinstance(opened, np.ndarray):
        return opened
    with opened:
        names = list(opened)
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"key={key!r} is not in {file}; it holds {', '.join(names)}")
        array: NDArray[Any] = opened[key]
    return array


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
    return cropped.clamp(0, 255 if image.dtype == torch.uint8 else 1)

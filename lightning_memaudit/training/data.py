"""Data modules that need no download: the faces shipped with scikit-image, and a user's own images."""

from pathlib import Path
from typing import Literal

import torch

from lightning_memaudit.training.arrays import ArrayImages, open_array
from lightning_memaudit.training.images import Count, ImageDataModule, ImagePool
from lightning_memaudit.training.pictures import PictureFolder
from lightning_memaudit.training.pixels import ImageSize
from lightning_memaudit.training.volumes import VolumeFolder, holds_volumes
from lightning_memaudit.training.windows import Window


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
    """A user's own images: a folder of pictures or medical volumes, with subfolders, or an array in a file.

    How values become those in [0, 1] is said in :func:`read_picture` and :class:`ArrayImages`; what cannot be read, or
    has a scale that is not known, is refused by name and never clipped, except by a window that is given.

    Args:
        path: Folder or file that members come from: pictures; NIfTI files or DICOM series, see :class:`VolumeFolder`;
            an .npy or .npz file.
        control_path: Folder or file that controls come from; null takes them from ``path``.
        num_train: Number of members; ``all`` takes every image that is not kept for controls.
        num_controls: Number of controls.
        image_size: Side of the square, or [height, width], that images are resized to cover and cropped to; of volumes
            [depth, height, width]; null keeps their size.
        grayscale: Turn pictures grey; they have three channels otherwise. Arrays keep their channels.
        key: Name of the array in an .npz file that holds several.
        layout: Order of an array's axes after the first; ``auto`` takes the one of length 1, 3 or 4 for channels,
            the last or the second, and refuses where both are. Volumes are DHW, DHWC or CDHW, signals L, LC or CL:
            that must be said.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.
        window: Values of arrays and medical volumes that become 0 and 1, such as [-1000, 1000] Hounsfield units; beyond
            them they are clipped.
        percentiles: Instead, of each volume by itself, such as [0.5, 99.5].

    Raises:
        ValueError: A number is below 1, or the window is none.

    >>> import numpy as np
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
        layout: Literal["auto", "HWC", "CHW", "DHW", "DHWC", "CDHW", "L", "LC", "CL"] = "auto",
        batch_size: int | None = None,
        seed: int = 0,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)
        self.window = Window.of(window, percentiles)
        self.path, self.control_path = Path(path), None if control_path is None else Path(control_path)
        self.image_size, self.grayscale = image_size, grayscale
        self.key, self.layout = key, layout

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """Open the folder or array; images are read as they are chosen.

        Raises:
            FileNotFoundError: There is no such folder or file, or no picture in the folder.
            ValueError: The folder cannot be read, or the file does not hold images.
        """
        control_pool = None if self.control_path is None else self._open("control_path", self.control_path)
        return self._open("path", self.path), control_pool

    def _open(self, argument: str, path: Path) -> ImagePool:
        if path.is_dir() and holds_volumes(path):
            return VolumeFolder(path, self.window, self.image_size, argument)
        if path.is_dir():
            if self.window is not None:
                raise ValueError("window or percentiles: pictures have none; leave it out, or give arrays or volumes")
            return PictureFolder(path, self.image_size, self.grayscale, argument)
        if not path.exists():
            raise FileNotFoundError(f"{argument}={str(path)!r}: there is no such file or folder")
        return ArrayImages(open_array(path, self.key, argument), self.layout, self.image_size, path, self.window)

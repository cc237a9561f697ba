"""Data modules for the data sets of the paper (arXiv 2310.02897): CIFAR-10, SVHN and Tiny ImageNet."""

from pathlib import Path

import numpy as np
from torchvision import datasets

from lightning_memaudit.training.arrays import ArrayImages
from lightning_memaudit.training.images import Count, ImageDataModule, ImagePool, Positions
from lightning_memaudit.training.pictures import PictureFolder


class Cifar10DataModule(ImageDataModule):
    """CIFAR-10, 32x32 color images: members from its 50,000 training images, controls from its 10,000 test images.

    Args:
        root: Folder that holds ``cifar-10-batches-py``, as torchvision leaves it.
        download: Let torchvision download and unpack it there when it is missing.
        num_train: Number of members; ``all`` takes the whole training set.
        num_controls: Number of controls.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    >>> data = Cifar10DataModule(root="data", num_train=600, num_controls=100)  # download=True fetches what is missing
    >>> data.setup()
    Traceback (most recent call last):
    FileNotFoundError: root='data': CIFAR-10 is missing there or damaged, data/cifar-10-batches-py is expected; ...
    """

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        num_train: Count = 50,
        num_controls: int = 50,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)
        self.root, self.download = Path(root), download

    def prepare_data(self) -> None:
        """Download, when asked to; Lightning calls it on one process only."""
        if self.download:
            for train in (True, False):
                datasets.CIFAR10(self.root, train=train, download=True)

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """Both parts as they are in the files.

        Raises:
            FileNotFoundError: The files are missing, or not what torchvision knows them to be.
        """
        try:
            members, controls = (datasets.CIFAR10(self.root, train=train).data for train in (True, False))
        except RuntimeError as error:
            raise _not_there("CIFAR-10", self.root, datasets.CIFAR10.base_folder) from error
        return ArrayImages(members, "HWC"), ArrayImages(controls, "HWC")


class SvhnDataModule(ImageDataModule):
    """Street View House Numbers, 32x32 color images: members and controls from its 73,257 training images.

    Neighbors in the file are overlapping crops of one photograph, so that a control next to a member would be
    recovered with it. Controls therefore come from one contiguous part of the file, a tenth of it at a random place,
    and members from the rest, with a gap between the two.

    Args:
        root: Folder that holds ``train_32x32.mat``, as torchvision leaves it.
        download: Let torchvision download it there when it is missing.
        num_train: Number of members; ``all`` takes everything beyond the gap.
        num_controls: Number of controls.
        gap: Images on either side of the controls' part that are not used.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    >>> data = SvhnDataModule(root="data", gap=20)  # data.setup() reads data/train_32x32.mat, then splits it like this
    >>> members, controls = data.split(1000, np.random.default_rng(0))
    >>> len(controls), int(np.ptp(controls)), int(np.abs(members[:, None] - controls).min())
    (100, 99, 21)
    """

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        num_train: Count = 50,
        num_controls: int = 50,
        gap: int = 20,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)
        if gap < 0:
            raise ValueError(f"gap={gap}: give a whole number of at least 0")
        self.root, self.download, self.gap = Path(root), download, gap

    def prepare_data(self) -> None:
        """Download, when asked to; Lightning calls it on one process only."""
        if self.download:
            datasets.SVHN(self.root, split="train", download=True)

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """The training part in the order of the file.

        Raises:
            FileNotFoundError: The file is missing, or not what torchvision knows it to be.
        """
        try:
            images = datasets.SVHN(self.root, split="train").data
        except RuntimeError as error:
            raise _not_there("SVHN", self.root, datasets.SVHN.split_list["train"][1]) from error
        return ArrayImages(images, "CHW"), None

    def split(self, num_images: int, generator: np.random.Generator) -> tuple[Positions, Positions]:
        """Controls from one contiguous part, members from what is more than the gap away from it."""
        size = min(num_images, max(num_images // 10, 2 * self.num_controls))
        begin = int(generator.integers(num_images - size + 1))
        part = np.arange(begin, begin + size)
        before, after = np.arange(max(0, begin - self.gap)), np.arange(begin + size + self.gap, num_images)
        return generator.permutation(np.concatenate([before, after])), generator.permutation(part)


class TinyImageNetDataModule(ImageDataModule):
    """Tiny ImageNet, 64x64 color images: members from its 100,000 training images, controls from its validation images.

    Args:
        root: The unpacked ``tiny-imagenet-200``, or the folder that holds it. In it ``train/<class>/images`` and
            ``val/images`` hold the pictures. It can be had at http://cs231n.stanford.edu/tiny-imagenet-200.zip.
        num_train: Number of members; ``all`` takes the whole training set.
        num_controls: Number of controls.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    >>> from PIL import Image
    >>> for place, color in (("train/n01443537/images", "red"), ("val/images", "blue")):  # instead of the download
    ...     Path("tiny-imagenet-200", place).mkdir(parents=True)
    ...     Image.new("RGB", (64, 64), color).save(f"tiny-imagenet-200/{place}/0.png")
    >>> data = TinyImageNetDataModule(root=".", num_train=1, num_controls=1)
    >>> data.setup()
    >>> data.train_dataset[0].shape, data.train_dataset[0].mean((1, 2)).tolist()
    (torch.Size([3, 64, 64]), [1.0, 0.0, 0.0])
    """

    FOLDER = "tiny-imagenet-200"

    def __init__(
        self,
        root: str | Path = "data",
        num_train: Count = 600,
        num_controls: int = 100,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_train, num_controls, batch_size, seed)
        self.root = Path(root)

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """Both parts; pictures are read as they are chosen.

        Raises:
            FileNotFoundError: The folders are missing, or hold no pictures.
        """
        root = self.root / self.FOLDER if (self.root / self.FOLDER).is_dir() else self.root
        for part in ("train", "val"):
            if not (root / part).is_dir():
                raise FileNotFoundError(
                    f"root={str(self.root)!r}: no Tiny ImageNet there, {root / part} is missing; unpack "
                    f"http://cs231n.stanford.edu/tiny-imagenet-200.zip into it"
                )
        members, controls = (PictureFolder(root / part, argument="root") for part in ("train", "val"))
        return members, controls


def _not_there(name: str, root: Path, needed: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"root={str(root)!r}: {name} is missing there or damaged, {root / needed} is expected; "
        "set download to true, or give the folder that holds it"
    )

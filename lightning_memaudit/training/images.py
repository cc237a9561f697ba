"""Images in memory: a dataset of them, their split into members and controls, and duplicates across it."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_memaudit.measurement.near_duplicates import NEAR_DUPLICATE_PSNR, near_duplicates

Count = int | Literal["all"]
Positions = NDArray[np.int64]

DARK = 0.1
"""Where no value is above this, images were hardly meant to be so dark."""


class ImageTensorDataset(Dataset[Tensor]):
    """Images held in one tensor; its items are float images (C, *spatial) in [0, 1].

    Args:
        images: (N, C, *spatial) with one, two or three spatial axes, uint8, or floating point in [0, 1].
        names: What a person calls each image, such as its file; its number where there are none.

    Raises:
        ValueError: The tensor is not one of images, its values leave [0, 1], or there are not as many names.

    >>> dataset = ImageTensorDataset(torch.full((10, 3, 8, 8), 255, dtype=torch.uint8))
    >>> len(dataset), dataset[0].shape, dataset[0].max().item(), dataset.names[9]
    (10, torch.Size([3, 8, 8]), 1.0, '9')
    """

    names: list[str]

    def __init__(self, images: Tensor, names: Sequence[str] | None = None) -> None:
        if not 3 <= images.ndim <= 5 or 0 in images.shape:
            raise ValueError(
                f"images of shape {list(images.shape)} are not a batch; give (N, C, H, W), (N, C, D, H, W) or (N, C, L)"
            )
        if images.dtype != torch.uint8:
            images = images.float()
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):  # also refuses NaN
                raise ValueError(
                    f"images have values from {low:g} to {high:g}; give uint8, or floating point scaled to [0, 1]"
                )
        self.images = images
        self.names = [str(index) for index in range(len(images))] if names is None else list(names)
        if len(self.names) != len(images):
            raise ValueError(f"names: {len(self.names)} of them for {len(images)} images; give one for each")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice) -> Tensor:
        return to_float(self.images[index])

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """A whole batch (B, C, *spatial) at once, which spares the loader one call and one copy per image."""
        return to_float(self.images[torch.as_tensor(indices)])


def to_float(images: Tensor) -> Tensor:
    """Images (C, *spatial) in [0, 1] of uint8 ones; others as float32.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def already_a_batch(batch: Any) -> Any:
    """The ``collate_fn`` of a data set that returns whole batches."""
    return batch


class ImagePool(Protocol):
    """Images that are read one by one, each (C, *spatial), uint8 or float in [0, 1]; a tensor (N, C, *spatial) is one.

    Where it has ``names``, a list as long as it is, they become those of the data sets.

    >>> class Grays:
    ...     def __len__(self):
    ...         return 256
    ...     def __getitem__(self, index):
    ...         return torch.full((1, 8, 8), index, dtype=torch.uint8)
    >>> images, names = take_distinct(Grays(), candidates=[7, 7, 200, 3], wanted=2, seen=set())
    >>> images[:, 0, 0, 0].tolist(), names
    ([7, 200], ['7', '200'])
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def take_distinct(
    pool: ImagePool, candidates: Iterable[int], wanted: int | None, seen: set[bytes]
) -> tuple[Tensor, list[str]]:
    """Read images in the order of the candidates, leaving out exact duplicates, until enough are found.

    Args:
        pool: Where images are read from.
        candidates: Positions in the pool.
        wanted: How many to find; None takes all there are.
        seen: Digests of the images that were taken before; those of the new ones are added.

    Returns:
        (n, C, *spatial) with n at most ``wanted``, uint8 where all of them are, else float; and their names there.

    Raises:
        ValueError: The images differ in shape.
    """
    taken: list[Tensor] = []
    names: list[str] = []
    # Those of a tensor are the names of its axes.
    names_in_pool = None if isinstance(pool, Tensor) else getattr(pool, "names", None)
    for candidate in candidates:
        if wanted is not None and len(taken) == wanted:
            break
        image = pool[candidate]
        name = str(candidate) if names_in_pool is None else names_in_pool[candidate]
        if taken and image.shape != taken[0].shape:
            raise ValueError(
                f"image {name} has shape {list(image.shape)}, {names[0]} has {list(taken[0].shape)}; "
                "set image_size to bring them to one size"
            )
        # As floats: the same picture may be stored with 8 bits here and with 16 there.
        digest = hashlib.sha256(to_float(image).contiguous().numpy().data).digest()
        if digest not in seen:
            seen.add(digest)
            taken.append(image)
            names.append(name)
    if any(image.dtype != torch.uint8 for image in taken):
        taken = [to_float(image) for image in taken]
    return torch.stack(taken) if taken else torch.empty(0, 0, 0, 0), names


class ImageDataModule(LightningDataModule):
    """Members to train on and controls that are never trained on, in memory, disjoint and free of duplicates.

    Members are the train dataset and controls the validation dataset, which is where
    ``MemorizationAuditCallback`` looks for them. With the same seed, a larger ``num_train`` keeps the members
    of a smaller one and the same controls.

    A subclass says where images come from, in :meth:`load`; and, where some of them belong together, which
    may become members and which controls, in :meth:`split`.

    Args:
        num_train: Number of members; ``all`` takes every image that is not kept for controls.
        num_controls: Number of controls.
        batch_size: Members per step; null takes all of them in every step.
        seed: Seeds the choice of members and controls. It is not the seed of the training.

    Raises:
        ValueError: A number is below 1.

    Attributes:
        train_dataset: Members, after :meth:`setup`; its ``names`` say which image of the source each is.
        control_dataset: Controls, likewise.
        num_near_duplicates: Controls that are nearly members, after :meth:`setup`.

    >>> class Noise(ImageDataModule):
    ...     def load(self):
    ...         return torch.rand(20, 1, 8, 8), None
    >>> data = Noise(num_train=15, num_controls=5)
    >>> data.setup()
    >>> next(iter(data.train_dataloader())).shape, len(data.control_dataset)
    (torch.Size([15, 1, 8, 8]), 5)
    """

    train_dataset: ImageTensorDataset
    control_dataset: ImageTensorDataset
    num_near_duplicates: int

    def __init__(
        self,
        num_train: Count = 50,
        num_controls: int = 50,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_train != "all" and num_train < 1:
            raise ValueError(f"num_train={num_train}: give a whole number of at least 1, or all")
        if num_controls < 1:
            raise ValueError(f"num_controls={num_controls}: give a whole number of at least 1")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give a whole number of at least 1, or null for all at once")
        self.num_train, self.num_controls = num_train, num_controls
        self.batch_size, self.seed = batch_size, seed
        self._is_set_up = False

    def load(self) -> tuple[ImagePool, ImagePool | None]:
        """The images that members come from, and those that controls come from; None: from the same."""
        raise NotImplementedError

    def split(self, num_images: int, generator: np.random.Generator) -> tuple[Positions, Positions]:
        """Positions of one pool that may become members, and those that may become controls, in order.

        A position may stand in both: what became a control is not taken for a member.
        """
        order = generator.permutation(num_images)
        return order, order

    def setup(self, stage: str | None = None) -> None:
        """Read the images and split them, once.

        Raises:
            ValueError: There are not enough distinct images.
        """
        if self._is_set_up:
            return
        pool, control_pool = self.load()
        generator = np.random.default_rng(self.seed)
        if control_pool is None:
            control_pool = pool
            members, controls = self.split(len(pool), generator)
        else:
            members = generator.permutation(len(pool))
            controls = generator.permutation(len(control_pool))
        seen: set[bytes] = set()
        # Controls first: they then do not depend on the number of members.
        control_images, control_names = take_distinct(control_pool, controls.tolist(), self.num_controls, seen)
        wanted = None if self.num_train == "all" else self.num_train
        member_images, member_names = take_distinct(pool, members.tolist(), wanted, seen)
        for name, count, images in (
            ("num_controls", self.num_controls, control_images),
            ("num_train", wanted or 1, member_images),
        ):
            if len(images) < count:
                raise ValueError(
                    f"{name}={count}: only {len(images)} distinct images are left for them out of "
                    f"{len(pool)}; lower num_train or num_controls"
                )
        if member_images.shape[1:] != control_images.shape[1:]:
            raise ValueError(
                f"members have shape {list(member_images.shape[1:])}, "
                f"controls {list(control_images.shape[1:])}; set image_size to bring them to one size"
            )
        self.train_dataset = ImageTensorDataset(member_images, member_names)
        self.control_dataset = ImageTensorDataset(control_images, control_names)
        brightest = max(float(to_float(images.max())) for images in (member_images, control_images))
        if brightest <= DARK:
            rank_zero_warn(
                f"no value of the images is above {brightest:.2g}, where 1 is white: a type holds fewer bits than it "
                "could, such as 12 in uint16 or 0 and 1 in uint8; scale them to the whole range of their type"
            )
        self.num_near_duplicates = int(near_duplicates(self.control_dataset, self.train_dataset).sum())
        if self.num_near_duplicates:
            rank_zero_warn(
                f"{self.num_near_duplicates} of {len(control_images)} controls are nearly identical to a "
                f"training image (PSNR >= {NEAR_DUPLICATE_PSNR:g} dB); recovering those is no false alarm"
            )
        self._is_set_up = True

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches (B, C, *spatial) of members, in a new order every epoch unless all are one batch."""
        batch_size = min(self.batch_size or len(self.train_dataset), len(self.train_dataset))
        return DataLoader(
            self.train_dataset,
            batch_size=batch_size,
            shuffle=batch_size < len(self.train_dataset),
            collate_fn=already_a_batch,
        )

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Batches (B, C, *spatial) of controls."""
        batch_size = min(self.batch_size or 256, len(self.control_dataset))
        return DataLoader(self.control_dataset, batch_size=batch_size, collate_fn=already_a_batch)

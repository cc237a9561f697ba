"""Which images are audited, and how they are read from data sets that nobody here wrote."""

import hashlib
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import Dataset

from lightning_memaudit.callback.keys import GroupKey, Key, key_for, select
from lightning_memaudit.callback.run_inspection import train_dataset, validation_dataset
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.plan import Group, check_values

CACHE_BYTES = 2**30
"""A group up to this size is read once and kept; a larger one is read again at every audit, block by block."""


FAST_DEV_RUN_IMAGES = 2


@dataclass(frozen=True)
class ImageChoice:
    """Which images are audited, and where an image is within an item of a data set.

    Attributes:
        members: Images that are trained on; None takes the data set of the run's train dataloader.
        controls: Images that are not; None takes the data set of the run's validation dataloader.
        num_members: A seeded random choice of so many; None takes all.
        num_controls: Likewise.
        image_key: See :func:`read_image`; or one for members and one for controls.
        image_shape: (C, H, W) for data sets of flat vectors.

    Raises:
        ValueError: A number is below 1.

    >>> ImageChoice(num_members=0)
    Traceback (most recent call last):
    ValueError: num_members=0: must be at least 1, or null for all
    """

    members: Dataset[Any] | None = None
    controls: Dataset[Any] | None = None
    num_members: int | None = 100
    num_controls: int | None = 100
    image_key: GroupKey | None = None
    image_shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        key_for("members", self.image_key)
        for argument, value in (("num_members", self.num_members), ("num_controls", self.num_controls)):
            if value is not None and value < 1:
                raise ValueError(f"{argument}={value}: must be at least 1, or null for all")

    def find_groups(
        self, trainer: Trainer, pl_module: LightningModule, normalization: Normalization, seed: int
    ) -> list[Group]:
        """The members and, where there are any, the controls: all images to audit, read only when they are sliced.

        Args:
            trainer: In a stage that has its train dataloader, unless ``members`` are given.
            pl_module: Its device is where the images go.
            normalization: Undone, so that images are in [0, 1].
            seed: Seeds the choice of images.

        Raises:
            ValueError: There is no data set that can be indexed.
        """
        if self.members is not None:
            members, trained = self.members, list(range(len(self.members)))  # type: ignore[arg-type]
        else:
            members, trained = train_dataset(trainer)
        controls = self.controls
        if controls is None and trainer.state.fn == TrainerFn.FITTING:
            controls = validation_dataset(trainer)
        available = {"members": (members, trained, self.num_members)}
        if controls is not None:
            available["controls"] = (controls, list(range(len(controls))), self.num_controls)  # type: ignore[arg-type]
        groups = []
        for name, (dataset, usable, wanted) in available.items():
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                wanted = min(wanted or FAST_DEV_RUN_IMAGES, FAST_DEV_RUN_IMAGES)
            indices = [usable[index] for index in choose_indices(len(usable), wanted, seed)]
            images = DatasetImages(
                dataset, indices, key_for(name, self.image_key), normalization, pl_module.device, self.image_shape
            )
            # Mask i goes to the i-th image of either group: members and controls are paired by mask.
            groups.append(Group(name, images, indices, range(len(indices))))
        return groups


def choose_indices(num_available: int, num_wanted: int | None, seed: int) -> list[int]:
    """All indices, or a seeded random choice of ``num_wanted`` of them, in increasing order."""
    if num_wanted is None or num_wanted >= num_available:
        return list(range(num_available))
    return sorted(random.Random(seed).sample(range(num_available), num_wanted))


def read_image(item: Any, image_key: Key | None) -> Tensor:
    """The image (C, H, W), or a flat vector, within a data set's item.

    Without a key: the item itself when it is a tensor or array, else the first element of a tuple or list. With several
    keys: one within the other, outermost first.

    Raises:
        ValueError: No tensor is found there.
    """
    image = select(item, image_key, "image_key")
    if image_key is None and isinstance(item, (tuple, list)) and item:
        image = item[0]
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    if not isinstance(image, Tensor):
        keys = f" with keys {list(image)}" if isinstance(image, Mapping) else ""
        kind = type(image).__name__
        mend = "pass image_key=<index or key> of the image tensor"
        if hasattr(image, "getbands"):  # a PIL image
            mend = "convert them to tensors in the data set, as torchvision's ToTensor does"
        raise ValueError(f"the data set gives a {kind}{keys} where an image tensor should be: {mend}")
    return image


class DatasetImages:
    """Images of a map-style data set, sliced like a float tensor (n, C, H, W) in [0, 1].

    They are read when they are first sliced. Reading may draw random numbers; the caller restores the random states.

    Args:
        dataset: Map-style.
        indices: Which items, in order.
        image_key: How an image is read from an item, see :func:`read_image`.
        normalization: Undone, so that images are in [0, 1].
        device: Where the images go.
        image_shape: (C, H, W) for data sets of flat vectors; also adds a channel to (H, W) images.

    Raises:
        ValueError: At slicing: an item cannot be read, is no floating-point image, or has another shape.

    >>> dataset = [(torch.full((1, 8, 8), value), "a label") for value in (-1.0, 0.0, 1.0)]
    >>> images = DatasetImages(dataset, indices=[2, 0], normalization=Normalization(mean=[0.5], std=[0.5]))
    >>> images[0:2].shape, images[0:2].mean((1, 2, 3)).tolist()
    (torch.Size([2, 1, 8, 8]), [1.0, 0.0])
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        indices: Sequence[int],
        image_key: Key | None = None,
        normalization: Normalization | None = None,
        device: torch.device | str = "cpu",
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self.dataset = dataset
        self.indices = list(indices)
        self.image_key = image_key
        self.normalization = normalization or Normalization()
        self.device = torch.device(device)
        self.image_shape = tuple(image_shape) if image_shape is not None else None
        self._cached: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> Tensor:
        if self._cached is None and len(self.indices) and self._bytes() <= CACHE_BYTES:
            self._cached = self._read(self.indices)
        if self._cached is not None:
            return self._cached[rows]
        return self._read(self.indices[rows])

    def _bytes(self) -> int:
        return self._image(self.indices[0]).numel() * 4 * len(self.indices)

    def _read(self, indices: Sequence[int]) -> Tensor:
        if not indices:
            shape = tuple(self._image(self.indices[0]).shape) if self.indices else (self.image_shape or (1, 1, 1))
            return torch.zeros(0, *shape, device=self.device)
        read = [self._image(index) for index in indices]
        for index, image in zip(indices, read, strict=True):
            if image.shape != read[0].shape:
                raise ValueError(
                    f"items {indices[0]} and {index} of the data set have shapes {tuple(read[0].shape)} and "
                    f"{tuple(image.shape)}: images must be of one size; pass members or controls that are"
                )
        images = torch.stack(read).to(self.device)
        return images if self.normalization.is_identity else self.normalization.undo(images)

    def _image(self, index: int) -> Tensor:
        try:
            item = self.dataset[index]
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"item {index} of {type(self.dataset).__name__} cannot be read ({reason}): mend the data set, or pass "
                "members or controls that can be read by index"
            ) from error
        image = read_image(item, self.image_key)
        if not image.is_floating_point():
            raise ValueError(
                f"item {index} of the data set is {image.dtype}: give floating-point images as the model sees them"
            )
        image = image.detach().float()
        if self.image_shape is not None:
            if image.numel() != int(np.prod(self.image_shape)):
                raise ValueError(
                    f"item {index} of the data set has shape {tuple(image.shape)}: image_shape={self.image_shape} "
                    "does not fit"
                )
            return image.reshape(self.image_shape)
        if image.ndim == 2:
            return image[None]
        if image.ndim != 3:
            raise ValueError(
                f"item {index} of the data set has shape {tuple(image.shape)}: images are (C, H, W); "
                "pass image_shape=(C, H, W) for flat ones"
            )
        return image


def part_of(group: Group, rank: int, num_shares: int) -> Group:
    """What one of several processes audits: every ``num_shares``-th image, nothing twice, nothing padded.

    Args:
        group: The whole group.
        rank: Of the process, counted from 0.
        num_shares: Into how many parts the group is divided.
    """
    rows = slice(rank, None, num_shares)
    if not isinstance(group.images, DatasetImages):
        return Group(group.name, group.images[rows], group.indices[rows], group.positions[rows])
    whole = group.images
    images = DatasetImages(
        whole.dataset,
        whole.indices[rows],
        whole.image_key,
        whole.normalization,
        whole.device,
        whole.image_shape,
    )
    return Group(group.name, images, group.indices[rows], group.positions[rows])


def image_hashes(group: Group, block_size: int = 512) -> list[str]:
    """Check that all images are finite and in [0, 1], and return the SHA-256 of each at 8 bits per value.

    Args:
        group: The images.
        block_size: Images read at once.

    Raises:
        ValueError: An image holds values that it must not.
    """
    hashes = []
    for begin in range(0, len(group.images), block_size):
        images = group.images[begin : begin + block_size]
        check_values(group.name, images)
        block = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        hashes += [hashlib.sha256(image.tobytes()).hexdigest() for image in block]
    return hashes


def check_disjoint(members: Sequence[str], controls: Sequence[str]) -> None:
    """Raise when a control is also a member, by content.

    Raises:
        ValueError: At least one image is in both groups.
    """
    shared = set(members) & set(controls)
    if shared:
        raise ValueError(
            f"{len(shared)} of the controls are identical to members: a control must not have been trained on; "
            "pass controls=<a data set without them>"
        )


def warn_if_random(dataset: Dataset[Any], index: int, image_key: Key | None) -> None:
    """Warn when reading the same item twice gives different images: there is no fixed target to recover."""
    first, second = (read_image(dataset[index], image_key) for _ in range(2))
    if first.shape != second.shape or not torch.equal(first, second):
        warnings.warn(
            "members: reading the same training image twice gave different ones (random augmentation): recovery is "
            "measured against one random version; pass members=<the data set without augmentation>",
            stacklevel=2,
        )

"""Which images are audited, read once before the first audit, and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_memaudit.callback.conditions import Condition, conditions_of
from lightning_memaudit.callback.keys import GroupKey, key_for
from lightning_memaudit.callback.reading.batch_images import BatchFormat, arranged, item_images, learn_format
from lightning_memaudit.callback.reading.image_names import name_in_dataset, names_in_batch, without_common_folder
from lightning_memaudit.callback.reading.loaders import (
    Reachable,
    RunLoaders,
    check_loader,
    choose_indices,
    is_stream,
    warn_if_uncertain,
)
from lightning_memaudit.callback.reading.reader import ReadBatch, Reader, Source
from lightning_memaudit.callback.reading.stored_images import StoredImages
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.checks import check_values
from lightning_memaudit.measurement.groups import Group

FAST_DEV_RUN_IMAGES = 2

READ_TWICE = 16
"""Members that are read twice, to see whether reading draws random numbers."""

LEARN_FROM = 128
"""Images from which the way of reading is learned; the others are checked against it."""

Transfer = Callable[[Any], Any]
"""From a batch as ``collate_fn`` made it to the batch that the model gets: the run's hooks and the device."""


@dataclass(frozen=True)
class ImageChoice:
    """Which images are audited, and where an image is within an item of a data set.

    Attributes:
        members: Images that are trained on; None takes those that the run's train dataloader can yield.
        controls: Images that are not; None takes those that the run's validation dataloader can yield.
        num_members: A seeded random choice of so many; None takes all.
        num_controls: Likewise; 0 audits without controls.
        image_key: Where an image is in an item; a mapping gives each group its own.
        image_shape: (C, H, W) for data sets of flat vectors.

    Raises:
        ValueError: A number is out of its range.

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
        if self.num_members is not None and self.num_members < 1:
            raise ValueError(f"num_members={self.num_members}: must be at least 1, or null for all")
        if self.num_controls is not None and self.num_controls < 0:
            raise ValueError(f"num_controls={self.num_controls}: must be at least 1, null for all, or 0 for none")

    def sources(self, loaders: RunLoaders, seed: int) -> list[Source]:
        """Where members and, if there are any, controls are read from; with all items that are available.

        Args:
            loaders: Of the run.
            seed: See :class:`~lightning_memaudit.callback.reading.reader.Reader`.

        Raises:
            ValueError: There is no data set.
        """
        train = loaders.train[0] if loaders.train else None
        sources = [self._source("members", self.members, train, loaders, seed)]
        if self.num_controls != 0 and (self.controls is not None or loaders.validation is not None):
            sources.append(self._source("controls", self.controls, loaders.validation, loaders, seed))
        return sources

    def training(self, loaders: RunLoaders, seed: int) -> list[Source]:
        """All that training can reach, behind every train dataloader."""
        return [
            self._source("members", None, loader, replace(loaders, num_batches=float("inf")), seed)
            for loader in loaders.train
            if hasattr(loader, "dataset")
        ]

    def _source(self, group: str, given: Dataset[Any] | None, loader: Any, loaders: RunLoaders, seed: int) -> Source:
        key, path = key_for(group, self.image_key), loaders.path
        if given is not None:
            indices = None if is_stream(given) else list(range(len(given)))  # type: ignore[arg-type]
            # A collate_fn is made for items like the run's own.
            model = loader if loader is not None else next(iter(loaders.train), None)
            return Source(group, given, indices, model, key, path, given=True)
        check_loader(loader, group)
        if is_stream(loader.dataset):
            return Source(group, loader.dataset, None, loader, key, path)
        reader = Reader(Source(group, loader.dataset, [], loader, key), seed)
        num_batches = loaders.num_batches if group == "members" else float("inf")
        reachable = Reachable.through(loader, num_batches, reader.sampler_epochs)
        if group == "members":
            warn_if_uncertain(reachable, loader, num_batches)
        return Source(group, loader.dataset, reachable.indices, loader, key, path)

    def number(self, group: str, fast_dev_run: bool) -> int | None:
        """How many images of a group are wanted."""
        wanted = self.num_members if group == "members" else self.num_controls
        return min(wanted or FAST_DEV_RUN_IMAGES, FAST_DEV_RUN_IMAGES) if fast_dev_run else wanted


@dataclass(frozen=True)
class ReadGroup:
    """A group as it was read.

    Attributes:
        group: Name, images, indices.
        source: Where from.
        format: How the images stand in the run's batches.
        num_available: Images that there are to choose from; None where that is not known.
        random: Whether reading an image twice gave different ones.
        given: The normalization that the user gave.
        image_shape: Likewise, of flat images.
        reading: How it was read, in words; empty where there is nothing to say.
        problems: Why these images cannot be audited as they are, such as values outside [0, 1].

    >>> images = [torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]
    >>> read = read_group(Source("members", images, [0, 1]), None, Normalization(), transfer=lambda batch: batch)
    >>> len(read.group.images), read.random
    (2, False)
    """

    group: Group
    source: Source
    format: BatchFormat
    num_available: int | None
    random: bool = False
    given: Normalization = field(default_factory=Normalization)
    image_shape: Sequence[int] | None = None
    reading: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_group(
    source: Source,
    wanted: int | None,
    normalization: Normalization,
    transfer: Transfer,
    seed: int = 0,
    image_shape: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    conditional: bool = False,
) -> ReadGroup:
    """Read a seeded choice of images, as the run itself reads them.

    Args:
        source: Where from.
        wanted: How many; None for all.
        normalization: Given by the user; undone.
        transfer: The run's batch hooks and the move to the device.
        seed: Of the choice and of the reading process.
        image_shape: (C, H, W) for flat images.
        device: Where the images go.
        conditional: Keep of each image what its batch holds besides it.

    Raises:
        ValueError: An image cannot be read, or is no image in [0, 1].
    """
    if source.indices is not None:
        chosen = [source.indices[index] for index in choose_indices(len(source.indices), wanted, seed)]
        if not chosen:
            raise ValueError(f"{source.group} holds no images: pass at least one")
    elif wanted is None:
        raise ValueError(
            f"{source.group}: {type(source.dataset).__name__} can only be iterated: pass num_{source.group}=<how many "
            "images of it>"
        )
    else:
        chosen = []
    reader = Reader(source, seed)
    size = source.batch_size
    blocks = [chosen[begin : begin + size] for begin in range(0, len(chosen), size)]
    again = [chosen[:READ_TWICE]] if source.group == "members" and chosen else []
    reads = reader.blocks([*blocks, *again]) if chosen else reader.first(wanted or 0)

    taken = _Taken(source, normalization, transfer, image_shape, device, conditional, len(chosen) or wanted or 0)
    for read in islice(reads, len(blocks) or None):
        taken.take(read)
        if len(taken.images) >= taken.count:
            break
    taken.finish()
    second = [taken.convert(read) for read in reads] if again else []
    reads.close()
    is_random = any(_differs(one, taken.images[0 : len(one)]) for one in second)
    indices = chosen or list(range(len(taken.images)))
    names = _names(source, indices, taken.names)
    conditions = taken.conditions if conditional else None
    group = Group(source.group, taken.images, indices, range(len(indices)), names, conditions)
    available = None if source.indices is None else len(source.indices)
    words = _in_words(source, taken, reader.note)
    return ReadGroup(
        group, source, taken.known, available, is_random, normalization, image_shape, words, taken.problems
    )


class _Taken:
    """Images on their way from batches to the store."""

    def __init__(
        self,
        source: Source,
        normalization: Normalization,
        transfer: Transfer,
        image_shape: Sequence[int] | None,
        device: torch.device | str,
        conditional: bool,
        count: int,
    ) -> None:
        self.source, self.normalization, self.transfer = source, normalization, transfer
        self.image_shape, self.device, self.conditional, self.count = image_shape, device, conditional, count
        self.names: list[str | None] = []
        self.conditions: list[Condition] = []
        self.problems: list[str] = []
        self.format: BatchFormat | None = None
        self.images: StoredImages = StoredImages((1, 1, 1), 0)
        self._waiting: list[tuple[Any, ReadBatch]] = []

    @property
    def known(self) -> BatchFormat:
        assert self.format is not None  # learned from the first batches
        return self.format

    def take(self, read: ReadBatch) -> None:
        """Convert and keep a batch, once the first ones have shown how."""
        batch = self._transferred(read)
        self._waiting.append((batch, read))
        if sum(len(one.items) or 1 for _, one in self._waiting) >= LEARN_FROM or self.format is not None:
            self.finish()

    def finish(self) -> None:
        """Convert and keep what waits."""
        if self.format is None:
            if not self._waiting:
                raise ValueError(f"{self.source.group} holds no images: pass at least one")
            self.format = learn_format(
                [batch for batch, _ in self._waiting],
                [read.items for _, read in self._waiting],
                self.source.group,
                self.source.key,
                self.image_shape,
                self.normalization,
            )
            self.images = StoredImages(self.format.shape, self.count, self.device)
        for batch, read in self._waiting:
            if len(self.images) >= self.count:
                break
            images = self._converted(batch, read)[: self.count - len(self.images)]
            self._check_values(images)
            self.images.add(images)
            self.names += [item.name for item in read.items] or names_in_batch(read.batch, len(images))
            if self.conditional:
                self.conditions += self._conditions(batch)
        self._waiting = []

    def _check_values(self, images: Tensor) -> None:
        try:
            check_values(self.source.group, images)
        except ValueError as error:
            self.problems = self.problems or [str(error)]

    def convert(self, read: ReadBatch) -> Tensor:
        """The images of a batch, in [0, 1]."""
        return self._converted(self._transferred(read), read)

    def _transferred(self, read: ReadBatch) -> Any:
        try:
            return self.transfer(read.batch)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"{self.source.group}: the run's batch hooks fail on a batch of them ({reason}): pass "
                f"{self.source.group}=<a data set> whose items are like those that are trained on"
            ) from error

    def _converted(self, batch: Any, read: ReadBatch) -> Tensor:
        known, group = self.known, self.source.group
        if known.path is None:
            found = item_images(read.items)
            if found is None:
                raise next((one.problem for one in read.items if one.problem), ValueError(f"{group}: no image found"))
        else:
            found = known.find(batch)
        first = len(self.images)
        if arranged(found, known.shape if known.flat else None, known.channels_last).shape[1:] != known.shape:
            raise ValueError(
                f"items 0 and {first} of {group} have shapes {known.shape} and {tuple(found.shape[1:])}: images must "
                "be of one size; pass members or controls that are"
            )
        images = known.undo(found)
        own = item_images(read.items) if known.inferred else None
        if own is not None and not _agrees(own, images):
            raise ValueError(
                f"{group}: the run gives the model {known.normalization} of some images and not of others: pass "
                f"{group}=<a data set> of images that all are read alike"
            )
        return images

    def _conditions(self, batch: Any) -> list[Condition]:
        path = self.known.path
        if path is None or callable(path):
            raise ValueError(
                f"{self.source.group}: reconstruct takes the batch, but it holds no images that image_key finds: pass "
                "image_key=<index or key of the images in a batch>"
            )
        return conditions_of(batch, path)


def _agrees(own: Tensor, images: Tensor) -> bool:
    before = own.float() / 255 if own.dtype == torch.uint8 else own.float()
    return bool(torch.allclose(before.reshape(images.shape).to(images.device), images, atol=5e-3))


def _differs(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.equal(one.to(other.device), other)


def _names(source: Source, indices: Sequence[int], read: Sequence[str | None]) -> list[str]:
    """From the data set's lists, else from the items, else the index."""
    listed = [None if source.indices is None else name_in_dataset(source.dataset, index) for index in indices]
    names = [
        in_list or in_item or str(index)
        for index, in_list, in_item in zip(indices, listed, [*read, *([None] * len(indices))], strict=False)
    ]
    return without_common_folder(names)


def _in_words(source: Source, taken: _Taken, note: str | None) -> list[str]:
    sentences = []
    if source.indices is None:
        sentences.append(f"the first {len(taken.images)} of a fresh iteration of {type(source.dataset).__name__}")
    if taken.known.path is None:
        sentences.append("no batch of the run holds these images: they are read from the items alone")
    if taken.known.inferred:
        mean, std = taken.known.normalization.mean, taken.known.normalization.std
        sentences.append(f"the run normalizes images after reading them: mean {mean} and std {std} were inferred")
    if note is not None:
        sentences.append(note)
    return sentences

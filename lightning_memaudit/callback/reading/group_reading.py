"""Members and controls: read once, as the run itself reads them, and kept."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from lightning_memaudit.callback.conditions import Condition, conditions_of
from lightning_memaudit.callback.isolation import preserved_random_state
from lightning_memaudit.callback.keys import select
from lightning_memaudit.callback.reading.batch_images import (
    BatchFormat,
    are_enough,
    item_images,
    learn_format,
    to_float,
)
from lightning_memaudit.callback.reading.image_names import names_in_batch, names_of
from lightning_memaudit.callback.reading.items import NoImageFound, plain, tensors_in
from lightning_memaudit.callback.reading.layout import Layout, NetworkInput, alike
from lightning_memaudit.callback.reading.reader import ReadBatch, Reader, Source
from lightning_memaudit.callback.reading.stored_images import StoredImages
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.checks import check_values
from lightning_memaudit.measurement.choice import choose_indices
from lightning_memaudit.measurement.groups import Group

READ_TWICE = 16
"""Images that are read twice, to see whether reading draws random numbers; more where a batch has more."""

Transfer = Callable[[Any], Any]
"""From a batch as ``collate_fn`` made it to the batch that the model gets: the run's hooks and the device."""


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
        image_shape: Likewise, (C, *spatial).
        network: What the network takes.
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
    network: NetworkInput = field(default_factory=NetworkInput)
    reading: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def images_in(self, batch: Any) -> Tensor | None:
        """The images (B, C, *spatial) in [0, 1] of a training batch, perhaps of another shape; None if none is found.

        Args:
            batch: As ``training_step`` gets it.
        """
        images = self.arranged_in(batch)
        return images if images is None else self.format.in_unit_range(images)

    def arranged_in(self, batch: Any) -> Tensor | None:
        """The same, normalized as they stand in the batch."""
        for path in dict.fromkeys([self.source.path, ()]):
            if (images := self.arranged_at(batch, path)) is not None:
                return images
        shaped = [tensor for _, tensor in tensors_in(batch) if tuple(tensor.shape[1:]) == self.format.shape]
        return self.arranged(shaped[0]) if len(shaped) == 1 else None

    def arranged_at(self, batch: Any, path: Sequence[Any]) -> Tensor | None:
        """The same of one train dataloader, whose batch stands at this path."""
        with suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
            part = select(batch, list(path), "image_key")
            if self.format.path is not None:
                # Members that were passed may stand in tuples, where the run's batches are tensors; a function of the
                # run's own batches holds for all of them.
                is_plain = isinstance(part, Tensor) and (self.source.given or not callable(self.format.path))
                with preserved_random_state():  # which such a function may draw from
                    found = part if is_plain else self.format.find(part)
                return self.arranged(found) if found.ndim > 1 else None  # else places of images, as in a table
        return None

    def arranged(self, found: Tensor) -> Tensor:
        """Images as they stand in a batch, as (B, C, *spatial)."""
        found, known = plain(found.detach()), replace(self.format, normalization=Normalization())
        with suppress(ValueError):
            return known.undo(found)
        moved = found.movedim(-1, 1) if known.layout.channels_last else found
        return replace(known, layout=Layout(tuple(moved.shape[1:]), known.layout.channels_last)).undo(found)


def read_group(
    source: Source,
    wanted: int | None,
    normalization: Normalization,
    transfer: Transfer,
    seed: int = 0,
    image_shape: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    conditional: bool = False,
    network: NetworkInput | None = None,
    twice: bool = True,
) -> ReadGroup:
    """Read a seeded choice of images, as the run itself reads them.

    Args:
        source: Where from.
        wanted: How many; None for all.
        normalization: Given by the user; undone.
        transfer: The run's batch hooks and the move to the device.
        seed: Of the choice and of the reading process.
        image_shape: (C, *spatial), where neither shape nor network tell.
        device: Where the images go.
        conditional: Keep of each image what its batch holds besides it.
        network: What the network takes.
        twice: See whether reading an image twice gives different ones.

    Raises:
        ValueError: An image cannot be read, or is no image in [0, 1].
    """
    whole = source.gives_batches and source.indices is not None
    if source.indices is not None:
        chosen = [
            source.indices[index] for index in choose_indices(len(source.indices), None if whole else wanted, seed)
        ]
        if not chosen:
            raise ValueError(f"{source.group} holds no images: pass at least one")
    elif wanted is None:
        raise ValueError(
            f"{source.group}: {type(source.dataset).__name__} can only be iterated: pass num_{source.group}=<how many "
            "images of it>"
        )
    else:
        chosen = []
    if wanted is not None and source.most is not None and not source.gives_batches:
        wanted = min(wanted, source.most)
    if whole and wanted is not None:  # in an order of its own: not the first ones, which may be of one kind
        chosen = [chosen[place] for place in torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
    reader = Reader(source, seed)
    size = source.batch_size
    blocks = [chosen[begin : begin + size] for begin in range(0, len(chosen), size)]
    # The very same batches: collate_fn may fill them up to a size.
    again = blocks[: max(1, READ_TWICE // size)] if twice else []
    # Of items that are batches fewer may be read than there are: then the second reading is one of its own.
    reads = reader.blocks(blocks if whole else [*blocks, *again]) if chosen else reader.first(wanted or 0)

    network = network or NetworkInput()
    count = wanted if whole else len(chosen) or wanted or 0
    taken = _Taken(source, normalization, transfer, image_shape, network, device, conditional, count, len(chosen))
    with closing(reads):  # or the reading process would be ended by the garbage collector, at any moment
        # Of a stream of batches the training gets to so many; of one of items, to so many images.
        for read in islice(reads, len(blocks) or (source.most if source.gives_batches else None)):
            taken.take(read)
            if taken.count is not None and len(taken.images) >= taken.count:
                break
        taken.finish()
        second = [] if whole or not again else [taken.convert(read) for read in reads]
    if whole:
        with closing(Reader(source, seed + 1).blocks(again)) as reads:  # which draws other random numbers
            for read in reads:
                second.append(taken.convert(read))
                if len(second) > 1 and sum(map(len, second)) >= READ_TWICE:
                    break
    begins = accumulate((len(one) for one in second), initial=0)
    is_random = any(
        _differs(one[: max(0, len(taken.images) - begin)], taken.images[begin : begin + len(one)])
        for begin, one in zip(begins, second, strict=False)
    )
    by_item = bool(chosen) and not whole
    indices = [chosen[place] for place in taken.places] if by_item else list(range(len(taken.images)))
    names = names_of(source.dataset if by_item else None, indices, taken.names, source.key)
    conditions = taken.conditions if conditional else None
    group = Group(source.group, taken.images, indices, range(len(indices)), names, conditions)
    available = len(source.indices) if by_item and source.indices is not None else None
    words = _in_words(source, taken, reader.note)
    given = (normalization, image_shape, network)
    return ReadGroup(group, source, taken.known, available, is_random, *given, words, taken.problems)


class _Taken:
    """Images on their way from batches to the store."""

    def __init__(
        self,
        source: Source,
        normalization: Normalization,
        transfer: Transfer,
        image_shape: Sequence[int] | None,
        network: NetworkInput,
        device: torch.device | str,
        conditional: bool,
        count: int | None,
        num_items: int,
    ) -> None:
        self.source, self.normalization, self.transfer = source, normalization, transfer
        self.network = network
        self.image_shape, self.device, self.conditional = image_shape, device, conditional
        self.count, self._most_items = count, num_items  # images wanted, all if None, of items that are batches
        self.names: list[str | None] = []
        self.places: list[int] = []
        self.num_items, self.num_cut = 0, 0
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
        count = sum(len(one.items) or 1 for _, one in self._waiting)
        images = [item.image for _, one in self._waiting for item in one.items if item.image is not None]
        if self.format is not None or are_enough(count, images):
            self.finish()

    def finish(self) -> None:
        """Convert and keep what waits."""
        if self.format is None:
            if not self._waiting:
                raise ValueError(f"{self.source.group} holds no images: pass at least one")
            about = (self.source.group, self.source.key, self.image_shape, self.normalization, self.network)
            batches, items = [batch for batch, _ in self._waiting], [read.items for _, read in self._waiting]
            try:
                self.format = learn_format(batches, items, *about)
            except ValueError as error:
                if not self.source.gives_batches or isinstance(error, NoImageFound):
                    raise
                raise ValueError(f"{error}; {self.source.mend_of_single_items}") from error
            if self.count is None:
                # Room for all, if those to come are no larger.
                self.count = self._most_items * max(len(self._converted(*one)[0]) for one in self._waiting)
            self.images = StoredImages(self.format.shape, self.count, self.device)
        assert self.count is not None
        for batch, read in self._waiting:
            if len(self.images) >= self.count:
                break
            images, order = self._converted(batch, read)
            self.num_cut += max(0, len(images) - (self.count - len(self.images)))
            images = images[: self.count - len(self.images)]
            self._check_values(images)
            self.images.add(images)
            places = [item.place for item in read.items] or list(range(len(images)))
            self.places += [self.num_items + place for place in places]
            self.num_items += read.size or len(images)
            self.names += [item.name for item in read.items] or names_in_batch(read.batch, len(images))
            if self.conditional:
                conditions = self._conditions(batch)
                self.conditions += conditions if order is None else [conditions[row] for row in order.tolist()]
        self._waiting = []

    def _check_values(self, images: Tensor) -> None:
        try:
            check_values(self.source.group, images)
        except ValueError as error:
            text = str(error)
            if self.normalization.data_range is not None and bool(images.isfinite().all()):
                low, high = self.normalization.data_range
                ends = [low + (high - low) * float(end) for end in images.aminmax()]
                text = (
                    f"{self.source.group} has values in [{ends[0]:.4g}, {ends[1]:.4g}], beyond data_range=[{low:g}, "
                    f"{high:g}]: pass a range that holds all values, or clip them in the data set's own transform"
                )
            self.problems = self.problems or [text]

    def convert(self, read: ReadBatch) -> Tensor:
        """The images of a batch, in [0, 1]."""
        return self._converted(self._transferred(read), read)[0]

    def _transferred(self, read: ReadBatch) -> Any:
        try:
            return self.transfer(read.batch)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"{self.source.group}: the run's batch hooks fail on a batch of them ({reason}): pass "
                f"{self.source.group}=<a data set> whose items are like those that are trained on"
            ) from error

    def _converted(self, batch: Any, read: ReadBatch) -> tuple[Tensor, Tensor | None]:
        """The images in the order of the items, and the rows of the batch in that order where it is another."""
        known, group = self.known, self.source.group
        if known.path is None:
            found = item_images(read.items)
            if found is None:
                raise next((one.problem for one in read.items if one.problem), ValueError(f"{group}: no image found"))
        else:
            found = known.find(batch)
        first = len(self.images)
        if known.layout.arrange(found).shape[1:] != known.shape:
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
        order = None if own is not None else _order(read, images)
        return (images if order is None else images[order]), order

    def _conditions(self, batch: Any) -> list[Condition]:
        path = self.known.path
        if path is None or callable(path):
            raise ValueError(
                f"{self.source.group}: reconstruct takes the batch, but it holds no images that image_key finds: pass "
                "image_key=<index or key of the images in a batch>"
            )
        return conditions_of(batch, path)


def _agrees(own: Tensor, images: Tensor) -> bool:
    before = alike(own, images.shape[1:])
    return before is not None and bool(torch.allclose(to_float(before).to(images.device), images, atol=5e-3))


def _order(read: ReadBatch, images: Tensor) -> Tensor | None:
    """The rows of a batch in the order of its items, where a ``collate_fn`` has sorted them; None where it has not."""
    own = item_images(read.items)
    items = None if own is None or len(own) != len(images) else alike(own, images.shape[1:])
    if items is None:
        return None
    items_at_8_bits, images_at_8_bits = (_at_8_bits(one) for one in (to_float(items), images))
    if torch.equal(items_at_8_bits, images_at_8_bits):  # as nearly always, with nothing to hash
        return None
    wanted, found = _digests(items_at_8_bits), _digests(images_at_8_bits)
    if sorted(wanted) != sorted(found):
        return None
    places: dict[str, list[int]] = {}
    for place, digest in enumerate(found):
        places.setdefault(digest, []).append(place)
    return torch.tensor([places[digest].pop(0) for digest in wanted], device=images.device)


def _at_8_bits(images: Tensor) -> Tensor:
    return (images.cpu() * 255).round().to(torch.int32)


def _digests(values: Tensor) -> list[str]:
    return [hashlib.sha256(value.tobytes()).hexdigest() for value in values.numpy()]


def _differs(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.equal(one.to(other.device), other)


def _in_words(source: Source, taken: _Taken, note: str | None) -> list[str]:
    sentences = []
    if source.indices is None:
        sentences.append(f"the first {len(taken.images)} of a fresh iteration of {type(source.dataset).__name__}")
    if taken.num_items > len(taken.images) and source.indices is not None and not source.gives_batches:
        sentences.append(f"{taken.num_items - len(taken.images)} items gave no image and were left out")
    if taken.num_cut and source.gives_batches:
        sentences.append(f"{len(taken.images)} images of its batches, in a seeded order; others were left out")
    if taken.known.path is None:
        sentences.append("no batch of the run holds these images: they are read from the items alone")
    if taken.known.inferred:
        mean, std = taken.known.normalization.mean, taken.known.normalization.std
        sentences.append(f"the run normalizes images after reading them: mean {mean} and std {std} were inferred")
    if note is not None:
        sentences.append(note)
    return sentences

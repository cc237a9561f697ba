"""Reads items and batches as the run's own dataloader does, in a process of its own that leaves no trace in this one.

A data set may open its file at the first read, count, cache, or draw from generators of its own. Read in this process,
that would change what training reads later: workers forked from here would share the position in the file, and the
generators would have moved on.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate, get_worker_info

from lightning_memaudit.callback.reading.image_names import name_in
from lightning_memaudit.callback.reading.items import find_in_item
from lightning_memaudit.callback.reading.loaders import draw_epochs, place_in_root
from lightning_memaudit.callback.state.open_files import positions_kept
from lightning_memaudit.callback.state.shared_memory import TakesFromRunError, make_private

WORKER_TIMEOUT = 120.0
"""Seconds without an answer after which a reading process is given up, and the reading done in this one."""

MOST_ITEMS_AT_ONCE = 64


@dataclass(frozen=True)
class Source:
    """Where the images of a group come from.

    Attributes:
        group: ``members`` or ``controls``.
        dataset: The data set.
        indices: Which items of it; None where it can only be iterated.
        loader: The run's dataloader whose ``collate_fn`` and worker settings are used; None for defaults.
        key: Where the image is in an item, see :func:`~lightning_memaudit.callback.reading.items.find_in_item`.
        path: Where the batch of this loader is within a batch of the run.
        others: Where those of the other train dataloaders are.
        given: Whether the data set was passed by the user.
        most: Items of a stream that training gets to, each of them a batch where it gives batches; None where there is
            no limit.
        certain: Whether every epoch of the training is sure to give all of these items.

    >>> Source("members", [torch.zeros(1, 8, 8)] * 4, indices=[0, 2]).batch_size
    2
    """

    group: str
    dataset: Any
    indices: list[int] | None
    loader: Any = None
    key: Any = None
    path: tuple[Any, ...] = ()
    given: bool = False
    most: int | None = None
    certain: bool = True
    others: tuple[tuple[Any, ...], ...] = ()

    @property
    def batch_size(self) -> int:
        """Items that are read at once."""
        if self.gives_batches and self.indices is not None:
            return 1
        wanted = getattr(self.loader, "batch_size", None) or MOST_ITEMS_AT_ONCE
        least = min(wanted, MOST_ITEMS_AT_ONCE)
        return least if self.indices is None else max(1, min(least, len(self.indices)))

    @property
    def in_batches(self) -> bool:
        """Whether the data set itself gives batches, so that there is nothing to collate."""
        loader = self.loader
        return isinstance(loader, DataLoader) and loader.batch_size is None and loader.batch_sampler is None

    @property
    def gives_batches(self) -> bool:
        """Whether every item is a batch; a data set that is asked for lists of indices has images for items."""
        return self.in_batches and not isinstance(getattr(self.loader, "sampler", None), BatchSampler)

    @property
    def mend_of_single_items(self) -> str:
        """What to pass where every item is read as a batch, and is one image."""
        key = "lambda item: item[None]"
        key = f"{{{self.group!r}: {key}}}" if self.given else key
        return (
            f"the dataloader has batch_size=None, so that each item of {self.group} is read as a batch: where it is "
            f"one image, pass image_key={key}"
        )


def places(source: Source) -> list[tuple[int, int]]:
    """For each item that is read: the data set within all wrappings, and the index there."""
    found = (place_in_root(source.dataset, index) for index in source.indices or ())
    return [(id(root), place) for root, place in found]


@dataclass(frozen=True)
class ReadItem:
    """What an item itself says of its image.

    Attributes:
        image: As it stands in the item, (C, *spatial), without channels or flat, of any type; None where there is none.
        name: What it is called there, such as a file's path; None where it has no name.
        problem: Why there is no image.
        place: Among the items that were read together.

    >>> ReadItem(torch.zeros(1, 8, 8)).name is None
    True
    """

    image: Tensor | None
    name: str | None = None
    problem: ValueError | None = None
    place: int = 0


@dataclass(frozen=True)
class ReadBatch:
    """A batch as the run's ``collate_fn`` makes it, and the items that it was made of.

    Attributes:
        batch: Before it is transferred to a device.
        items: One per item that is not None, as a data set may give for a picture that is torn; empty where the data
            set itself gives batches.
        size: Items that were asked for.

    >>> ReadBatch(torch.zeros(2, 1, 8, 8)).items
    []
    """

    batch: Any
    items: list[ReadItem] = field(default_factory=list)
    size: int = 0


class _CollateWithItems:
    """The run's ``collate_fn``, and beside its result what is known of the items."""

    def __init__(self, collate: Callable[[Any], Any], key: Any, given: bool) -> None:
        self.collate, self.key, self.given = collate, key, given

    def __call__(self, items: list[Any]) -> ReadBatch:
        there = [(place, item) for place, item in enumerate(items) if item is not None]
        read = [read_item(item, self.key, place) for place, item in there]  # before collate_fn, which may work in place
        if self.given and all(one.image is None for one in read):
            # The key is of the run's own items; these may be plain images.
            unkeyed = [read_item(item, None, place) for place, item in there]
            read = unkeyed if all(one.image is not None for one in unkeyed) else read
        try:
            return ReadBatch(_own(self.collate(items)), read, len(items))
        except Exception:
            if not self.given:
                raise
        return ReadBatch(default_collate(items), read, len(items))


def read_item(item: Any, key: Any, place: int = 0) -> ReadItem:
    """The image and the name in an item of a data set."""
    name = name_in(item, key)
    try:
        return ReadItem(find_in_item(item, key).clone(), name, None, place)
    except ValueError as error:
        return ReadItem(None, name, error, place)


class Reader:
    """Reads from a source, in a process of its own where that is possible.

    Args:
        source: Where from.
        seed: Of the reading process; the random states of this one stay untouched.

    Attributes:
        note: Why this process had to read; None where it did not.

    >>> reader = Reader(Source("members", [(torch.zeros(1, 8, 8), "a label")] * 3, indices=[0, 1, 2]), seed=0)
    >>> [read.batch[0].shape for read in reader.blocks([[0, 1], [2]])]
    [torch.Size([2, 1, 8, 8]), torch.Size([1, 1, 8, 8])]
    """

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed
        self.note: str | None = None

    def blocks(self, blocks: Sequence[Sequence[int]]) -> Generator[ReadBatch, None, None]:
        """One batch per block of indices, in order.

        Raises:
            ValueError: An item cannot be read; the message names it.
        """
        done = 0
        if self.note is None:
            try:
                with positions_kept(), _reading(self._loader(blocks, num_workers=1)) as batches:
                    for batch in batches:
                        yield batch
                        done += 1
                return
            except GeneratorExit:
                raise
            except TakesFromRunError as error:
                raise self._refusal(error) from None
            except Exception as error:
                failure = error
            # Read once more in this process: a data set may not work in another one, and if the fault is its own the
            # error says so without the worker's wrapping.
            remaining = list(blocks)[done:]
            first = self._read(remaining[:1])
            self._give_up_worker(failure)
            yield from first
            blocks = remaining[1:]
        for block in blocks:
            yield from self._read([block])

    def first(self, count: int) -> Generator[ReadBatch, None, None]:
        """Batches of a fresh iteration of a stream, until there are ``count`` items or no more."""
        done = 0
        try:
            with positions_kept(), _reading(self._loader(None, num_workers=1)) as batches:
                for batch in batches:
                    yield batch
                    done += max(1, len(batch.items))
                    if done >= count:
                        return
            return
        except GeneratorExit:
            raise
        except TakesFromRunError as error:
            raise self._refusal(error) from None
        except Exception as error:
            failure = error
        if done:
            raise ValueError(f"{self.source.group}: {_kind(self.source)} cannot be read further ({_line(failure)})")
        try:
            batches = iter(self._loader(None, num_workers=0))
            first = next(batches, None)
        except Exception as error:
            raise ValueError(
                f"{self.source.group}: {_kind(self.source)} cannot be read ({_line(error)}): mend it, or pass "
                f"{self.source.group}=<a data set>"
            ) from error
        self._give_up_worker(failure)
        if first is not None:
            yield first
            yield from batches

    def sampler_epochs(self, sampler: Any, most: int) -> list[list[Any]]:
        """See :func:`.draw_epochs`; in a process of its own where possible."""
        loader = DataLoader(_Epochs(sampler, most), batch_size=None, num_workers=1, timeout=WORKER_TIMEOUT)
        try:
            with positions_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with _reading(loader) as epochs:
                    return next(epochs)
        except TakesFromRunError as error:
            raise self._refusal(error) from None
        except Exception as error:
            self._give_up_worker(error)
            return draw_epochs(sampler, most)

    def _refusal(self, error: TakesFromRunError) -> ValueError:
        return ValueError(
            f"{self.source.group}: reading {_kind(self.source)} takes from a queue or a pipe what the training would "
            f"get ({_line(error).rpartition(': ')[2]}): pass {self.source.group}=<a data set of such images that is "
            "read without it>"
        )

    def _read(self, blocks: Sequence[Sequence[int]]) -> list[ReadBatch]:
        """In this process; an error names the item."""
        try:
            return list(self._loader(blocks, num_workers=0))
        except Exception as error:
            failure = error
        for block in blocks:
            for index in block:
                try:
                    self.source.dataset[index]
                except Exception as error:
                    raise ValueError(
                        f"item {index} of {_kind(self.source)} cannot be read ({_line(error)}): mend the data set, or "
                        "pass members or controls that can be read by index"
                    ) from error
        raise ValueError(
            f"{self.source.group}: the batch of the items {', '.join(map(str, blocks[0]))} cannot be made "
            f"({_line(failure)}): pass {self.source.group}=<a data set> whose items are like those that are trained on"
        ) from failure

    def _give_up_worker(self, error: BaseException) -> None:
        self.note = (
            f"read in the process of the training, because a reading process failed ({_line(error)}): state that the "
            "data set keeps may have changed"
        )
        warnings.warn(f"{self.source.group}: {self.note}", stacklevel=3)

    def _loader(self, blocks: Sequence[Sequence[int]] | None, num_workers: int) -> Any:
        source, loader = self.source, self.source.loader
        settings: dict[str, Any] = {
            "num_workers": num_workers,
            # Seeds the reading process; without it a number would be drawn from the global generator.
            "generator": torch.Generator().manual_seed(self.seed),
            "worker_init_fn": _BeginReading(getattr(loader, "worker_init_fn", None)),
        }
        if num_workers:
            settings["timeout"] = getattr(loader, "timeout", 0) or WORKER_TIMEOUT
            settings["multiprocessing_context"] = getattr(loader, "multiprocessing_context", None)
        if source.in_batches:
            collate: Callable[[Any], Any] = partial(_collated, loader.collate_fn)
            sampler: Any = None
            if blocks is not None:
                in_lists = isinstance(loader.sampler, BatchSampler)
                sampler = list(blocks) if in_lists else [index for block in blocks for index in block]
            return DataLoader(source.dataset, batch_size=None, sampler=sampler, collate_fn=collate, **settings)
        own = getattr(loader, "collate_fn", None) or default_collate
        settings["collate_fn"] = _CollateWithItems(own, source.key, source.given)
        if blocks is None:
            return DataLoader(source.dataset, batch_size=source.batch_size, **settings)
        return DataLoader(source.dataset, batch_sampler=[list(block) for block in blocks], **settings)


@contextmanager
def _reading(loader: Any) -> Iterator[Any]:
    """Iterate a loader, and end its process at once: an error's traceback would keep it until garbage is collected."""
    iterator = iter(loader)
    try:
        yield iterator
    finally:
        if (end := getattr(iterator, "_shutdown_workers", None)) is not None:
            end()


def _collated(collate: Callable[[Any], Any], batch: Any) -> ReadBatch:
    return ReadBatch(_own(collate(batch)))


def _own(batch: Any) -> Any:
    """The batch with tensors and arrays of its own: a data set may fill the same ones anew for each batch."""
    copies: dict[int, Any] = {}  # what stands in two places still does

    def own(one: Any) -> Any:
        if isinstance(one, np.ndarray) or (isinstance(one, Tensor) and one.layout is torch.strided):
            return copies.setdefault(id(one), one.clone() if isinstance(one, Tensor) else one.copy())
        return one

    return tree_map(own, batch)


class _BeginReading:
    """Prepares a reading process: memory that it shares becomes its own, then comes what the run's own workers do."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self.own = own

    def __call__(self, worker: int) -> None:
        information = get_worker_info()
        assert information is not None
        make_private(information.dataset)
        if self.own is not None:
            self.own(worker)


class _Epochs(IterableDataset[Any]):
    """Draws epochs of a sampler where it is iterated: in a worker process."""

    def __init__(self, sampler: Any, most: int) -> None:
        self.sampler, self.most = sampler, most

    def __iter__(self) -> Iterator[list[list[Any]]]:
        if get_worker_info() is not None:
            make_private(self.sampler)
        yield draw_epochs(self.sampler, self.most)


def _kind(source: Source) -> str:
    return type(source.dataset).__name__


def _line(error: BaseException) -> str:
    """An error in one line; of a worker's error, which quotes a traceback, the last line."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        return " ".join(text.splitlines()[-1].split())
    return " ".join(f"{type(error).__name__}: {text}".split())

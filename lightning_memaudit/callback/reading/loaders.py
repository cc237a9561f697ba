"""Which items of a data set a run's dataloaders can yield, for any sampler, and without disturbing it."""

import operator
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

EPOCHS_LOOKED_AT = 3
"""Epochs of a sampler nobody here knows that are drawn, in a process of their own, to learn what it yields."""


@dataclass(frozen=True)
class RunLoaders:
    """The dataloaders of a run, as far as an audit needs them.

    Attributes:
        train: All train dataloaders; members come from the first, controls must come from none.
        validation: All validation dataloaders; controls come from the first that holds other images than train ones.
        paths: Where the batch of each train dataloader is within a batch of the run.
        num_batches: Batches of an epoch of training.

    >>> loaders = RunLoaders.of([DataLoader(range(8), 2), DataLoader(range(4), 2)], DataLoader(range(3)))
    >>> len(loaders.train), loaders.paths, loaders.validation[0].dataset
    (2, [(0,), (1,)], range(0, 3))
    """

    train: list[Any] = field(default_factory=list)
    validation: list[Any] = field(default_factory=list)
    paths: list[tuple[Any, ...]] = field(default_factory=list)
    num_batches: float = float("inf")

    @classmethod
    def of(cls, train: Any, validation: Any, num_batches: float = float("inf")) -> "RunLoaders":
        """Of whatever Lightning may be given: one loader, lists, mappings, a CombinedLoader; None for none."""
        found = list(_loaders_in(train)) if train is not None else []
        others = [one for _, one in _loaders_in(validation)] if validation is not None else []
        return cls([one for _, one in found], others, [path for path, _ in found], num_batches)

    def first(self, given: Any = None) -> int:
        """Which train dataloader members are read as: the first, or the one that holds the data set that is given.

        >>> datasets = [range(8), range(4)]
        >>> RunLoaders.of([DataLoader(one, 2) for one in datasets], None).first(Subset(datasets[1], [0, 2]))
        1
        """
        if given is None:
            return 0
        roots = [id(_root(getattr(loader, "dataset", None))) for loader in self.train]
        return roots.index(id(_root(given))) if id(_root(given)) in roots else 0

    @classmethod
    def of_trainer(cls, trainer: Trainer) -> "RunLoaders":
        """Of a trainer in a stage that has its train dataloader.

        Lightning asks for validation loaders when validation first runs, perhaps many epochs from now. Asking in its
        place would change when their hook draws random numbers. So they are asked for once more; the caller preserves
        random states.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return cls()
        validation: Any = trainer.val_dataloaders
        if validation is None:
            source = trainer.fit_loop.epoch_loop.val_loop._data_source
            if source.instance is not None and source.is_defined():
                validation = source.dataloader()
        num_batches = float(trainer.num_training_batches)
        if trainer.max_steps > 0:
            num_batches = min(num_batches, trainer.max_steps * trainer.accumulate_grad_batches)
        return cls.of(trainer.train_dataloader, validation, num_batches)


def _loaders_in(loaders: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every loader with its path within a batch, in order."""
    if isinstance(loaders, DataLoader):
        yield path, loaders
    elif isinstance(loaders, Mapping):
        for key, loader in loaders.items():
            yield from _loaders_in(loader, (*path, key))
    elif isinstance(loaders, list | tuple) and not any(isinstance(one, torch.Tensor) for one in loaders):
        for index, loader in enumerate(loaders):
            yield from _loaders_in(loader, (*path, index))
    elif hasattr(loaders, "iterables"):  # a CombinedLoader
        yield from _loaders_in(loaders.iterables, path)
    else:
        # One around another, as those that move batches ahead of time: what it adds shows in the first batch.
        inner = getattr(loaders, "loader", None) or getattr(loaders, "dataloader", None)
        yield path, inner if isinstance(inner, DataLoader) else loaders


def check_loaders(loaders: Mapping[str, Any]) -> None:
    """Raise unless images can be read from behind the loader of each group.

    Raises:
        ValueError: One has no data set, and is none.
    """
    lacking = {group: loader for group, loader in loaders.items() if not hasattr(loader, "dataset")}
    if lacking:
        found = " and ".join(f"{group}: no data set found in {type(one).__name__}" for group, one in lacking.items())
        mend = " and ".join(f"{group}=<a data set>" for group in lacking)
        raise ValueError(f"{found}; pass {mend} of the images that it gives, one an item")


def is_stream(dataset: Any) -> bool:
    """Whether a data set can only be iterated, not indexed."""
    if isinstance(dataset, IterableDataset):
        return True
    return not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"))


@dataclass(frozen=True)
class Reachable:
    """Which items a loader can yield.

    Attributes:
        indices: In increasing order, each once.
        certain: Whether every epoch yields them all.

    >>> Reachable.through(DataLoader(range(9), 2, sampler=[3, 5, 3]))
    Reachable(indices=[3, 5], certain=True)
    """

    indices: list[int]
    certain: bool = True

    @classmethod
    def through(cls, loader: Any, num_batches: float = float("inf"), indices_of: Any = None) -> "Reachable":
        """What ``num_batches`` batches per epoch of a loader can reach.

        Args:
            loader: Its data set has a length.
            num_batches: With limited batches (``limit_train_batches``, ``overfit_batches``, ``fast_dev_run``) and a
                fixed order, the rest is never reached.
            indices_of: Draws epochs of a sampler of unknown type, see
                :func:`~lightning_memaudit.callback.reading.reader.draw_epochs`; None draws them here.
        """
        size = len(loader.dataset)
        limit = num_batches if num_batches < _length(loader, float("inf")) else None
        batch_sampler = getattr(loader, "batch_sampler", None)
        if batch_sampler is not None and type(batch_sampler) is not BatchSampler:
            return _drawn(batch_sampler, size, limit, indices_of, in_batches=True)
        # Beside a batch sampler that was passed, the loader has a sampler that it does not use.
        sampler: Any = getattr(loader, "sampler", None)
        batch_size, copies = 1, 1
        if batch_sampler is not None:
            sampler, batch_size = batch_sampler.sampler, batch_sampler.batch_size
        if is_of_more_processes(sampler):
            if sampler.shuffle:
                return cls(list(range(size)), False)
            drawn = list(islice(iter(sampler), None if limit is None else int(limit) * batch_size))
            return cls(sorted({int(index) for index in drawn}))
        while isinstance(sampler, DistributedSampler):
            copies *= sampler.num_replicas
            inner = getattr(sampler.dataset, "_sampler", None)  # Lightning's wrapper of another sampler
            if inner is None:
                sampler = RandomSampler(range(size)) if sampler.shuffle else SequentialSampler(range(size))
            else:
                sampler = inner
        count = None if limit is None else int(limit) * batch_size * copies
        if count is None and batch_sampler is not None and batch_sampler.drop_last:
            # What is left at the end of a fixed order never comes.
            length = int(_length(sampler, size))
            count = length - length % (batch_size * copies)
        kind = type(sampler)
        if sampler is None or kind is SequentialSampler:
            return cls(list(range(size if count is None else min(size, count))))
        if kind is RandomSampler:
            draws = sampler.num_samples if count is None else min(count, sampler.num_samples)
            return cls(list(range(size)), draws >= size and not sampler.replacement)
        if kind is SubsetRandomSampler:
            indices = sorted({int(index) for index in sampler.indices})
            return cls(indices, count is None or count >= len(indices))
        if kind is WeightedRandomSampler:
            return cls([int(index) for index in sampler.weights.nonzero().flatten()], False)
        if isinstance(sampler, list | tuple | range):
            return cls(sorted(set(islice(_indices(sampler), count))))
        return _drawn(sampler, size, count, indices_of)


def is_of_more_processes(sampler: Any) -> bool:
    """Whether a sampler is made for more processes than there are: of the other parts nothing is trained on.

    >>> is_of_more_processes(DistributedSampler(range(9), num_replicas=2, rank=1))
    True
    """
    there_are = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    is_known = "torch_xla" not in sys.modules  # which counts its processes otherwise
    return is_known and isinstance(sampler, DistributedSampler) and sampler.num_replicas > there_are


def _length(loader: Any, otherwise: float) -> float:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return otherwise


def _drawn(sampler: Any, size: int, limit: float | None, indices_of: Any, in_batches: bool = False) -> Reachable:
    """What a sampler, or one of batches, yields in a few epochs."""
    most = 4 * size if limit is None else int(limit)
    drawn = (indices_of or draw_epochs)(sampler, most)
    epochs = [list(_indices(list(one) if in_batches else one for one in epoch)) for epoch in drawn]
    reached = {one % size for epoch in epochs for one in epoch if -size <= one < size}
    return Reachable(sorted(reached), all(set(epoch) == set(epochs[0]) for epoch in epochs))


def draw_epochs(sampler: Any, most: int, num_epochs: int = EPOCHS_LOOKED_AT) -> list[list[Any]]:
    """What a sampler, or a sampler of batches, yields in its first epochs; at most so many elements each.

    It advances the sampler and its generators: to be called in a process of its own.

    >>> draw_epochs(torch.tensor([[3, 1], [0, 2]]), most=9, num_epochs=1)
    [[[3, 1], [0, 2]]]
    """
    epochs = []
    for epoch in range(num_epochs):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        drawn = islice(iter(sampler), most)
        epochs.append([one.tolist() if isinstance(one, torch.Tensor) else one for one in drawn])  # no shared memory
    return epochs


def _indices(elements: Iterable[Any]) -> Iterator[int]:
    """The items that elements of a sampler stand for: lists are batches, and tuples begin with the index of one item.

    Raises:
        ValueError: One of them is no index, such as the key of a data set that is none of items in an order.

    >>> list(_indices([2, [3, 1], (5, 224), [(4, 160)]]))
    [2, 3, 1, 5, 4]
    """
    for element in elements:
        first = element[0] if isinstance(element, tuple) and element else element
        if isinstance(element, list):
            yield from _indices(element)
        elif getattr(first, "ndim", 0):
            yield from _indices(first.tolist())
        else:
            try:
                yield operator.index(first)
            except TypeError:
                raise ValueError(
                    f"members or controls: the sampler asks the data set for {element!r}, which is no index: pass "
                    "members=<a data set that is read by index>, and controls likewise"
                ) from None


def warn_if_uncertain(reachable: Reachable, loader: Any, num_batches: float) -> None:
    """Warn when some of the members may never have been trained on."""
    if reachable.certain:
        return
    limited = num_batches < _length(loader, float("inf"))
    sampler: Any = getattr(loader, "sampler", None)
    of_more = "the sampler is made for {0} processes, so that each epoch gives a part of the images"
    why = (
        of_more.format(sampler.num_replicas)
        if is_of_more_processes(sampler)
        else f"only {int(num_batches)} of {len(loader)} batches are trained on in each epoch, in random order"
        if limited
        else f"{type(sampler).__name__} yields other items in every epoch"
    )
    rank_zero_warn(
        f"members: {why}: some images may never have been; pass members=<a data set of those that are> for exact rates"
    )


def _root(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def place_in_root(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set and the index that an item comes from, through Subset and ConcatDataset.

    >>> place_in_root(Subset(ConcatDataset([range(5), range(9)]), [7, 2]), 0)
    (range(0, 9), 2)
    """
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            index = index + len(dataset) if index < 0 else index
            before = 0
            for part, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
                if index < end:
                    dataset, index = part, index - before
                    break
                before = end
        else:
            return dataset, index

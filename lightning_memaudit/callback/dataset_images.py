"""Which images are audited, read once before the first audit, and kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset

from lightning_memaudit.callback.keys import GroupKey, key_for
from lightning_memaudit.callback.reading.loaders import (
    Reachable,
    RunLoaders,
    check_loaders,
    is_stream,
    warn_if_uncertain,
)
from lightning_memaudit.callback.reading.reader import Reader, Source, places

FAST_DEV_RUN_IMAGES = 2


@dataclass(frozen=True, eq=False)  # what a data set says to == is its own affair
class ImageChoice:
    """Which images are audited, and where an image is within an item of a data set.

    Attributes:
        members: Images that are trained on; None takes those that the run's train dataloader can yield.
        controls: Images that are not; None takes those that the run's validation dataloader can yield.
        num_members: A seeded random choice of so many; None takes all.
        num_controls: Likewise; 0 audits without controls.
        image_key: Where an image is in an item; a mapping gives each group its own.
        image_shape: (C, *spatial) of an image, with one, two or three spatial axes: needed where the shape in a batch
            leaves open what its axes are, as for flat vectors.

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
        shape = self.image_shape
        if shape is not None and not (2 <= len(shape) <= 4 and all(isinstance(n, int) and n > 0 for n in shape)):
            raise ValueError(f"image_shape={shape}: give (C, H, W), (C, D, H, W) for volumes, (C, L) for signals")

    def sources(self, loaders: RunLoaders, seed: int) -> list[Source]:
        """Where members and, if there are any, controls are read from; with all items that are available.

        Args:
            loaders: Of the run.
            seed: See :class:`~lightning_memaudit.callback.reading.reader.Reader`.

        Raises:
            ValueError: There is no data set.
        """
        train = loaders.train[loaders.first(self.members)] if loaders.train else None
        # Of several validation dataloaders, those behind which there are data sets do.
        validation = [one for one in loaders.validation if hasattr(one, "dataset")] or loaders.validation[:1]
        wanted = {} if self.members is not None else {"members": train}
        if self.controls is None and self.num_controls != 0 and validation:
            wanted["controls"] = validation[0]
        check_loaders(wanted)
        members = self._source("members", self.members, train, loaders, seed)
        if self.num_controls == 0:
            return [members]
        if self.controls is not None:
            first = next(iter(loaders.validation), None)
            return [members, self._source("controls", self.controls, first, loaders, seed)]
        candidates = [self._source("controls", None, loader, loaders, seed) for loader in validation]
        candidates = [one for one in candidates if one.indices != []]
        # A run may watch its training images in a validation dataloader too.
        others = [one for one in candidates if one.indices is None or not set(places(one)) <= set(places(members))]
        return [members, *(others or candidates)[:1]]

    def training(self, loaders: RunLoaders, seed: int) -> list[Source]:
        """All that training can reach, behind every train dataloader."""
        return [
            self._source("members", None, loader, replace(loaders, num_batches=float("inf")), seed)
            for loader in loaders.train
            if hasattr(loader, "dataset")
        ]

    def _source(self, group: str, given: Dataset[Any] | None, loader: Any, loaders: RunLoaders, seed: int) -> Source:
        key, first = key_for(group, self.image_key), loaders.first(self.members)
        paths = loaders.paths or [()]
        path, others = paths[first], (*paths[:first], *paths[first + 1 :])
        if given is not None:
            indices = None if is_stream(given) else list(range(len(given)))  # type: ignore[arg-type]
            # A collate_fn is made for items like the run's own.
            model = loader if loader is not None else next(iter(loaders.train), None)
            return Source(group, given, indices, model, key, path, given=True, others=others)
        if is_stream(loader.dataset):
            limited = group == "members" and loaders.num_batches < float("inf")
            most = int(loaders.num_batches) * (getattr(loader, "batch_size", None) or 1) if limited else None
            return Source(group, loader.dataset, None, loader, key, path, most=most, others=others)
        reader = Reader(Source(group, loader.dataset, [], loader, key), seed)
        num_batches = loaders.num_batches if group == "members" else float("inf")
        reachable = Reachable.through(loader, num_batches, reader.sampler_epochs)
        if group == "members":
            warn_if_uncertain(reachable, loader, num_batches)
        found = Source(group, loader.dataset, reachable.indices, loader, key, path, certain=reachable.certain)
        return replace(found, others=others)

    def number(self, group: str, fast_dev_run: bool) -> int | None:
        """How many images of a group are wanted."""
        wanted = self.num_members if group == "members" else self.num_controls
        return min(wanted or FAST_DEV_RUN_IMAGES, FAST_DEV_RUN_IMAGES) if fast_dev_run else wanted

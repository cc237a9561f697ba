"""The images of an audit: what they are called, and which of them may be recovered together."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.batches import images_at_once

FEW = 8
"""So many images are read together without a look at their size."""


class ImageSource(Protocol):
    """Images (n, C, *spatial) in [0, 1] that can be sliced; a tensor is one, a lazy data set another.

    >>> images: ImageSource = torch.rand(8, 3, 16, 16)
    >>> len(images), tuple(images[0:2].shape)
    (8, (2, 3, 16, 16))
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """The images of a slice, (k, C, *spatial)."""
        ...


class ConditionalAutoencoder(Protocol):
    """What reconstructs an image only together with something else, such as its label.

    >>> class Means:
    ...     def given(self, condition: Hashable) -> Autoencoder:
    ...         return lambda images: torch.full_like(images, {"dark": 0.25, "light": 0.75}[condition])
    >>> means: ConditionalAutoencoder = Means()
    >>> group = Group.whole("members", torch.rand(3, 1, 8, 8), conditions=["light", "dark", "light"])
    >>> [(list(block.rows), block.autoencoder(block.images).mean().item()) for block in group.blocks(means, 64)]
    [([0, 2], 0.75), ([1], 0.25)]
    """

    def given(self, condition: Any, /) -> Autoencoder:
        """The autoencoder for images that all have this condition."""
        ...


class Block(NamedTuple):
    """Images that are degraded and recovered together.

    Attributes:
        rows: Which images of the group they are.
        images: (k, C, *spatial) in [0, 1].
        autoencoder: f for these images.

    >>> group = Group.whole("members", torch.rand(5, 1, 8, 8))
    >>> [block.rows for block in group.blocks(lambda images: images, block_size=3)]
    [range(0, 3), range(3, 5)]
    """

    rows: Sequence[int]
    images: Tensor
    autoencoder: Autoencoder


@dataclass(frozen=True)
class Group:
    """Images to audit: ``members`` were trained on, ``controls`` were not.

    Attributes:
        name: ``members`` or ``controls``.
        images: The images (n, C, *spatial), in [0, 1].
        indices: Index of each image within its data set.
        positions: Position of each image within the whole group, of which this process may hold only a part. It
            seeds the mask, so that the i-th member and the i-th control are degraded alike.
        names: What a person calls each image in its data set, as the path of a file; None calls it by its index.
        conditions: What the autoencoder is given with each image, as a label; only images with equal ones are recovered
            together. None where it is given nothing; then, and only then, it is called without ``given``.
        repeated: Positions of images that show what another shows that counts, see
            :func:`~lightning_memaudit.measurement.near_duplicates.repeats`; they are measured, and not judged.

    Raises:
        ValueError: Not as many names or conditions as images, or conditions that cannot be compared.

    >>> Group.whole("members", torch.rand(3, 1, 8, 8)).positions
    range(0, 3)
    >>> Group("controls", torch.rand(2, 1, 8, 8), [7, 9], range(2), names=["a.png", "b.png"]).labels([1])
    ['b.png']
    """

    name: str
    images: ImageSource
    indices: Sequence[int]
    positions: Sequence[int]
    names: Sequence[str] | None = None
    conditions: Sequence[Hashable] | None = None
    repeated: Sequence[int] = ()

    def __post_init__(self) -> None:
        for what in ("names", "conditions"):
            given = getattr(self, what)
            if given is not None and len(given) != len(self.indices):
                raise ValueError(
                    f"{self.name}: {len(given)} {what} for {len(self.indices)} images; give one for each image"
                )
        if self.conditions is not None and not all(isinstance(one, Hashable) for one in self.conditions):
            raise ValueError(f"{self.name}: conditions must be hashable, as numbers and text are")

    @classmethod
    def whole(
        cls,
        name: str,
        images: ImageSource,
        names: Sequence[str] | None = None,
        conditions: Sequence[Hashable] | None = None,
    ) -> "Group":
        """A group of images (n, C, *spatial) that this process holds entirely, indexed 0, 1, 2, ..."""
        return cls(name, images, range(len(images)), range(len(images)), names, conditions)

    def labels(self, rows: Sequence[int]) -> list[str]:
        """What a person calls these images."""
        return [str(self.indices[row] if self.names is None else self.names[row]) for row in rows]

    def place(self, row: int) -> dict[str, Any]:
        """Which image of which group it is, as the rows of results files say it."""
        return {
            "group": self.name,
            "image": int(self.indices[row]),
            "name": self.labels([row])[0],
            "position": int(self.positions[row]),
        }

    def first(self, count: int) -> "Group":
        """The first images, read now."""
        rows = slice(0, count)
        names = None if self.names is None else self.names[rows]
        conditions = None if self.conditions is None else self.conditions[rows]
        return Group(self.name, self.images[rows], self.indices[rows], self.positions[rows], names, conditions)

    def at_once(self, number: int) -> int:
        """How many of the images to read together: ``number``, or fewer where they are large."""
        if min(number, len(self.images)) <= FEW:
            return number
        return images_at_once(number, self.images[slice(0, 1)])

    def blocks(self, autoencoder: Autoencoder | ConditionalAutoencoder, block_size: int) -> Iterator[Block]:
        """Every image once, at most ``block_size`` at a time, and fewer of large ones; all of one condition.

        Without conditions the blocks are consecutive. An empty group has one block without images, so that what is
        measured of it has columns too.

        Args:
            autoencoder: f; with conditions, what gives one for each.
            block_size: Images at once.
        """
        block_size = self.at_once(block_size)
        if self.conditions is None or not len(self.indices):
            unconditional = cast(Autoencoder, autoencoder)
            for begin in range(0, max(1, len(self.images)), block_size):
                rows = range(begin, min(begin + block_size, len(self.images)))
                yield Block(rows, self.images[slice(rows.start, rows.stop)], unconditional)
            return
        together: dict[Hashable, list[int]] = {}
        for row, condition in enumerate(self.conditions):
            together.setdefault(condition, []).append(row)
        for condition, same in together.items():
            given = cast(ConditionalAutoencoder, autoencoder).given(condition)
            for begin in range(0, len(same), block_size):
                chosen = same[begin : begin + block_size]
                yield Block(chosen, self._gather(chosen), given)

    def _gather(self, rows: Sequence[int]) -> Tensor:
        """Images of any rows, in increasing order: as many at once as are consecutive."""
        begins = [i for i, row in enumerate(rows) if not i or row != rows[i - 1] + 1]
        ends = [*begins[1:], len(rows)]
        runs = [slice(rows[begin], rows[end - 1] + 1) for begin, end in zip(begins, ends, strict=True)]
        return torch.cat([self.images[run] for run in runs])

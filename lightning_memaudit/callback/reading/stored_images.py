"""The images of a group, read once and kept until the run is over."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_memaudit.measurement.groups import Group

CACHE_BYTES = 2**30
"""A group up to this size is kept in memory; a larger one in a file that is removed at the end."""


class StoredImages:
    """Images (n, C, *spatial) in [0, 1] that are sliced like a tensor; many of them lie in a file.

    Args:
        shape: (C, *spatial).
        count: Most images that will be added.
        device: Where slices go.

    >>> images = StoredImages((1, 2, 2), count=3)
    >>> images.add(torch.ones(3, 1, 2, 2))
    >>> len(images), images[0:2].shape, len(images.part(slice(0, None, 2)))
    (3, torch.Size([2, 1, 2, 2]), 2)
    """

    def __init__(self, shape: Sequence[int], count: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._size = 0
        values = count * torch.Size(shape).numel()
        if 4 * values <= CACHE_BYTES:
            self._kept = torch.empty(count, *shape, dtype=torch.float32, device=self.device)
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="memaudit-")
            name = str(Path(self._folder.name) / "images")
            self._kept = torch.from_file(name, shared=True, size=values, dtype=torch.float32).view(count, *shape)

    def add(self, images: Tensor) -> None:
        """Append images (k, C, *spatial)."""
        self._kept[self._size : self._size + len(images)] = images
        self._size += len(images)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, rows: slice) -> Tensor:
        return self._kept[: self._size][rows].to(self.device)

    def part(self, rows: slice) -> "StoredImages":
        """The images of a slice, on the same storage."""
        part = object.__new__(StoredImages)
        part.__dict__.update(self.__dict__)
        part._kept = self._kept[: self._size][rows]
        part._size = len(part._kept)
        return part


def part_of(group: Group, rank: int, num_shares: int) -> Group:
    """What one of several processes audits: every ``num_shares``-th image, nothing twice, nothing padded.

    Args:
        group: The whole group.
        rank: Of the process, counted from 0.
        num_shares: Into how many parts the group is divided.
    """
    rows = slice(rank, None, num_shares)
    images = group.images.part(rows) if isinstance(group.images, StoredImages) else group.images[rows]
    return Group(
        group.name,
        images,
        group.indices[rows],
        group.positions[rows],
        None if group.names is None else group.names[rows],
        None if group.conditions is None else group.conditions[rows],
    )

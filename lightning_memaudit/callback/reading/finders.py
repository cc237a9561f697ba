"""Where the images of a batch stand if no key leads to them: among views, in a list, or within each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_memaudit.callback.keys import select
from lightning_memaudit.callback.reading.items import as_tensor, tensors_in


@dataclass(frozen=True)
class View:
    """Finds one of several views or frames of each item in a batch.

    Attributes:
        path: Where all of them stand, (B, views, ...).
        place: Which one.

    >>> View((0,), 1)([torch.zeros(4, 3, 1, 8, 8)]).shape
    torch.Size([4, 1, 8, 8])
    """

    path: Any
    place: int

    def __call__(self, batch: Any) -> Tensor:
        """(B, ...), the view of each item."""
        views = as_tensor(select(batch, self.path, "image_key"))
        if views is None or views.ndim < 2 or views.shape[1] <= self.place:
            raise ValueError(f"image_key: the batch holds no view {self.place} at {list(self.path)}")
        return views[:, self.place]


@dataclass(frozen=True)
class Each:
    """Finds what a function of an item returns in every row of a batch.

    Attributes:
        key: The function.

    >>> Each(lambda item: item["bands"][[2, 1, 0]])({"bands": torch.zeros(4, 13, 8, 8)}).shape
    torch.Size([4, 3, 8, 8])
    """

    key: Any

    def __call__(self, batch: Any) -> Tensor:
        """(B, ...), the image of each item."""
        count = next((len(tensor) for _, tensor in tensors_in(batch) if tensor.ndim), 0)
        items = (tree_map(partial(_row, row, count), batch) for row in range(count))
        return _stacked([as_tensor(select(item, self.key, "image_key")) for item in items], "holds")


def _row(row: int, count: int, part: Any) -> Any:
    return part[row] if isinstance(part, Tensor) and part.ndim and len(part) == count else part


@dataclass(frozen=True)
class Listed:
    """Finds the images of a batch that holds them one by one, as of a ``collate_fn`` that only lists its items.

    Attributes:
        path: Where the list stands.
        within: Where the image stands in each of its elements.

    >>> Listed((0,), ("image",))(([{"image": torch.zeros(1, 8, 8)}] * 4, "labels")).shape
    torch.Size([4, 1, 8, 8])
    """

    path: tuple[Any, ...]
    within: tuple[Any, ...]

    def __call__(self, batch: Any) -> Tensor:
        """(B, ...), all of them."""
        items = select(batch, list(self.path), "image_key")
        return _stacked([as_tensor(select(item, list(self.within), "image_key")) for item in items], "lists")


def _stacked(images: Sequence[Tensor | None], verb: str) -> Tensor:
    """Images (...) of all items as (B, ...); what the batch does with them is said where they are none of one size."""
    found = [one for one in images if one is not None]
    if len(found) < len(images) or len({one.shape for one in found}) != 1:
        raise ValueError(f"image_key: the batch {verb} no images of one size")
    return torch.stack(found)

"""Batches of models that need more than the image, such as its label: taken apart image by image, and put together."""

import copy
import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields, is_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.callback.keys import select

Path = Sequence[int | str]
"""Indices, keys and attributes that lead to a part of a batch, outermost first."""

DEEPEST = 16
"""Parts of a batch that lie deeper are kept as they are: an object may contain itself."""


class _Place(Enum):
    """Stands in a condition where the images go: at the path, and wherever the batch holds the same image again."""

    IMAGE = "image"
    COPY = "copy"


class _Plain:
    """An object that is nothing but its attributes."""


@dataclass(frozen=True)
class _PerImage:
    """One image's part (1, ...) of a tensor or array with a row for each image."""

    value: Any


@dataclass(frozen=True)
class _Row:
    """One image's element of a list or tuple with an element for each image, such as names."""

    kind: type
    element: Any


@dataclass(frozen=True, eq=False)
class Condition:
    """What a batch says of one image, but for the image itself: images of the same label have equal conditions.

    Equality and hash go by content. What a batch holds a second time, the same image as input and as target, is part of
    the image, not of the condition. So are names and indices part of the condition: images that have their own, each
    have a condition of their own.

    Args:
        batch: Tuples, mappings, named tuples, dataclasses, other objects and lists, nested in each other; of one image,
            or of several of which ``row`` is meant. Tensors, arrays and lists as long as the batch have a row for each
            image, unless a list holds such tensors itself; all else is the same for all.
        path: Leads to the images (B, ...) in the batch; none at all where the batch is the images.
        row: Which image of the batch.

    Raises:
        ValueError: The path leads to no tensor, or its tensor cannot be replaced.

    >>> cat = Condition({"image": torch.rand(1, 1, 8, 8), "label": torch.tensor([3])}, ["image"])
    >>> other = Condition({"image": torch.rand(1, 1, 8, 8), "label": torch.tensor([3])}, ["image"])
    >>> cat == other, len({cat, other})
    (True, 1)
    >>> batch = cat.batch_with(torch.zeros(5, 1, 8, 8))
    >>> batch["image"].shape, batch["label"]
    (torch.Size([5, 1, 8, 8]), tensor([3, 3, 3, 3, 3]))
    """

    batch: Any
    path: Path = ()
    row: InitVar[int] = 0
    _digest: bytes = field(init=False, repr=False)

    def __post_init__(self, row: int) -> None:
        images = _images(self.batch, self.path)
        template = _Split(images, row).take(self.batch, tuple(self.path))
        if not any(leaf is _Place.IMAGE for leaf in _leaves(template)):
            raise ValueError(
                f"image_key={list(self.path)}: the image cannot be replaced within the batch, a "
                f"{type(self.batch).__name__}: let collate_fn make tuples, mappings or dataclasses"
            )
        object.__setattr__(self, "batch", template)
        digest = hashlib.sha256()
        for piece in _content(template):
            digest.update(len(piece).to_bytes(8, "little") + piece)
        object.__setattr__(self, "_digest", digest.digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def batch_with(self, images: Tensor) -> Any:
        """The batch with these images, all of this condition; what the model does to it changes nothing here.

        Args:
            images: (B, ...), as the model gets them.
        """
        return _together(self.batch, images)


def conditions_of(batch: Any, path: Path = ()) -> list[Condition]:
    """The conditions of all images of a batch, in order.

    Args:
        batch: As the model gets it, see :class:`Condition`.
        path: Leads to the images (B, ...) in it.

    Raises:
        ValueError: The path leads to no tensor, or its tensor cannot be replaced.

    >>> conditions = conditions_of((torch.rand(3, 1, 8, 8), torch.tensor([3, 5, 3])), [0])
    >>> conditions[0] == conditions[2], conditions[0] == conditions[1]
    (True, False)
    """
    return [Condition(batch, path, row) for row in range(len(_images(batch, path)))]


def _images(batch: Any, path: Path) -> Tensor:
    images = select(batch, list(path), "image_key")
    if not isinstance(images, Tensor) or not images.ndim:
        raise ValueError(
            f"image_key={list(path)}: the batch has a {type(images).__name__} there, not a tensor of images"
        )
    return images


class _Split:
    """Takes one image's part of a batch.

    Args:
        images: The batch's images.
        row: Which one.
    """

    def __init__(self, images: Tensor, row: int) -> None:
        self.images, self.row, self.size = images, row, len(images)

    def take(self, node: Any, path: Path | None, depth: int = DEEPEST) -> Any:
        """The part's template; ``path`` leads to the images from here, None where they are elsewhere."""
        if path is not None and not path and node is self.images:
            return _Place.IMAGE
        if isinstance(node, Tensor | np.ndarray):
            if self._is_image(node):
                return _Place.COPY
            return _PerImage(_copied(node[self.row : self.row + 1])) if self._has_rows(node) else _copied(node)
        if path is None and _is_list(node) and len(node) == self.size and not self._holds_rows(node, depth):
            return _Row(type(node), self.take(node[self.row], None, depth - 1))
        children = _children(node, depth)
        on_path = _index(children, path[0]) if path else None
        parts = [
            self.take(child, path[1:] if path and number == on_path else None, depth - 1)
            for number, (_, child) in enumerate(children)
        ]
        return _rebuilt(node, [label for label, _ in children], parts)

    def _has_rows(self, array: Any) -> bool:
        return array.ndim > 0 and len(array) == self.size

    def _holds_rows(self, node: Any, depth: int) -> bool:
        """Whether tensors within it have a row for each image: then a list is of such columns."""
        if isinstance(node, Tensor | np.ndarray):
            return self._has_rows(node)
        return any(self._holds_rows(child, depth - 1) for _, child in _children(node, depth))

    def _is_image(self, array: Any) -> bool:
        """Whether it holds the same image again. A black image, though, may well be an empty mask."""
        if array is self.images:
            return True
        if not isinstance(array, Tensor) or array.shape != self.images.shape or array.dtype != self.images.dtype:
            return False
        mine, other = self.images[self.row], array[self.row]
        return mine.device == other.device and torch.equal(mine, other) and bool((mine != mine.flatten()[0]).any())


def _together(node: Any, images: Tensor, depth: int = DEEPEST) -> Any:
    """A batch from a template; all tensors in it are its own."""
    count = len(images)
    if node is _Place.IMAGE:
        return images
    if node is _Place.COPY:
        return images.clone()
    if isinstance(node, _PerImage):
        if isinstance(node.value, Tensor):
            return node.value.expand(count, *node.value.shape[1:]).clone()
        return np.repeat(node.value, count, axis=0)
    if isinstance(node, _Row):
        return node.kind(_together(node.element, images, depth - 1) for _ in range(count))
    if isinstance(node, Tensor | np.ndarray):
        return _copied(node)
    children = _children(node, depth)
    parts = [_together(child, images, depth - 1) for _, child in children]
    return _rebuilt(node, [label for label, _ in children], parts)


def _content(node: Any, depth: int = DEEPEST) -> Iterator[bytes]:
    """Everything in a template that is not the image, as bytes that differ where the content does."""
    yield f"{type(node).__module__}.{type(node).__qualname__}".encode()
    if isinstance(node, _Place):
        yield b"image"
    elif isinstance(node, _PerImage):
        yield from _content(node.value)
    elif isinstance(node, _Row):
        yield node.kind.__qualname__.encode()
        yield from _content(node.element, depth - 1)
    elif isinstance(node, Tensor | np.ndarray):
        yield f"{node.dtype} {tuple(node.shape)}".encode()
        yield _bytes(node)
    elif children := _children(node, depth):
        yield str(len(children)).encode()
        for label, child in children:
            yield repr(label).encode()
            yield from _content(child, depth - 1)
    else:
        yield _opaque(node)


def _bytes(array: Any) -> bytes:
    try:
        if isinstance(array, Tensor):
            array = array.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _opaque(array) if array.dtype.hasobject else bytes(array.tobytes())
    except (NotImplementedError, RuntimeError, TypeError):  # sparse, and whatever else has no bytes
        return _opaque(array)


def _opaque(value: Any) -> bytes:
    """Equal bytes mean equal content; where nothing can be said, only the very same object has them."""
    try:
        return pickle.dumps(value)
    except Exception:
        return f"object {id(value)}".encode()


def _leaves(node: Any, depth: int = DEEPEST) -> Iterator[Any]:
    children = _children(node, depth)
    if not children:
        yield node
    for _, child in children:
        yield from _leaves(child, depth - 1)


def _children(node: Any, depth: int) -> list[tuple[Any, Any]]:
    """Labels and values of the parts of a mapping, list, tuple or object; none of anything else, or too deep."""
    if depth <= 0 or isinstance(node, str | bytes | Tensor | np.ndarray | Enum | type | _PerImage | _Row):
        return []
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    attributes = getattr(node, "__dict__", {})
    if is_dataclass(node):
        return list(({one.name: getattr(node, one.name) for one in fields(node)} | attributes).items())
    # Others, such as a subclass of int, hold more than their attributes tell.
    sizes = type(node).__basicsize__, type(node).__itemsize__
    plain = sizes == (_Plain.__basicsize__, 0) or type(node) is SimpleNamespace
    return list(attributes.items()) if plain and not callable(node) else []


def _index(children: Sequence[tuple[Any, Any]], step: int | str) -> int | None:
    """Which child a step of a path leads to, by label or by position."""
    labels = [label for label, _ in children]
    if step in labels:
        return labels.index(step)
    return step % len(labels) if isinstance(step, int) and labels else None


def _rebuilt(node: Any, labels: Sequence[Any], parts: Sequence[Any]) -> Any:
    """A container like ``node`` with other parts; ``node`` stays as it is. What has no parts is no container."""
    if not labels:
        return copy.copy(node) if isinstance(node, list | dict | set) else node
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*parts)
    if isinstance(node, list | tuple):
        return type(node)(parts)
    if not isinstance(node, Mapping):
        result = copy.copy(node)
        for label, part in zip(labels, parts, strict=True):
            object.__setattr__(result, label, part)
        return result
    try:
        mapping: Any = copy.copy(node)
        for label, part in zip(labels, parts, strict=True):
            mapping[label] = part
        return mapping
    except TypeError:  # one that cannot be written to
        return dict(zip(labels, parts, strict=True))


def _is_list(node: Any) -> bool:
    return isinstance(node, list | tuple) and not hasattr(node, "_fields")


def _copied(array: Any) -> Any:
    return array.detach().clone() if isinstance(array, Tensor) else array.copy()

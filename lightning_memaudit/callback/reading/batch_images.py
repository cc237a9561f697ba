"""From a batch as the model gets it to images in [0, 1], and how the two are related."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_memaudit.callback.keys import Key, key_path, select
from lightning_memaudit.callback.reading.affine import Affine, fit_exact
from lightning_memaudit.callback.reading.finders import Each, Listed, View
from lightning_memaudit.callback.reading.items import as_tensor, find_in_item, plain, tensors_in
from lightning_memaudit.callback.reading.layout import Layout, NetworkInput, alike, decide_layout
from lightning_memaudit.callback.reading.reader import ReadItem
from lightning_memaudit.callback.seen import Normalization

MOST_VIEWS = 64
"""Of an item, among which the one is looked for that a function of the item returns."""

LEARN_FROM = 128
"""Images from which the way of reading is learned; the others are checked against it."""

LEARN_FROM_VALUES = 2**25
"""Of large images as many as hold so many values: all of them wait in memory."""

MOST_LABELS = 16
"""Bytes that go no further are masks, label maps or digits in 16 steps: photographs use more of their 256 values."""


@dataclass(frozen=True)
class BatchFormat:
    """How the images of a group stand in its batches.

    Attributes:
        path: Where in the batch, outermost key first; a function of the batch; None where no batch holds them, and the
            items are read themselves.
        layout: How one image stands there.
        dtype: Of the images in the batch.
        normalization: Undone, so that images are in [0, 1].
        inferred: Whether the normalization was found by comparing batches with items.
        beside: Where in the batch other images of the same shape stand, as targets do.

    >>> BatchFormat((0,), Layout((1, 2, 2))).images([torch.ones(3, 1, 2, 2), "labels"]).shape
    torch.Size([3, 1, 2, 2])
    """

    path: Any
    layout: Layout
    dtype: torch.dtype = torch.float32
    normalization: Normalization = field(default_factory=Normalization)
    inferred: bool = False
    beside: tuple[Any, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial) of one image."""
        return self.layout.shape

    @property
    def place(self) -> tuple[Any, ...]:
        """The path, also of images that are listed; empty where a function of the user's finds them."""
        path = self.path.path if isinstance(self.path, Listed | View) else self.path
        return () if path is None or callable(path) else tuple(path)

    def find(self, batch: Any) -> Tensor:
        """The tensor of images in a batch, as it stands there.

        Raises:
            ValueError: The batch is another one.
        """
        is_finder = isinstance(self.path, View | Each | Listed)
        value = self.path(batch) if is_finder else select(batch, self.path, "image_key")
        tensor = as_tensor(value)
        if tensor is None:
            raise ValueError(f"image_key: the batch holds a {type(value).__name__} where images should be")
        return tensor

    def images(self, batch: Any) -> Tensor:
        """The images (B, C, *spatial) of a batch, in [0, 1] as float32."""
        return self.undo(self.find(batch))

    def undo(self, found: Tensor) -> Tensor:
        """From the tensor in a batch to images (B, C, *spatial) in [0, 1].

        Raises:
            ValueError: The images have another shape than the first ones.
        """
        images = self.layout.arrange(found)
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"shape {tuple(images.shape[1:])} where the first images have {self.shape}")
        return self.in_unit_range(to_float(images))

    def in_unit_range(self, images: Tensor) -> Tensor:
        """From floating-point images (B, C, *spatial) as they stand in a batch to images in [0, 1]."""
        return images if self.normalization.is_identity else self.normalization.undo(images)


def to_float(images: Tensor) -> Tensor:
    """Bytes and booleans in [0, 1]; floating-point numbers, and integers of unknown range, as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def locate(batch: Any, key: Key | None, items: Sequence[ReadItem]) -> Any:
    """The path to the images in a batch, or the function that finds them; None where no batch holds them.

    Looks where the key says, for one in an item holds for the batch as a rule; then for the one tensor that holds the
    items' images, as they are or after an affine map.
    """
    named = _named(batch, key, items)
    if named is not None and (key is None or not items or _holds_at(named, batch, items)):
        return named
    if named is None:
        for path, tensor in tensors_in(batch):
            if _holds(tensor, items):
                return path
        if (one_by_one := _listed(batch, items)) is not None:
            return one_by_one
    # Of a batch of as many items as each has views, the key of one of them finds all of one item.
    view = None if key is None or not items else _view(batch, key, items, named)
    return view or named


def _named(batch: Any, key: Key | None, items: Sequence[ReadItem]) -> Any:
    """Where the key of an item leads in a batch, as it does for most."""
    if callable(key):
        with suppress(Exception):
            if _is_images(as_tensor(key(batch)), items):
                return _as_path(batch, key(batch)) or key
    elif key is not None:
        with suppress(ValueError):
            if _is_images(as_tensor(select(batch, key, "image_key")), items):
                return tuple(key_path(key))
    else:
        path = (0,) if isinstance(batch, tuple | list) and batch else ()
        with suppress(ValueError):
            tensor = as_tensor(select(batch, path, "image_key"))
            # Of as many listed images as each has channels, the first looks like a batch.
            known = tensor is not None and (_holds(tensor, items) or _listed(batch, items) is None)
            if known and _is_images(tensor, items):
                return path
    return None


def _holds_at(path: Any, batch: Any, items: Sequence[ReadItem]) -> bool:
    return _holds(BatchFormat(path, Layout(())).find(batch), items)


def _view(batch: Any, key: Key, items: Sequence[ReadItem], named: Any) -> View | Each | None:
    """What finds the part of each item, such as one of its views, that the key finds in an item.

    ``named`` is where the key leads in the batch, None where nowhere. What has the shape that stands there holds no
    views: gray images may be repeated in three channels.
    """
    found = None if named is None else BatchFormat(named, Layout(())).find(batch).shape
    least = 1 if named is None else 2
    for path, tensor in tensors_in(batch):
        may_hold = tensor.ndim > 2 and tensor.shape[1] >= least and tensor.shape != found
        views = range(min(MOST_VIEWS, tensor.shape[1]) if may_hold else 0)
        place = next((view for view in views if _holds(tensor[:, view], items)), None)
        if place is not None:
            return View(path, place)
    with suppress(Exception):  # a function of somebody's own
        if callable(key) and _holds(Each(key)(batch), items):
            return Each(key)
    return None


def _is_images(tensor: Tensor | None, items: Sequence[ReadItem]) -> bool:
    if tensor is None or tensor.ndim < 2 or not tensor.numel():
        return False
    if items and len(tensor) != len(items):
        return False
    shapes = {item.image.numel() for item in items if item.image is not None}
    # One number per item is a label, unless the image is one number.
    return tensor[0].numel() > 1 or shapes == {1}


def _as_path(batch: Any, value: Any) -> tuple[Any, ...] | None:
    return next((path for path, tensor in tensors_in(batch) if tensor is value), None)


def _listed(batch: Any, items: Sequence[ReadItem]) -> Listed | None:
    """Where the images of its items stand one by one in a batch."""
    parts = enumerate(batch) if isinstance(batch, tuple | list) else batch.items() if isinstance(batch, Mapping) else ()
    for path, part in [((), batch), *(((key,), part) for key, part in parts)]:
        if not isinstance(part, tuple | list) or not part or len(part) != len(items):
            continue
        for within, _ in tensors_in(part[0]):
            with suppress(ValueError):
                if _holds(Listed(path, within)(batch), items):
                    return Listed(path, within)
    return None


def _holds(tensor: Tensor, items: Sequence[ReadItem]) -> bool:
    """Whether a tensor of a batch is an affine map of the images that its items hold."""
    before = item_images(items)
    if before is None or not tensor.ndim or len(tensor) != len(before) or tensor.numel() != before.numel():
        return False
    found = alike(plain(tensor), before.shape[1:])
    if found is None:
        return False
    before = before.to(found.device)
    if bool((before == found).all()):
        return True
    # The first axis may be one of channels, or rows.
    together = fit_exact(before[:, None].float(), found[:, None])
    return together is not None or (before.ndim > 2 and fit_exact(before.float(), found) is not None)


def item_images(items: Sequence[ReadItem]) -> Tensor | None:
    """The items' own images as one tensor; None unless all have one of the same shape."""
    images = [item.image for item in items if item.image is not None]
    if not images or len(images) < len(items) or len({image.shape for image in images}) > 1:
        return None
    return torch.stack(images)


def learn_format(
    batches: Sequence[Any],
    items: Sequence[Sequence[ReadItem]],
    group: str,
    key: Key | None,
    image_shape: Sequence[int] | None,
    normalization: Normalization,
    network: NetworkInput | None = None,
) -> BatchFormat:
    """How images stand in batches, from a few of them and the items that they were made of.

    A normalization that is given holds. Without one: where the batch is an exact affine map, per channel, of images in
    [0, 1] that the items hold, as after a normalization on the device, the map is undone; else images are in [0, 1].

    Raises:
        ValueError: There are no images, what their axes are is not known, or their range is not.
    """
    path = locate(batches[0], key, items[0])
    read = [item for part in items for item in part]
    own = item_images(read)
    if path is None:
        problem = next((item.problem for item in read if item.problem), None)
        if own is None:
            if not read:
                find_in_item(batches[0], key)
            raise problem or ValueError(_ragged(group, read) or f"{group}: no images found in its batches")
        found = own
    else:
        found = _together([BatchFormat(path, Layout(())).find(batch) for batch in batches], group)
    beside = () if key is not None or path is None else _beside(batches[0], path)
    layout = decide_layout(found.shape[1:], image_shape, network)
    images = layout.arrange(found)
    if images.is_complex():
        raise ValueError(
            f"{group}: images are {images.dtype}: pass image_key=<a function of the item that returns real numbers>, "
            "such as absolute values, where the model is given these"
        )
    counts = not images.is_floating_point() and images.dtype not in (torch.uint8, torch.bool)
    if (counts or _are_labels(images)) and normalization.is_identity:
        raise ValueError(
            f"{group}: images are {images.dtype} with values up to {int(images.max())}, of unknown range: pass "
            "std=[<1 / the largest possible value>] or data_range=[<lowest>, <highest possible value>], or convert "
            "them to floating-point numbers in [0, 1]"
        )
    inferred = None if path is None or own is None else _inferred(own, images)
    if inferred is not None and not inferred.is_identity:
        mean, std = inferred.mean_and_std
        given = Affine.of_normalization(normalization)
        if not normalization.is_identity and not inferred.close_to(given):
            raise ValueError(
                f"{group}: mean and std say {given.words('image')}, but the run gives the model "
                f"{inferred.words('image')}: leave them out, for what happens after reading is undone anyway"
            )
        if all(one > 0 for one in std):
            return BatchFormat(path, layout, found.dtype, Normalization(mean, std), True, beside)
    if not normalization.is_identity and images.dtype == torch.uint8:
        # The given numbers are of the values as they stand, 0 to 255.
        std = [255 * one for one in normalization.std or [1.0]]
        normalization = replace(normalization, std=std)
    return BatchFormat(path, layout, found.dtype, normalization, beside=beside)


def _together(tensors: Sequence[Tensor], group: str) -> Tensor:
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise ValueError(
            f"{group}: its batches hold images of shapes {shapes[0]} and {other}: images must be of one size; pass "
            f"{group}=<a data set> whose images are"
        )
    return torch.cat(list(tensors))


def _beside(batch: Any, path: Any) -> tuple[Any, ...]:
    """Where else in a batch there are images of the same shape, though not the same."""
    found = BatchFormat(path, Layout(())).find(batch)
    tensors = [(other, plain(tensor)) for other, tensor in tensors_in(batch) if other != path]
    return tuple(
        other
        for other, tensor in tensors
        if found.ndim > 2 and tensor.shape == found.shape and fit_exact(found.float(), tensor.to(found).float()) is None
    )


def _inferred(own: Tensor, images: Tensor) -> Affine | None:
    """The affine map from images in [0, 1] in the items to those in the batches."""
    found = alike(own, images.shape[1:])
    if found is None or _are_labels(found):
        return None
    before = to_float(found)
    if before.shape != images.shape or float(before.min()) < -1e-4 or float(before.max()) > 1 + 1e-4:
        return None
    after = to_float(images) if images.dtype == torch.uint8 else images
    return fit_exact(before.to(images.device), after)


def are_enough(count: int, images: Sequence[Tensor]) -> bool:
    """Whether the way of reading can be learned from so many images; more are waited for where all are dark bytes.

    Args:
        count: How many, also of batches of which no items are known.
        images: Those of items.

    >>> dark, bright = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.full((1, 8, 8), 200, dtype=torch.uint8)
    >>> are_enough(128, [dark] * 128), are_enough(129, [dark] * 128 + [bright]), are_enough(3, [bright] * 3)
    (False, True, False)
    """
    if sum(image.numel() for image in images) >= LEARN_FROM_VALUES:
        return True
    return count >= LEARN_FROM and not (images and all(map(_may_be_labels, images)))


def _may_be_labels(images: Tensor) -> bool:
    return images.dtype == torch.uint8 and images.numel() > 0 and int(images.max()) <= MOST_LABELS


def _are_labels(images: Tensor) -> bool:
    """Whether bytes are numbers of classes, such as 0 and 1, rather than 255ths."""
    return _may_be_labels(images) and bool(images.any())


def _ragged(group: str, items: Sequence[ReadItem]) -> str | None:
    shapes = [tuple(item.image.shape) for item in items if item.image is not None]
    other = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is None:
        return None
    return (
        f"items 0 and {other} of the data set have shapes {shapes[0]} and {shapes[other]}: images must be of one size; "
        "pass members or controls that are"
    )

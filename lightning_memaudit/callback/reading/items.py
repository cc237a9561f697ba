"""The image in an item of a data set or in a batch of a run: whatever form others give it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.callback.keys import key_path, select

CHANNELS = (1, 3, 4)
"""Numbers of channels that tell (H, W, C) from (C, H, W), and volumes likewise."""


def find_in_item(item: Any, key: Any) -> Tensor:
    """The image (C, *spatial), without channels, or flat, of any type, within a data set's item.

    Without a key: the item itself when it is a tensor, an array or a PIL image, else the first element of a tuple or
    list.

    Args:
        item: As the data set gives it.
        key: Index, key or attribute, several of them, outermost first, or a function of the item.

    Raises:
        ValueError: No image is found there.

    >>> find_in_item({"pixels": np.zeros((8, 8, 3), np.uint8)}, "pixels").shape
    torch.Size([3, 8, 8])
    """
    if key is None and isinstance(item, (tuple, list)) and item:
        key = 0
    value = select(item, key, "image_key") if key is not None else item
    image = as_tensor(value)
    if image is None:
        raise _no_image(value, key)
    return channels_first(image)


class NoImageFound(ValueError):
    """There is no image where the key leads.

    Attributes:
        likely: The one key that leads to something like an image; None where there are several or none, or where its
            name is that of a label.

    >>> try:
    ...     find_in_item({"pixels": torch.zeros(1, 8, 8), "label": 3}, None)
    ... except NoImageFound as error:
    ...     print(error.likely)
    pixels
    """

    def __init__(self, message: str, likely: Any = None) -> None:
        super().__init__(message, likely)
        self.likely = likely

    def __str__(self) -> str:
        return str(self.args[0])


def _no_image(value: Any, key: Any) -> NoImageFound:
    kind, is_mapping = type(value).__name__, isinstance(value, Mapping)
    parts = [((name,), part) for name, part in _parts(value)]
    images = [one for one in parts if _looks_like_image(one[1])]
    # Deeper within only where there is none at once, as in {"inputs": {"image": ...}}.
    images = images or [one for one in tensors_in(value if parts else None) if _looks_like_image(one[1])]
    outer = key_path(key)
    images = sorted(images, key=_as_image)
    likely = [_as_key((*outer, *path)) for path, _ in images]
    if any(callable(step) for step in outer):
        likely = []
    such = f", such as {likely[0]!r}" if likely else ""
    mend = (
        "index or key of the image" if is_mapping else "index, key or attribute of the image, or a function of the item"
    )
    keys = f" with keys {list(value)}" if is_mapping else ""
    return NoImageFound(
        f"the data set gives a {kind}{keys} where an image tensor should be: pass image_key=<{mend}>{such}",
        likely[0] if len(likely) == 1 and not is_called_label(images[0][0]) else None,
    )


def _as_key(path: Sequence[Any]) -> Any:
    return path[0] if len(path) == 1 else list(path)


def _looks_like_image(part: Any) -> bool:
    image = as_tensor(part)
    return image is not None and image.ndim in (2, 3, 4) and image.numel() > 1


_LABELS = ("label", "mask", "seg", "target")
"""Parts of the names of what is no image, though it may look like one, as a map of what is where."""


def is_called_label(path: Sequence[Any]) -> bool:
    """Whether a key on the way is the name of a label.

    >>> is_called_label(["outputs", "mask_logits"]), is_called_label(["outputs", 0])
    (True, False)
    """
    return any(isinstance(key, str) and word in key.lower() for key in path for word in _LABELS)


def _as_image(placed: tuple[Sequence[Any], Any]) -> tuple[bool, bool]:
    """To sort by: what is called a label comes last, and whole numbers come after floating-point ones."""
    path, part = placed
    image = as_tensor(part)
    return is_called_label(path), image is None or not image.is_floating_point()


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, an array or a PIL image as a plain tensor; None for anything else.

    >>> as_tensor(np.zeros((2, 3), ">f4")).dtype, as_tensor("text")
    (torch.float32, None)
    """
    if isinstance(value, Tensor):
        return plain(value.detach())
    if hasattr(value, "getbands"):  # a PIL image
        if value.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L"):
            value = value.convert("RGB")
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        native = value.astype(value.dtype.newbyteorder("="), copy=True)
        if native.dtype.kind == "u" and native.dtype.itemsize > 1:
            native = native.astype(np.int64)  # torch can do little with unsigned integers
        return torch.from_numpy(native)
    return None


_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_WIDER |= {one: torch.float32 for name, one in vars(torch).items() if name.startswith("float8_")}
"""For types that torch can do little with: those that hold the same values."""


def plain(tensor: Tensor) -> Tensor:
    """Without what subclasses such as MONAI's MetaTensor add, dense, of a type that torch can calculate with.

    >>> plain(torch.eye(2).to_sparse()).layout
    torch.strided
    >>> plain(torch.tensor([65535], dtype=torch.uint16))
    tensor([65535], dtype=torch.int32)
    """
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.as_subclass(Tensor).to(_WIDER.get(tensor.dtype, tensor.dtype))


def channels_first(image: Tensor) -> Tensor:
    """(H, W, C) as (C, H, W), (D, H, W, C) as (C, D, H, W); anything else as it is."""
    return image.movedim(-1, 0) if is_channels_last(image.shape) else image


def is_channels_last(shape: Sequence[int]) -> bool:
    """Whether these are (H, W, C) or (D, H, W, C): one, three or four channels at the end and none in front.

    >>> is_channels_last((32, 32, 3)), is_channels_last((3, 32, 32)), is_channels_last((8, 4, 4))
    (True, False, False)
    """
    if len(shape) not in (3, 4) or shape[-1] not in CHANNELS or shape[0] in CHANNELS:
        return False
    return shape[-2] > shape[-1]  # as many rows as columns at the end are a small picture of many channels


def tensors_in(batch: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Every tensor or array in a batch with its path, outermost key first.

    >>> [path for path, _ in tensors_in({"image": torch.zeros(2, 1), "labels": [torch.zeros(2), "x"]})]
    [('image',), ('labels', 0)]
    """
    is_known = isinstance(batch, Tensor) and batch.layout is torch.strided and batch.dtype not in _WIDER
    tensor = batch if is_known else as_tensor(batch) if isinstance(batch, Tensor | np.ndarray) else None
    if tensor is not None:
        yield path, tensor
        return
    for key, part in _parts(batch):
        yield from tensors_in(part, (*path, key))


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((one.name, getattr(value, one.name)) for one in fields(value))
    elif hasattr(value, "__dict__") and not callable(value):
        yield from ((name, part) for name, part in vars(value).items() if not name.startswith("_"))

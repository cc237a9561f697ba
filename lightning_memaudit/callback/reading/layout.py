"""Which axes of a batch are channels, and which are space: known from the network and the shape, or refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any, NoReturn

from torch import Tensor, nn

from lightning_memaudit.callback.reading.items import is_channels_last

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
"""By the number of axes that they slide along."""

MOST_CHANNELS = 4
"""Where nothing else tells, a first axis of so many is taken for channels, and a longer one for none."""


@dataclass(frozen=True)
class NetworkInput:
    """What a network says of the images that it takes.

    Attributes:
        convolutions: Of each the number of axes that it slides along, and of channels that it takes; the first first.
        shape: (C, *spatial) of an image, of a network of this package, which names it.

    >>> network = NetworkInput.of(nn.Sequential(nn.Conv3d(1, 4, 3), nn.ConvTranspose3d(4, 1, 3)))
    >>> network.axes, network.channels(3), network.channels(2)
    (frozenset({3}), (1, 4), ())
    """

    convolutions: tuple[tuple[int, int], ...] = ()
    shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, module: nn.Module) -> "NetworkInput":
        """From the layers, and from ``image_shape`` of networks of this package: others order it as they like."""
        found: list[tuple[int, int]] = []
        shape = None
        for layer in module.modules():
            own = layer.__dict__.get("image_shape")
            if own is not None and type(layer).__module__.startswith("lightning_memaudit."):
                shape = shape or tuple(own)
            found += [(n, _in_channels(layer)) for n, kinds in CONVOLUTIONS.items() if isinstance(layer, kinds)]
        return cls(tuple(dict.fromkeys(found)), shape)

    @property
    def axes(self) -> frozenset[int]:
        """Numbers of spatial axes that convolutions slide along; empty where there is none."""
        return frozenset(axes for axes, _ in self.convolutions)

    def channels(self, axes: int) -> tuple[int, ...]:
        """That convolutions along so many axes take: a loss's network beside an autoencoder may have others."""
        return tuple(count for n, count in self.convolutions if n == axes and count)  # 0: a lazy one does not know yet

    def takes_second_axis(self, shape: Sequence[int], axes: int) -> bool:
        """Whether the channels are the second axis of an image rather than the first, as where frames come first."""
        first, second = shape[:2]
        own = self.channels(axes)
        if own[:1] == (second,) != (first,):
            # Layers behind the first one may have as many channels as there are frames.
            return first not in own or second <= MOST_CHANNELS
        return second <= MOST_CHANNELS < first and any(self.channels(n)[:1] == (second,) for n in self.axes)


def _in_channels(layer: Any) -> int:
    return int(layer.in_channels)


@dataclass(frozen=True)
class Layout:
    """How an image stands in a batch.

    Attributes:
        shape: (C, *spatial) of the image; spatial: length; height, width; or depth, height, width.
        channels_last: The batch holds (B, *spatial, C).
        flat: The batch holds the same values with axes joined, or without those of size 1: (B, N), (B, H, W).

    >>> Layout((3, 4, 5), channels_last=True).arrange(Tensor(2, 4, 5, 3)).shape
    torch.Size([2, 3, 4, 5])
    """

    shape: tuple[int, ...]
    channels_last: bool = False
    flat: bool = False

    def arrange(self, found: Tensor) -> Tensor:
        """The tensor of a batch as (B, C, *spatial), of the same type; another size stays another size."""
        if self.flat and found.shape[1:].numel() == prod(self.shape):
            return found.reshape(len(found), *self.shape)
        if self.flat and found.ndim == len(self.shape):  # an axis of channels is missing
            return found[:, None]
        return found.movedim(-1, 1) if self.channels_last else found


def decide_layout(
    shape: Sequence[int], image_shape: Sequence[int] | None = None, network: NetworkInput | None = None
) -> Layout:
    """The layout of images in a batch.

    Args:
        shape: Of one image as the batch holds it.
        image_shape: (C, *spatial) as the user says; None leaves it to the network and the shape.
        network: What the network takes.

    Raises:
        ValueError: ``image_shape`` does not fit, or what the axes are cannot be known without it.

    >>> decide_layout((1, 16, 16, 16)).shape, decide_layout((16, 16, 16), (1, 16, 16, 16)).shape
    ((1, 16, 16, 16), (1, 16, 16, 16))
    >>> decide_layout((12, 64))
    Traceback (most recent call last):
    ValueError: item 0 of the data set has shape (12, 64): (height, width) without channels, or (channels, length)? \
pass image_shape=(1, 12, 64) or image_shape=(12, 64)
    """
    shape, network = tuple(shape), network or NetworkInput()
    if image_shape is not None:
        return _as_given(shape, tuple(image_shape))
    if network.shape == shape:
        return Layout(shape)
    decide = {2: _of_two_axes, 3: _of_three_axes, 4: _of_four_axes}.get(len(shape))
    if decide is None:
        raise ValueError(
            f"{_item(shape)}: images are (C, H, W), volumes (C, D, H, W), signals (C, L); pass image_shape=(C, H, W) "
            "for flat ones, or image_key=<a function of the item that returns one image>"
        )
    return decide(shape, network)


def _as_given(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> Layout:
    moved = (*shape[-1:], *shape[:-1]) == image_shape
    if shape == image_shape:
        return Layout(image_shape)
    if prod(shape) != prod(image_shape):
        views = f"; {ONE_VIEW}" if len(shape) > len(image_shape) else ""
        raise ValueError(f"{_item(shape)}: image_shape={image_shape} does not fit{views}")
    if moved and len(shape) > 1:
        return Layout(image_shape, channels_last=True)
    if _in_same_order(shape, image_shape):
        return Layout(image_shape, flat=True)
    raise ValueError(
        f"{_item(shape)}: image_shape={image_shape} has its axes in another order; pass image_key=<a function of the "
        f"item that returns the image as {image_shape}>"
    )


def _in_same_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one shape is the other with neighbouring axes joined, or without axes of size 1.

    That keeps the order of the values; anything else would mix pixels up.
    """
    begins = [{1, *accumulate(shape, mul)} for shape in (one, other)]
    return prod(one) == prod(other) and (begins[0] <= begins[1] or begins[1] <= begins[0])


def _of_two_axes(shape: tuple[int, ...], network: NetworkInput) -> Layout:
    rows, columns = shape
    picture = Layout((1, rows, columns), flat=True)
    # A network of pictures may have small convolutions along channels, one of signals a loss that sees spectrograms.
    takes_signals = bool({*network.channels(1)[:1]} & {*shape})
    if 2 in network.axes and not takes_signals:
        return picture
    if network.axes == {1} or (rows == 1 and 2 not in network.axes):
        return _with_channels(shape, network.channels(1))
    if rows == columns and not network.axes:
        return picture
    _refuse(shape, "(height, width) without channels, or (channels, length)", (1, *shape), shape)


def _of_three_axes(shape: tuple[int, ...], network: NetworkInput) -> Layout:
    with_channels = _with_channels(shape, network.channels(2))
    frames_first = network.axes == {1} and network.takes_second_axis(shape, 1)
    # With convolutions along two and three axes, one of both may be that of a loss, slice by slice.
    of_pictures = 3 not in network.axes or network.channels(2)[:1] == with_channels.shape[:1]
    if 2 in network.axes and of_pictures:
        return with_channels
    if network.axes & {2, 3} == {3} and network.channels(3)[:1] in ((), (1,)):
        return Layout((1, *shape), flat=True)
    if 3 not in network.axes and with_channels.shape[0] <= MOST_CHANNELS and not frames_first:
        return with_channels
    moved = (shape[-1], *shape[:-1])
    _refuse(shape, "(depth, height, width) without channels, or channels first, or last", (1, *shape), shape, moved)


def _of_four_axes(shape: tuple[int, ...], network: NetworkInput) -> Layout:
    with_channels = _with_channels(shape, network.channels(3))
    channels, depth, *_, width = with_channels.shape
    takes_them = channels <= MOST_CHANNELS or channels in network.channels(3)
    if 3 in network.axes and takes_them and not network.takes_second_axis(shape, 3):
        return with_channels
    # An axis of as few entries as there are channels in pictures is no depth.
    views_last = with_channels.channels_last  # (views, H, W, C) as well as (D, H, W, C)
    if not network.axes and channels <= MOST_CHANNELS < min(depth, width) and not views_last:
        return with_channels
    moved = (shape[-1], *shape[:-1])
    _refuse(shape, "several views or frames of one image, or a volume with channels first, or last", shape, moved)


def _with_channels(shape: tuple[int, ...], taken: Sequence[int]) -> Layout:
    """Channels first, unless the shape or the channels that the network takes say last."""
    first, end = shape[0], shape[-1]
    last = is_channels_last(shape)
    if taken:
        says_first = taken[0] == first and end not in taken
        says_last = taken[0] == end and first not in taken and first > MOST_CHANNELS
        last = (last and not says_first) or says_last
    return Layout((shape[-1], *shape[:-1]), channels_last=True) if last else Layout(shape)


ONE_VIEW = "of several views in an item, pass image_key=<a function of the item that returns one>"


def _refuse(shape: tuple[int, ...], what: str, *mends: Iterable[int]) -> NoReturn:
    words = [f"image_shape={tuple(one)}" for one in dict.fromkeys(map(tuple, mends))]
    views = f"; {ONE_VIEW}" if len(shape) > 2 else ""
    raise ValueError(f"{_item(shape)}: {what}? pass {' or '.join(words)}{views}")


def _item(shape: tuple[int, ...]) -> str:
    return f"item 0 of the data set has shape {shape}"


def alike(own: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The items' own images (B, ...) in the layout of images (B, *shape); None where that cannot be known."""
    if tuple(own.shape[1:]) == tuple(shape):
        return own
    if own.ndim > 2 and tuple(own.movedim(-1, 1).shape[1:]) == tuple(shape):
        return own.movedim(-1, 1)
    return own.reshape(len(own), *shape) if _in_same_order(own.shape[1:], shape) else None

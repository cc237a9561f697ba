"""What an image looks like, which owes nothing to any autoencoder: whether members and controls are of one kind."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_memaudit.measurement.compression import jpeg_grid, jpeg_quality, not_measured
from lightning_memaudit.recovery.spatial import axes


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of all values of each image (B, C, *spatial): (B,)."""
    flat = images.flatten(1)
    return (flat - flat.mean(1, keepdim=True)).square().mean(1).sqrt()


def roughness(images: Tensor) -> Tensor:
    """Root mean square difference of neighbouring pixels along all axes, of images (B, C, *spatial): (B,)."""
    steps = [images.diff(dim=axis).square().flatten(1) for axis in reversed(axes(images))]
    return torch.cat(steps, 1).mean(1).sqrt()


def vertical_balance(images: Tensor) -> Tensor:
    """Mean of the lower half less that of the upper half, of images (B, C, *spatial): (B,).

    Along the first spatial axis. Mirrored upside down it changes its sign: faces, scans and skies have one.
    """
    if images.shape[2] < 2:
        return torch.zeros_like(images.flatten(1)[:, 0])
    return _balance(images, 2)


def direction(images: Tensor) -> Tensor:
    """How much more neighbours differ down an image than across it, of images (B, C, *spatial): (B,) in [-1, 1].

    Difference of the mean squared differences along the first and the last spatial axis, over their sum; 0 for flat
    images. Transposed, or turned by a right angle, it changes its sign.
    """
    if 1 in (images.shape[2], images.shape[-1]):
        return torch.zeros_like(images.flatten(1)[:, 0])
    down, across = (images.diff(dim=axis).square().flatten(1).mean(1) for axis in (2, -1))
    return (down - across) / (down + across + 1e-6)


def horizontal_balance(images: Tensor) -> Tensor:
    """Mean of the right half less that of the left half, of images (B, C, *spatial): (B,).

    Along the last spatial axis; NaN where that is the only one. Mirrored left to right it changes its sign: light from
    a side has one, and organs.
    """
    return not_measured(images) if images.ndim < 4 or images.shape[-1] < 2 else _balance(images, -1)


def horizontal_wave(images: Tensor, half_waves: int) -> Tensor:
    """Mean of images (B, C, *spatial) times a cosine of so many half waves along the last axis: (B,).

    With an odd number of them it changes its sign in an image that is mirrored left to right. Where images are aligned,
    as faces and scans are, even those that look symmetric have one, and it tells where they were cut off. NaN with one
    axis, and where a half wave has less than two pixels.
    """
    width = images.shape[-1]
    if images.ndim < 4 or width < 2 * half_waves:
        return not_measured(images)
    wave = torch.cos(math.pi * half_waves / width * (torch.arange(width, device=images.device).to(images) + 0.5))
    return (images * wave).flatten(1).mean(1)


def slant(images: Tensor) -> Tensor:
    """Whether edges rise or fall from left to right, of images (B, C, *spatial): (B,) in [-1, 1].

    Twice the mean product of the differences along the first and the last spatial axis, over the sum of their mean
    squares; 0 for flat images, NaN with one axis. Mirrored along one of them it changes its sign.
    """
    if images.ndim < 4 or 1 in (images.shape[2], images.shape[-1]):
        return not_measured(images)
    down, across = images.diff(dim=2), images.diff(dim=-1)
    down, across = down[..., 1:] + down[..., :-1], across[:, :, 1:] + across[:, :, :-1]
    product, squares = (down * across).flatten(1).mean(1), (down.square() + across.square()).flatten(1).mean(1)
    return 2 * product / (squares + 1e-6)


def color(images: Tensor) -> Tensor:
    """Root mean square of how far the channels are from their mean, of images (B, C, *spatial): (B,); 0 for gray ones.

    NaN with one channel, as are the next two.
    """
    if images.shape[1] == 1:
        return not_measured(images)
    return (images - images.mean(1, keepdim=True)).square().flatten(1).mean(1).sqrt()


def color_balance(images: Tensor) -> Tensor:
    """Mean of the last channel less that of the first, of images (B, C, *spatial): (B,)."""
    if images.shape[1] == 1:
        return not_measured(images)
    return images[:, -1].flatten(1).mean(1) - images[:, 0].flatten(1).mean(1)


def color_contrast(images: Tensor) -> Tensor:
    """Contrast of the last channel less that of the first, of images (B, C, *spatial): (B,)."""
    if images.shape[1] == 1:
        return not_measured(images)
    return contrast(images[:, -1]) - contrast(images[:, 0])


def sharpness(images: Tensor) -> Tensor:
    """Third differences beside first ones along all axes of images (B, C, *spatial), in powers of 2: (B,).

    Taking pixels between pixels, as resizing does, and blur leave less of it, noise and sharpening more, on whatever an
    image shows. NaN where no axis has four pixels.
    """
    sides = [axis for axis in axes(images) if images.shape[axis] > 3]
    if not sides:
        return not_measured(images)
    fine, all_ = (torch.cat([_squares(images, axis, times) for axis in sides], 1).mean(1) for times in (3, 1))
    return _powers(fine, all_)


def skewness(images: Tensor) -> Tensor:
    """Third moment of all values of each image (B, C, *spatial), by the standard deviation: (B,); 0 for flat images.

    In a negative it changes its sign.
    """
    return _skewness(images.flatten(1))


def edge_skewness(images: Tensor) -> Tensor:
    """The same of the differences of neighbours, summed over all axes of images (B, C, *spatial): (B,).

    Slow rises before steep falls have a negative one; mirrored along an axis, its part of the sum changes the sign.
    """
    return torch.stack([_skewness(images.diff(dim=axis).flatten(1)) for axis in axes(images)]).sum(0)


def detail_balance(images: Tensor) -> Tensor:
    """How much more neighbours differ in the second half of an image than in the first, in powers of 2: (B,).

    Summed over all axes of images (B, C, *spatial). Mirrored along an axis, its part of the sum changes the sign.
    """
    total = torch.zeros_like(images.flatten(1)[:, 0])
    for axis in axes(images):
        if images.shape[axis] > 3:
            total += _powers(*(roughness(one).square() for one in _halves(images, axis)))
    return total


def parity(images: Tensor) -> Tensor:
    """How much more neighbours differ within pairs of pixels than between these, in powers of 2: (B,).

    Pairs from the first pixel on, summed over all axes of images (B, C, *spatial). Images made larger, and from the
    sensors of cameras, have one; moved by a pixel along an axis, its part of the sum changes the sign.
    """
    total = torch.zeros_like(images.flatten(1)[:, 0])
    for axis in axes(images):
        if images.shape[axis] > 2:
            steps = images.diff(dim=axis).square().movedim(axis, -1)
            total += _powers(*(steps[..., first::2].flatten(1).mean(1) for first in (0, 1)))
    return total


def _halves(images: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The second half along an axis, and the first; what is in the middle of an odd number is in neither."""
    half = images.shape[axis] // 2
    return images.narrow(axis, images.shape[axis] - half, half), images.narrow(axis, 0, half)


def _balance(images: Tensor, axis: int) -> Tensor:
    """Mean of the second half less that of the first, (B,)."""
    second, first = (one.flatten(1).mean(1) for one in _halves(images, axis))
    return second - first


def _squares(images: Tensor, axis: int, times: int) -> Tensor:
    """Squared differences of an order along an axis, (B, N)."""
    return images.diff(n=times, dim=axis).square().flatten(1)


def _powers(one: Tensor, other: Tensor) -> Tensor:
    """The ratio of mean squares in powers of 2; what 8 bits round away makes none."""
    return ((one + _ROUNDED) / (other + _ROUNDED)).log2()


def _skewness(values: Tensor) -> Tensor:
    """Of values (B, N): (B,)."""
    if not values.shape[1]:
        return torch.zeros_like(values.sum(1))
    centered = values - values.mean(1, keepdim=True)
    return centered.pow(3).mean(1) / (centered.square().mean(1) + _ROUNDED) ** 1.5


_ROUNDED = 1e-6
"""Mean square of what rounding to 8 bits changes."""


APPEARANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda images: images.flatten(1).mean(1),
    "contrast": contrast,
    "roughness": roughness,
    "value_range": lambda images: images.flatten(1).amax(1) - images.flatten(1).amin(1),
    "vertical_balance": vertical_balance,
    "direction": direction,
    "horizontal_balance": horizontal_balance,
    "slant": slant,
    **{f"horizontal_wave_{number}": partial(horizontal_wave, half_waves=number) for number in (3, 5, 7)},
    "color": color,
    "color_balance": color_balance,
    "color_contrast": color_contrast,
    "jpeg_grid": jpeg_grid,
    "jpeg_quality": jpeg_quality,
    "sharpness": sharpness,
    "skewness": skewness,
    "edge_skewness": edge_skewness,
    "detail_balance": detail_balance,
    "parity": parity,
}
"""From (B, C, *spatial) to (B,) numbers each; NaN where such images have none."""

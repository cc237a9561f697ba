"""What an image looks like, which owes nothing to any autoencoder: whether members and controls are of one kind."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

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
    half = images.shape[2] // 2
    if not half:
        return torch.zeros_like(images.flatten(1)[:, 0])
    return images[:, :, -half:].flatten(1).mean(1) - images[:, :, :half].flatten(1).mean(1)


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
    half = images.shape[-1] // 2
    if not half or images.ndim < 4:
        return _nothing(images)
    return images[..., -half:].flatten(1).mean(1) - images[..., :half].flatten(1).mean(1)


def slant(images: Tensor) -> Tensor:
    """Whether edges rise or fall from left to right, of images (B, C, *spatial): (B,) in [-1, 1].

    Twice the mean product of the differences along the first and the last spatial axis, over the sum of their mean
    squares; 0 for flat images, NaN with one axis. Mirrored along one of them it changes its sign.
    """
    if images.ndim < 4 or 1 in (images.shape[2], images.shape[-1]):
        return _nothing(images)
    down, across = images.diff(dim=2), images.diff(dim=-1)
    down, across = down[..., 1:] + down[..., :-1], across[:, :, 1:] + across[:, :, :-1]
    product, squares = (down * across).flatten(1).mean(1), (down.square() + across.square()).flatten(1).mean(1)
    return 2 * product / (squares + 1e-6)


def color(images: Tensor) -> Tensor:
    """Root mean square of how far the channels are from their mean, of images (B, C, *spatial): (B,); 0 for gray ones.

    NaN with one channel, as are the next two.
    """
    if images.shape[1] == 1:
        return _nothing(images)
    return (images - images.mean(1, keepdim=True)).square().flatten(1).mean(1).sqrt()


def color_balance(images: Tensor) -> Tensor:
    """Mean of the last channel less that of the first, of images (B, C, *spatial): (B,)."""
    if images.shape[1] == 1:
        return _nothing(images)
    return images[:, -1].flatten(1).mean(1) - images[:, 0].flatten(1).mean(1)


def color_contrast(images: Tensor) -> Tensor:
    """Contrast of the last channel less that of the first, of images (B, C, *spatial): (B,)."""
    if images.shape[1] == 1:
        return _nothing(images)
    return contrast(images[:, -1]) - contrast(images[:, 0])


def jpeg_grid(images: Tensor) -> Tensor:
    """How much fine detail is in blocks of 8 pixels, beside blocks off that grid, in powers of 2: (B,).

    JPEG rounds away fine detail within its blocks, and leaves edges between them, so that images which were compressed
    strongly are below others, whatever they show. Mean absolute coefficients of the cosine transform above the
    diagonal, of the mean over the channels of images (B, C, *spatial), along the last two axes; NaN where these are
    shorter than 12 pixels.
    """
    if images.ndim < 4 or min(images.shape[-2:]) < _BLOCK + _BLOCK // 2:
        return _nothing(images)
    gray, middle = images.mean(1), _BLOCK // 2
    on, off = (_fine_detail(one) for one in (gray, gray[..., middle:, middle:]))
    return ((on + 1e-3) / (off + 1e-3)).log2()


_BLOCK = 8


def _fine_detail(images: Tensor) -> Tensor:
    """Mean absolute coefficients of blocks from the first pixel on, of images (B, *, H, W): (B,)."""
    place = torch.arange(_BLOCK, device=images.device)
    waves = torch.cos(math.pi / _BLOCK * (place + 0.5) * place[:, None]).to(images) * math.sqrt(2 / _BLOCK)
    waves[0] /= math.sqrt(2)
    blocks = images.unfold(-2, _BLOCK, _BLOCK).unfold(-2, _BLOCK, _BLOCK)
    is_fine = place[:, None] + place >= _BLOCK - 1
    return (waves @ blocks @ waves.T)[..., is_fine].flatten(1).abs().mean(1)


def _nothing(images: Tensor) -> Tensor:
    return torch.full_like(images.flatten(1)[:, 0], torch.nan)


APPEARANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda images: images.flatten(1).mean(1),
    "contrast": contrast,
    "roughness": roughness,
    "value_range": lambda images: images.flatten(1).amax(1) - images.flatten(1).amin(1),
    "vertical_balance": vertical_balance,
    "direction": direction,
    "horizontal_balance": horizontal_balance,
    "slant": slant,
    "color": color,
    "color_balance": color_balance,
    "color_contrast": color_contrast,
    "jpeg_grid": jpeg_grid,
}
"""From (B, C, *spatial) to (B,) numbers each; NaN where such images have none."""

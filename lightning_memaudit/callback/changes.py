"""How the images that reach a model differ from those of the batch: what augmentation and preprocessing leave behind.

Noise and holes, which denoising autoencoders and those that fill in are trained with, leave another trace than what
moves, cuts or recolors images: a difference that is rough, or values that are as before or all the same.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROUGH, SMOOTH = 0.15, 0.4
"""Correlation of neighboring pixels in the difference between two versions of an image, in the median over images. On
photographs, 32 to 64 pixels a side, it is below 0.15 for noise of any kind and for every other pixel missing, below
0.35 where values are rounded to 3 bits; above 0.45 for crops, rotations and colors that are drawn at random, and up to
0.8 for blurs. Of larger holes it is as high: these are known by their values."""

KEPT_OR_FILLED = 0.8
"""Share of the values that are as before, or all the same, beyond which parts of the images were taken out."""

MOSTLY = 0.9
"""Of the images that must have been changed; a crop may by chance be where the image was."""

ROUNDING = 1e-3
"""Of the largest value, on the way."""


class Change(NamedTuple):
    """What was done to images.

    Attributes:
        words: As a participle, such as "flipped, turned or moved".
        is_fixed: Whether it depends on the images alone, so that an audit can do the same.
        channels: (C + 1, C) the affine map of the channels, where it is one: fixed only if another batch has the same.

    >>> Change("each normalized by itself", is_fixed=True).words
    'each normalized by itself'
    """

    words: str
    is_fixed: bool
    channels: Tensor | None = None


def change_between(wanted: Tensor, seen: Tensor) -> Change | None:
    """What a model got instead of a batch's images; None where it is those, with noise or holes, or not known.

    Args:
        wanted: (B, C, *spatial) as an audit gives them to the model.
        seen: What the model got.

    >>> images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3)
    >>> change_between(images, images.flip(3)).words, change_between(images, images + torch.rand_like(images))
    ('flipped, turned or moved', None)
    """
    if wanted.shape != seen.shape or not seen.numel():
        return None
    wanted, seen = wanted.float(), seen.float()
    if not bool(wanted.isfinite().all() and seen.isfinite().all()):
        return None
    tolerance = ROUNDING * max(1.0, float(wanted.abs().max()))
    if _is_rearranged(wanted, seen, tolerance):
        return Change("flipped, turned or moved", is_fixed=False)
    if _is_reordered(wanted, seen, tolerance):
        return None
    channels = _mixed_channels(wanted, seen, tolerance)
    if channels is not None:
        return Change("in another color space, their channels mixed", is_fixed=True, channels=channels)
    if _is_normalized_alone(wanted, seen, tolerance):
        return Change("each normalized by itself", is_fixed=True)
    if _is_smooth(wanted, seen, tolerance):
        return Change("cut, moved, mixed, blurred or in other colors", is_fixed=False)
    return None


def _is_rearranged(wanted: Tensor, seen: Tensor, tolerance: float) -> bool:
    """Whether every image has the same values in other places."""
    x, y = wanted.flatten(1), seen.flatten(1)
    moved = (x - y).abs().amax(1) > tolerance
    same_values = (x.sort(1).values - y.sort(1).values).abs().amax(1) <= tolerance
    return bool((moved & same_values).all())


def _is_reordered(wanted: Tensor, seen: Tensor, tolerance: float) -> bool:
    """Whether these are the very images, in another order, as negatives of a contrast are."""
    order = [one.flatten(1).double().mean(1).argsort() for one in (wanted, seen)]
    return bool((wanted[order[0]] - seen[order[1]]).abs().max() <= tolerance)


def _mixed_channels(wanted: Tensor, seen: Tensor, tolerance: float) -> Tensor | None:
    """The affine map of the channels that every pixel went through; None if there is none."""
    channels = wanted.shape[1]
    x, y = (one.movedim(1, -1).reshape(-1, channels).cpu().double() for one in (wanted, seen))
    if channels < 2 or len(x) < 4 * channels or bool(((x - y).abs() <= tolerance).all()):
        return None
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    fit: Tensor = torch.linalg.lstsq(x, y, driver="gelsd").solution
    return fit if bool((x @ fit - y).abs().max() <= tolerance) and bool(y.std() > tolerance) else None


def _is_normalized_alone(wanted: Tensor, seen: Tensor, tolerance: float) -> bool:
    """Whether every image, or every channel of it, has been brought to the same range, or mean and deviation."""
    if len(wanted) < 2:
        return False
    return any(_are_normalized_alone(wanted.flatten(0, axis), seen.flatten(0, axis), tolerance) for axis in (0, 1))


def _are_normalized_alone(wanted: Tensor, seen: Tensor, tolerance: float) -> bool:
    x, y = wanted.flatten(1), seen.flatten(1)
    slope = y.std(1) / x.std(1).clamp(min=1e-12)
    offset = y.mean(1) - slope * x.mean(1)
    exact = bool((slope[:, None] * x + offset[:, None] - y).abs().max() <= tolerance * float(y.abs().max()))
    spread = {
        name: [torch.stack(ends, 1) for ends in both]
        for name, both in {
            "range": [(one.amin(1), one.amax(1)) for one in (x, y)],
            "moments": [(one.mean(1), one.std(1)) for one in (x, y)],
        }.items()
    }
    alike = [_alike(after, tolerance) and not _alike(before, tolerance) for before, after in spread.values()]
    return exact and any(alike)


def _alike(rows: Tensor, tolerance: float) -> bool:
    return bool((rows - rows[:1]).abs().max() <= 2 * tolerance)


def is_noisy(wanted: Tensor, seen: Tensor) -> bool:
    """Whether what a model got is the images (B, C, *spatial) and noise, whose neighbors owe nothing to each other.

    >>> images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3)
    >>> noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    >>> is_noisy(images, images + 5 * noise), is_noisy(images, images.flip(3)), is_noisy(images, images)
    (True, False, False)
    """
    if wanted.shape != seen.shape or wanted.ndim < 4 or not bool(seen.isfinite().all()):
        return False
    difference = seen.float() - wanted.float()
    changed = difference.flatten(1).abs().amax(1) > ROUNDING * max(1.0, float(wanted.abs().max()))
    correlation = None if not bool(changed.all()) else _correlation_of_neighbors(difference)
    return correlation is not None and abs(correlation) < ROUGH


def _correlation_of_neighbors(difference: Tensor) -> float | None:
    """In the median over images; None where they have no neighbors."""
    difference = difference - difference.mean(tuple(range(2, difference.ndim)), keepdim=True)
    power = difference.square().flatten(1).mean(1).clamp(min=1e-12)
    along = [
        (difference.narrow(axis, 1, size - 1) * difference.narrow(axis, 0, size - 1)).flatten(1).mean(1) / power
        for axis, size in enumerate(difference.shape)
        if axis > 1 and size > 1
    ]
    return float(torch.stack(along).mean(0).median()) if along else None


def _is_smooth(wanted: Tensor, seen: Tensor, tolerance: float) -> bool:
    """Whether the difference is as smooth as images are, and not made of holes."""
    difference = seen - wanted
    changed = difference.abs() > tolerance
    which = changed.flatten(1).any(1)
    if wanted.ndim < 4 or float(which.float().mean()) < MOSTLY:
        return False
    difference, changed, seen = difference[which], changed[which], seen[which]
    fills = [one[where].mode().values for one, where in zip(seen, changed, strict=True)]
    fill = torch.stack(fills).view(-1, *(1,) * (seen.ndim - 1))
    if float((~changed | ((seen - fill).abs() <= tolerance)).float().mean()) > KEPT_OR_FILLED:
        return False
    correlation = _correlation_of_neighbors(difference)
    return correlation is not None and correlation > SMOOTH

"""What stands in the missing pixels: looked for in the observation itself, before the autoencoder is asked.

A degraded image mixes pixels of two origins. Missing pixels that were filled with one value share it exactly, or up to
the noise; missing pixels that were filled with noise do not resemble their neighbours.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_memaudit.recovery.batches import replace_rows, same_channels
from lightning_memaudit.recovery.noisy_fills import estimate_noisy_value
from lightning_memaudit.recovery.spatial import row_values, sorted_rows, spatial, with_axes

LEAST_SHARE = 0.05
"""A value is taken for a fill only if at least this share of the pixels has it; fewer may have it by chance."""

ALONE = 0.3
"""Share of a channel that holds one value, beyond that of whole pixels that do, if it lost pixels that others did not.
A sky of the brightest blue has more in few images: 5 of 2,632 of three sources that were not read so without it."""


class ConstantFill(NamedTuple):
    """A fill with one value per channel, for each of B images.

    Attributes:
        present: (B,) whether there is one.
        mask: (B, 1 or C, *spatial) probability of being observed; 1 everywhere where there is none.
        noise: (B,) standard deviation of the noise, as read off the missing pixels; 0 for exact repeats.
        per_channel: (B,) whether every channel has a mask of its own.
        value: (B, C, *ones) the fill, where there is noise on it.

    >>> image = torch.linspace(0, 1, 8).repeat(1, 1, 8, 1)
    >>> image[..., 4:] = 0.3  # missing, and filled with grey
    >>> fill = find_constant_fill(image)
    >>> fill.present.item(), fill.mask[0, 0, 0].tolist()
    (True, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    """

    present: Tensor
    mask: Tensor
    noise: Tensor
    per_channel: Tensor
    value: Tensor

    def select(self, rows: Tensor) -> "ConstantFill":
        """Only these images."""
        return ConstantFill(*(field[rows] for field in self))

    def is_same(self, other: "ConstantFill") -> Tensor:
        """Whether another one of the same images is searched likewise: no noise, and the same mask, (B,) bool."""
        masks = same_channels([self.mask, other.mask])
        same = (masks[0] == masks[1]).flatten(1).all(1) & (self.per_channel == other.per_channel)
        return same & self.present & other.present & (self.noise == 0) & (other.noise == 0)


def find_constant_fill(observed: Tensor, noise: float | None = None) -> ConstantFill:
    """Find one value that many pixels share: exactly, or up to Gaussian noise.

    Exact repeats: the most frequent pixel (all channels at once) is looked up, then the most frequent value of each
    channel: some may have lost pixels, or all of them, that others did not. Noise of a known level: the value around
    which most pixels lie is estimated. When the level is not known and nothing repeats exactly, only a fill with zeros
    can be told from image content: its noise gives values below 0, which no image has.

    Args:
        observed: y, (B, C, *spatial).
        noise: Standard deviation of the noise; 0 looks for exact repeats alone, None is for a level not known.
    """
    if noise:
        return _noisy_fill(observed, row_values(observed, noise), None)
    batch, channels = observed.shape[:2]
    repeated, share = _most_frequent(_codes(observed))
    present = share >= LEAST_SHARE
    mask = ~(repeated & present[:, None])[:, None].expand(-1, channels, -1)
    per_channel = torch.zeros_like(present)
    if channels > 1:
        # A mask of its own per channel leaves pixels with some channels missing: more values repeat than whole pixels.
        missing, lost = _lost_by_channel(observed)
        per_channel = _lost_alone(lost, share)
        mask = torch.where(per_channel[:, None, None], ~missing, mask)
        present = present | per_channel
    if not bool(per_channel.any()):
        mask = mask[:, :1]
    found = ConstantFill(
        present,
        mask.to(observed.dtype).view(batch, -1, *observed.shape[2:]),
        row_values(observed, 0.0),
        per_channel,
        with_axes(torch.zeros_like(observed.flatten(2)[..., 0]), observed),
    )
    rows = (~found.present).nonzero().squeeze(1)
    if noise is None and len(rows):
        found = replace_rows(found, rows, _noisy_zeros(observed[rows]))
    return found


def find_other_fill(observed: Tensor, fill: ConstantFill, noise: float | None = None) -> ConstantFill:
    """Find a second value that may be the fill: images can have large areas of one color themselves.

    Where :func:`find_constant_fill` took the most frequent pixel, this takes the second most frequent one; where it
    found a mask per channel, this takes the most frequent pixel. Where it found none, there may be one with noise on
    it; or the image has a plain background with noise of its own.

    Args:
        observed: y, (B, C, *spatial).
        fill: What :func:`find_constant_fill` found; where there is noise on it, nothing else is looked for.
        noise: Standard deviation; None if unknown. A fill with noise of a known level was found before.
    """
    codes = _codes(observed)
    first, _ = _most_frequent(codes)
    codes = torch.where(first & ~fill.per_channel[:, None], torch.nan, codes)
    repeated, share = _most_frequent(codes)
    present = fill.present & (fill.noise == 0) & (share >= LEAST_SHARE)
    mask = (~(repeated & present[:, None])).to(observed.dtype).view(-1, 1, *observed.shape[2:])
    nothing = torch.zeros_like(fill.noise)
    value = with_axes(torch.zeros_like(observed.flatten(2)[..., 0]), observed)
    found = ConstantFill(present, mask, nothing, torch.zeros_like(present), value)
    rows = (~fill.present).nonzero().squeeze(1)
    return replace_rows(found, rows, find_noisy_fill(observed[rows])) if noise is None and len(rows) else found


def find_lost_channels(observed: Tensor) -> ConstantFill:
    """Take the most frequent value of each channel for its fill, where one of them holds it in many other pixels too.

    Besides whole pixels that repeat these are a share of :data:`ALONE` of the rest. Red ink on black looks alike.

    Args:
        observed: y, (B, C, *spatial).
    """
    _, share = _most_frequent(_codes(observed))
    missing, lost = _lost_by_channel(observed)
    present = lost.amax(1) - share >= (ALONE * (1 - share)).clamp_min(LEAST_SHARE)
    mask = (~(missing & present[:, None, None])).to(observed.dtype).view_as(observed)
    value = with_axes(torch.zeros_like(observed.flatten(2)[..., 0]), observed)
    return ConstantFill(present, mask, row_values(observed, 0.0), present, value)


def find_repeated_values(observed: Tensor) -> ConstantFill:
    """Take all values that repeat conspicuously for the fill: black and white noise, or several colors, are one fill.

    A value repeats conspicuously if at least :data:`LEAST_SHARE` of a channel has it. A pixel is missing if all its
    channels hold such values; every channel has a mask of its own where these are clearly more than such pixels.

    Args:
        observed: y, (B, C, *spatial).
    """
    batch, channels = observed.shape[:2]
    repeated = _frequent(observed.flatten(2).flatten(0, 1)).view(batch, channels, -1)
    whole = repeated.all(1, keepdim=True)
    per_channel = _lost_alone(repeated.double().mean(2), whole.double().mean((1, 2)))
    missing = torch.where(per_channel[:, None, None], repeated, whole)
    present = missing.double().mean((1, 2)) >= LEAST_SHARE
    mask = (~(missing & present[:, None, None])).to(observed.dtype).view_as(observed)
    value = with_axes(torch.zeros_like(observed.flatten(2)[..., 0]), observed)
    return ConstantFill(present, mask, row_values(observed, 0.0), per_channel, value)


def find_noisy_fill(observed: Tensor) -> ConstantFill:
    """Find a value that many pixels share up to noise of an unknown level, which may be clipped to [0, 1].

    Args:
        observed: y, (B, C, *spatial).
    """
    found = estimate_noisy_value(observed)
    present = found.plausible & (found.missing.mean(1) >= LEAST_SHARE)
    mask = torch.where(present[:, None], 1 - found.missing, 1.0).view(len(observed), 1, *observed.shape[2:])
    noise = torch.where(present, found.noise, 0.0)
    return ConstantFill(present, mask, noise, torch.zeros_like(present), with_axes(found.value[..., 0], observed))


def _lost_alone(lost: Tensor, whole: Tensor) -> Tensor:
    """Whether channels lost pixels of their own, (B,) bool: all of them clearly some, or one of them most that it lost.

    Args:
        lost: Share of each channel that repeats, (B, C).
        whole: The same of whole pixels, (B,).
    """
    every = (lost.amin(1) >= LEAST_SHARE) & (lost.amin(1) >= whole + LEAST_SHARE)
    return every | (lost.amax(1) - whole >= whole.clamp_min(ALONE))


def _lost_by_channel(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Where each channel holds its most frequent value, (B, C, N), if many of it do, and the share (B, C) that does."""
    channels = observed.shape[1]
    alone, shares = _most_frequent(observed.flatten(2).flatten(0, 1))
    lost = shares.view(-1, channels)
    return alone.view(len(lost), channels, -1) & (lost >= LEAST_SHARE)[..., None], lost


def _codes(observed: Tensor) -> Tensor:
    """One number per pixel, (B, N) of N pixels, that tells pixels apart which differ in any channel."""
    pixels = observed.flatten(2)
    code = torch.zeros_like(pixels[:, 0], dtype=torch.float64)
    for channel, values in enumerate(pixels.unbind(1)):
        code += values.double() * math.sqrt(2) ** -channel * math.pi ** (channel % 3)
    return code


def _most_frequent(values: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row (R, N) holds its most frequent value (R, N), and the share of that value (R,).

    Of several that are as frequent it is the smallest. NaN is no value; a row of nothing else has a share of 1 / N.
    """
    rows, number = values.shape
    ordered = sorted_rows(values)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begin = begins.flatten().nonzero().squeeze(1)
    length = torch.diff(begin, append=begin.new_full((1,), rows * number))
    row = begin // number
    longest = torch.zeros_like(values[:, 0], dtype=torch.int64).scatter_reduce_(0, row, length, "amax")
    at = torch.where(length == longest[row], begin % number, number)
    first = torch.full_like(longest, number).scatter_reduce_(0, row, at, "amin")
    return values == ordered.gather(1, first[:, None]), longest.double() / number


def _frequent(values: Tensor) -> Tensor:
    """Where each row (R, N) holds values that at least :data:`LEAST_SHARE` of it has, (R, N) bool."""
    least = math.ceil(LEAST_SHARE * values.shape[1] - 1e-9)  # 0.05 of 140 is 7
    ordered = sorted_rows(values)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begins = begins[:, : values.shape[1] - least + 1]
    found = begins & (ordered[:, : begins.shape[1]] == ordered[:, least - 1 :])
    number = found.cumsum(1)
    result = torch.zeros_like(values, dtype=torch.bool)
    for which in range(1, int(number[:, -1].amax()) + 1 if len(values) else 0):
        here = found & (number == which)
        one = ordered.gather(1, here.to(torch.uint8).argmax(1, keepdim=True))
        result |= (values == one) & here.any(1, keepdim=True)
    return result


def _noisy_zeros(observed: Tensor) -> ConstantFill:
    """Zeros with noise of an unknown level: the values below 0 are half of a normal distribution."""
    below = observed.flatten(1).clamp_max(0)
    number = (below < 0).to(observed.dtype).sum(1)
    level = (below.square().sum(1) / number.clamp_min(1)).sqrt()
    found = _noisy_fill(observed, level.clamp_min(1e-6), torch.zeros_like(observed.flatten(2)[..., :1]))
    many = number / below.shape[1] >= LEAST_SHARE / 2
    return found._replace(present=found.present & many, noise=torch.where(many, level, 0))


def _noisy_fill(observed: Tensor, noise: Tensor, value: Tensor | None) -> ConstantFill:
    """A Gaussian spike of known width among values spread evenly over their range: expectation-maximization.

    Args:
        observed: y, (B, C, *spatial).
        noise: (B,) width.
        value: (B, C, 1) position of the spike; None looks for the densest one.
    """
    pixels = observed.flatten(2)
    channels = pixels.shape[1]
    width = noise[:, None, None]
    spread = pixels.amax((1, 2)) - pixels.amin((1, 2))
    candidates = [value] if value is not None else [torch.zeros_like(pixels[..., :1])]
    if value is None:
        grid = torch.linspace(0, 1, 65, device=pixels.device, dtype=pixels.dtype).view(1, 1, 1, -1)
        near = torch.exp(-(pixels[..., None] - grid).square() / (2 * width[..., None].square())).mean(2)
        candidates.append(
            grid[..., 0, :].squeeze(2).expand(len(pixels), channels, -1).gather(2, near.argmax(2, keepdim=True))
        )
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for center in candidates:
        share = torch.full_like(noise, 0.5)
        missing = torch.zeros_like(pixels[:, 0])
        likelihood = torch.zeros_like(noise)
        for _ in range(20):
            spike = -((pixels - center) / width).square().sum(1) / 2
            spike = spike - channels * torch.log(width[:, 0] * math.sqrt(2 * math.pi))
            spike = spike + torch.log(share)[:, None]
            flat = (torch.log1p(-share) - channels * torch.log(spread))[:, None]
            missing = torch.sigmoid(spike - flat)
            likelihood = torch.logaddexp(spike, flat.expand_as(spike)).sum(1)
            share = missing.mean(1).clamp(1e-3, 1 - 1e-3)
            if value is None:
                center = (missing[:, None] * pixels).sum(2, keepdim=True) / missing.sum(1)[:, None, None].clamp_min(
                    1e-6
                )
        found = (likelihood, missing, share, center.expand_as(pixels[..., :1]))
        if best is None:
            best = found
        else:
            better = likelihood > best[0]
            best = tuple(  # type: ignore[assignment]
                torch.where(with_axes(better, new), new, old) for new, old in zip(found, best, strict=True)
            )
    assert best is not None
    _, missing, share, center = best
    present = share >= LEAST_SHARE
    mask = torch.where(present[:, None], 1 - missing, 1.0).view(len(observed), 1, *observed.shape[2:])
    return ConstantFill(present, mask, noise, torch.zeros_like(present), with_axes(center, observed))


def channels_left_whole(fill: ConstantFill) -> Tensor:
    """Whether some channels lost pixels and others hardly any, (B,) bool.

    These may hold anything in the same places: of images with an alpha channel that is 1 all over, behind noise, that
    channel seems to have lost the rest.
    """
    lost = (1 - fill.mask).flatten(2).double().mean(2)
    return fill.per_channel & (lost.amin(1) < LEAST_SHARE)


def hidden_share(fill: ConstantFill) -> Tensor:
    """Share of the observation that is missing, (B,)."""
    return (1 - fill.mask).flatten(1).double().mean(1)


def local_agreement(observed: Tensor, size: int = 7, tolerance: float = 0.1) -> Tensor:
    """How many pixels of the neighbourhood resemble each pixel in all channels, near ones counting more.

    Image content resembles its surroundings, noise in place of missing pixels does not.

    Args:
        observed: y, (B, C, *spatial), nominally in [0, 1].
        size: Side of the neighbourhood along every axis, odd.
        tolerance: Largest difference that counts as a resemblance.

    Returns:
        (B, 1, *spatial), the weighted number of those neighbours; a neighbour at distance d weighs ``exp(-d^2 / 8)``.
    """
    sides, reach = spatial(observed), size // 2
    padded = functional.pad(observed, (reach,) * 2 * len(sides), value=torch.inf)
    agreement = torch.zeros_like(observed[:, :1])
    for step in itertools.product(range(-reach, reach + 1), repeat=len(sides)):
        if any(step):
            neighbour = padded
            for axis, (by, side) in enumerate(zip(step, sides, strict=True), 2):
                neighbour = neighbour.narrow(axis, reach + by, side)
            resembles = ((neighbour - observed).abs() < tolerance).all(1, keepdim=True)
            agreement += math.exp(-sum(by**2 for by in step) / 8) * resembles
    return agreement

"""Affine maps per channel between two versions of the same images, such as before and after a normalization."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_memaudit.callback.seen import Normalization

TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""How far from exact rounding may bring values, relative to the largest; 1e-4 for other types."""


@dataclass(frozen=True)
class Affine:
    """The map ``slope * image + offset``, one number per channel or one for all.

    >>> Affine((2.0,), (-1.0,)).words("image")
    '(image - 0.5) / 0.5'
    """

    slope: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    @classmethod
    def of_normalization(cls, normalization: Normalization) -> "Affine":
        """``(image - mean) / std`` as such a map."""
        mean, std = normalization.mean or [0.0], normalization.std or [1.0]
        count = max(len(mean), len(std))
        means, stds = (list(one) * (count if len(one) == 1 else 1) for one in (mean, std))
        pairs = list(zip(means, stds, strict=True))
        return cls(tuple(1 / s for _, s in pairs), tuple(-m / s for m, s in pairs))

    @property
    def is_identity(self) -> bool:
        """Up to rounding."""
        return all(abs(one - 1) < 2e-3 for one in self.slope) and all(abs(one) < 2e-3 for one in self.offset)

    @property
    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """As a normalization ``(image - mean) / std``, to six digits."""
        pairs = list(zip(self.slope, self.offset, strict=True))
        return [_rounded(-offset / slope) for slope, offset in pairs], [_rounded(1 / slope) for slope, _ in pairs]

    def words(self, image: str) -> str:
        """As a formula.

        >>> Affine((2.0,), (-1.0,)).words("image"), Affine((0.8,), (0.1,)).words("image")
        ('(image - 0.5) / 0.5', '(image + 0.125) / 1.25')
        """
        if self.is_identity:
            return image
        mean, std = ([one.__format__("g") for one in values] for values in self.mean_and_std)
        shown = [values[0] if len(values) == 1 else f"[{', '.join(values)}]" for values in (mean, std)]
        less = f"+ {shown[0][1:]}" if shown[0].startswith("-") else f"- {shown[0]}"
        return f"{image} / {shown[1]}" if shown[0] in ("0", "-0") else f"({image} {less}) / {shown[1]}"

    def apply(self, images: Tensor) -> Tensor:
        """To images (B, C, ...)."""
        shape = (1, -1, *(1,) * (images.ndim - 2))
        slope = torch.tensor(self.slope, dtype=images.dtype, device=images.device).view(shape)
        return images * slope + torch.tensor(self.offset, dtype=images.dtype, device=images.device).view(shape)

    def undo(self, images: Tensor) -> Tensor:
        """The images (B, C, ...) that :meth:`apply` makes these of.

        >>> Affine((2.0,), (-1.0,)).undo(torch.zeros(1, 1, 1)).item()
        0.5
        """
        slopes, offsets = as_many(self.slope, self.offset)
        inverse = [(1 / slope, -offset / slope) for slope, offset in zip(slopes, offsets, strict=True)]
        return Affine(tuple(slope for slope, _ in inverse), tuple(offset for _, offset in inverse)).apply(images)

    def close_to(self, other: "Affine", tolerance: float = 0.02) -> bool:
        """Whether both maps give nearly the same on [0, 1], relative to what they give."""
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        count = max(len(self.slope), len(other.slope))
        mine, others = (one.apply(ends.expand(2, count).unsqueeze(-1)) for one in (self, other))
        return bool((mine - others).abs().max() <= tolerance * max(1.0, float(others.abs().max())))


def fit_exact(before: Tensor, after: Tensor) -> Affine | None:
    """The affine map that takes one version of images to the other; None unless there is an exact one.

    Args:
        before: Images (B, C, ...).
        after: Of the same shape.

    >>> images = torch.rand(2, 3, 4, 4)
    >>> fit_exact(images, (images - 0.5) / 0.25).mean_and_std
    ([0.5], [0.25])
    >>> fit_exact(images, images.flip(-1)) is None
    True
    """
    if before.shape != after.shape or not before.numel() or not bool(after.isfinite().all()):
        return None
    tolerance = TOLERANCE.get(after.dtype, 1e-4)
    num_channels = before.shape[1]
    x = before.double().reshape(len(before), num_channels, -1).transpose(0, 1).reshape(num_channels, -1)
    y = after.double().reshape(len(after), num_channels, -1).transpose(0, 1).reshape(num_channels, -1)
    for rows in (1, num_channels):
        found = _fit(x.reshape(rows, -1), y.reshape(rows, -1), tolerance)
        if found is not None:
            return found
    return None


def between_moments(before: Tensor, after: Tensor, factor: float = 2.0, shift: float = 0.25) -> Affine | None:
    """The map between mean and deviation of different images, where these are clearly in other ranges; else None.

    Args:
        before: Some images.
        after: Other ones.
        factor: Between their deviations, from which it is clear.
        shift: Between their means, likewise.

    >>> images = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> between_moments(images[:5], images[5:]) is None, between_moments(images[:5], 2 * images[5:] - 1) is None
    (True, False)
    """
    spread = float(after.std() / before.std().clamp(min=1e-6))
    if 1 / factor < spread < factor and abs(float(after.mean()) - float(before.mean())) < shift:
        return None
    return Affine((spread,), (float(after.mean()) - spread * float(before.mean()),))


LEAST_SHARE = 0.1
"""Of the values of every image that a map must explain exactly, where others are noise, masks or zeros."""


def fit_nearly(before: Tensor, after: Tensor, expected: Affine) -> Affine | None:
    """The affine map behind masks and flips: of images that were changed on the way, besides the map.

    In this order: the expected map or another, if it takes at least a tenth of the values of every image exactly; the
    map between the sorted values, which a flip or another order leaves as they are. For noise see :func:`likely_line`.

    Args:
        before: Images (B, C, *spatial).
        after: Of the same shape.
        expected: What it would be by rights.

    Returns:
        None where nothing can be told.

    >>> images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> hidden = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    >>> fit_nearly(images, (2 * images - 1) * hidden, Affine()).words("image")
    '(image - 0.5) / 0.5'
    """
    tolerance = TOLERANCE.get(after.dtype, 1e-4) * max(1.0, float(after.abs().max()))
    x, y = before.double(), after.double()
    if _share(expected, x, y, tolerance) >= LEAST_SHARE:
        return expected
    found = _from_pairs(x, y, tolerance)
    if found is not None:
        return found
    found = fit_exact(*(one.transpose(0, 1).flatten(1).sort().values[None] for one in (before, after)))
    return found if found is not None and all(slope > 0 for slope in found.slope) else None


def likely_line(before: Tensor, after: Tensor, expected: Affine) -> Affine | None:
    """The least squares line behind noise, if it is clearly another map than expected.

    What moves images weakens the line and leaves their range: a slope below 1 is told only where the range is
    smaller too, and an offset only where it is more than the images' own deviation.

    Args:
        before: Images (B, C, *spatial).
        after: Of the same shape.
        expected: What it would be by rights.

    >>> images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> noisy = 2 * images - 1 + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    >>> likely_line(images, noisy, Affine()).close_to(Affine((2.0,), (-1.0,)))
    True
    >>> likely_line(images, images.flip(-1), Affine()) is None
    True
    """
    wanted, y = expected.apply(before.double()), after.double()
    centred, moved = wanted - wanted.mean(), y - y.mean()
    variance, other = centred.square().mean().clamp(min=1e-12), moved.square().mean().clamp(min=1e-12)
    covariance = (centred * moved).mean()
    slope = float(covariance / variance)
    related = float(covariance / (variance * other).sqrt()) > 0.3
    shifted = abs(float(y.mean() - wanted.mean())) > float(variance.sqrt())
    if not related or not (slope > 1.5 or float(other / variance) < 1 / 1.5**2 or shifted):
        return None
    offset = float(y.mean()) - slope * float(wanted.mean())
    pairs = zip(expected.slope, expected.offset, strict=True)
    slopes, offsets = zip(*((slope * one, slope * shift + offset) for one, shift in pairs), strict=True)
    return Affine(slopes, offsets)


def _share(one: Affine, x: Tensor, y: Tensor, tolerance: float) -> float:
    """Of the image in which the map explains the fewest values: their share."""
    return float(((one.apply(x) - y).abs() <= tolerance).double().flatten(1).mean(1).min())


def _from_pairs(x: Tensor, y: Tensor, tolerance: float, num_pairs: int = 400) -> Affine | None:
    """The map through two random pixels that explains the most, for all channels alike."""
    generator = torch.Generator().manual_seed(0)
    flat_x, flat_y = x.flatten().cpu(), y.flatten().cpu()
    one, other = torch.randint(len(flat_x), (2, num_pairs), generator=generator)
    apart = (flat_x[one] - flat_x[other]).abs() > 0.1
    one, other = one[apart], other[apart]
    slopes = (flat_y[one] - flat_y[other]) / (flat_x[one] - flat_x[other])
    offsets = flat_y[one] - slopes * flat_x[one]
    best, share = None, LEAST_SHARE
    for slope, offset in zip(slopes.tolist(), offsets.tolist(), strict=True):
        candidate = Affine((slope,), (offset,))
        if abs(slope) > 1e-3 and (explained := _share(candidate, x, y, tolerance)) >= share:
            best, share = candidate, explained
    return None if best is not None and _is_dropout(best, x, y, tolerance) else best


def _is_dropout(one: Affine, x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Whether values are dropped at random, and the others raised so that the mean stays what it was."""
    kept = (one.apply(x) - y).abs() <= tolerance
    dropped = y.abs() <= tolerance
    is_share = abs(float(kept.double().mean()) - 1 / one.slope[0]) < 0.05 if one.slope[0] > 1 else False
    return is_share and abs(one.offset[0]) <= tolerance and bool((kept | dropped).all())


def _fit(x: Tensor, y: Tensor, tolerance: float) -> Affine | None:
    centred = x - x.mean(1, keepdim=True)
    spread = centred.square().mean(1)
    if bool((spread < 1e-8).any()):  # a constant channel fits many maps
        return None
    slope = (centred * y).mean(1) / spread
    offset = y.mean(1) - slope * x.mean(1)
    left = (slope[:, None] * x + offset[:, None] - y).abs().max()
    if bool((slope.abs() < 1e-6).any()) or left > tolerance * max(1.0, float(y.abs().max())):
        return None
    return Affine(tuple(slope.tolist()), tuple(offset.tolist()))


def _rounded(value: float) -> float:
    """To five digits: what is left of rounding errors vanishes."""
    return 0.0 if abs(value) < 1e-6 else float(f"{value:.5g}")


def as_many(*values: Sequence[float]) -> list[list[float]]:
    """With as many numbers each, where one stands for all channels.

    >>> as_many((2.0,), (0.5, 0.25))
    [[2.0, 2.0], [0.5, 0.25]]
    """
    count = max(map(len, values))
    return [list(one) * (count if len(one) == 1 else 1) for one in values]


def input_behind(found: Affine, expected: Affine, model_input: Affine) -> Affine:
    """What the model got in training, from what its layer got in training and in the audit.

    The layer gets ``a x + b`` of the model's input x. The audit's input ``s u + t`` of an image u reaches it as
    ``expected``, which gives a and b; the training's reaches it as ``found``.

    >>> input_behind(Affine((4.0,), (1.0,)), Affine((2.0,), (1.0,)), Affine()).words("image")
    'image / 0.5'
    """
    maps = (found, expected, model_input)
    slopes, offsets = as_many(*(one.slope for one in maps)), as_many(*(one.offset for one in maps))
    given = []
    for (f, e, s), (found_offset, expected_offset, t) in zip(
        zip(*slopes, strict=True), zip(*offsets, strict=True), strict=True
    ):
        a = e / s
        given.append((f / a, (found_offset - expected_offset) / a + t))
    return Affine(tuple(slope for slope, _ in given), tuple(offset for _, offset in given))

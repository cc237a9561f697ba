"""Degradations by name: which pixels an image loses, what stands in their place, and the noise on top.

A name is a kind of mask, then modifiers after ``+``::

    random-0.5                     half of the pixels, chosen at random
    block-0.25                     one box of a quarter of the image
    slabs-0.3                      evenly spaced along the first axis; of pictures they are stripes
    random-0.9+noise-0.05          Gaussian noise of standard deviation 0.05 on all pixels, missing ones too
    block-0.5+fill-noise           uniform noise where pixels are missing, instead of zeros
    stripes-0.3+fill-0.5+channels  grey where pixels are missing, another mask for every channel
    blur-1                         no mask: a Gaussian blur of 1 pixel, around the border

A blur hides no pixels: other methods recover from it than from a mask, and no inpainter stands beside them. So what
comes back from a blur is shown, and never counts as memorized: sharpening alone may bring it back.

The degradation of the i-th image depends on the seed, the kind of mask and i alone. Members, controls, processes and
reruns therefore see the same masks, and of ``random-p`` those with more missing pixels contain those with fewer.
"""

import math
import string
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_memaudit.recovery.methods.deblurring import blur
from lightning_memaudit.recovery.spatial import spatial
from lightning_memaudit.recovery.types import Family
from lightning_memaudit.results.names import did_you_mean

Missing = NDArray[np.bool_]
"""Missing pixels, (*spatial), True where missing."""
Size = tuple[int, ...]
"""The spatial sides of an image: length; height and width; depth, height and width."""

MAX_FRACTION = 0.99


class Degraded(NamedTuple):
    """A degraded batch: ``observed = mask * image + (1 - mask) * fill + noise``, or the blurred image and noise.

    Attributes:
        observed: (B, C, *spatial).
        mask: (B, 1, *spatial), or (B, C, *spatial) when every channel has its own; 1 where observed, 0 where missing.

    >>> images = torch.rand(2, 3, 8, 8)
    >>> observed, mask = parse_degradation("random-0.75+fill-0.5")(images, positions=[0, 1])
    >>> torch.equal(observed, mask * images + (1 - mask) * 0.5), mask.shape, mask.mean().item()
    (True, torch.Size([2, 1, 8, 8]), 0.25)
    """

    observed: Tensor
    mask: Tensor


def _part_of(fraction: float, total: int) -> int:
    """The fraction of a number, rounded; at least one, as nothing would be left to recover, and not all."""
    return min(max(1, round(fraction * total)), total - 1)


def random_pixels(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """Exactly ``round(fraction * number of pixels)`` pixels, nested in the fraction: the first of a random order."""
    number = math.prod(size)
    missing = np.zeros(number, dtype=bool)
    missing[generator.permutation(number)[: _part_of(fraction, number)]] = True
    return missing.reshape(size)


def block(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """One box of about the image's proportions, at a random place."""
    number = math.prod([fraction, *size])
    sides: list[int] = []
    for side in size:
        last = len(sides) == len(size) - 1  # it makes up for the rounding of the others
        wanted = number / math.prod(sides) if last else fraction ** (1 / len(size)) * side
        sides.append(min(side, max(1, round(wanted))))
    missing = np.zeros(size, dtype=bool)
    begins = [int(generator.integers(side - part + 1)) for side, part in zip(size, sides, strict=True)]
    missing[_box(begins, sides)] = True
    return missing


def blocks(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """Small boxes of a sixth of the image's sides, at random places, until at least the fraction is covered."""
    sides = [max(1, round(side / 6)) for side in size]
    missing = np.zeros(size, dtype=bool)
    while missing.mean() < fraction:
        begins = [int(generator.integers(1 - part, side)) for part, side in zip(sides, size, strict=True)]
        missing[_box(begins, sides)] = True
    return missing


def _box(begins: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """The part of a box that is within the image."""
    return tuple(slice(max(0, begin), begin + side) for begin, side in zip(begins, sides, strict=True))


def rows(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """All at some places along the first axis, which are rows of pictures and slices of volumes, chosen at random."""
    missing = np.zeros(size, dtype=bool)
    missing[generator.permutation(size[0])[: _part_of(fraction, size[0])]] = True
    return missing


def columns(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """All at some places along the last axis, chosen at random."""
    missing = np.zeros(size, dtype=bool)
    missing[..., generator.permutation(size[-1])[: _part_of(fraction, size[-1])]] = True
    return missing


def slabs(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """Evenly spaced along the first axis, from a random place on: in every eighth of it the fraction is missing.

    They are horizontal stripes of pictures, slabs of volumes, gaps of signals.
    """
    length = size[0]
    period = max(2.0, length / 8)
    phase = (np.arange(length) + generator.uniform(0, period)) % period / period
    order = np.argsort(phase, kind="stable")
    missing = np.zeros(size, dtype=bool)
    missing[order[: _part_of(fraction, length)]] = True
    return missing


def half(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """One half along one of the axes, of the first or the second one, chosen at random; the fraction is not used."""
    missing = np.zeros(size, dtype=bool)
    # An axis with a single place has no halves.
    long = [axis for axis in reversed(range(len(size))) if size[axis] > 1] or [len(size) - 1]
    which, second = divmod(int(generator.integers(2 * len(long))), 2)
    part = size[long[which]] // 2
    np.moveaxis(missing, long[which], 0)[slice(-part, None) if second else slice(part)] = True
    return missing


def strokes(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """Strokes as of a thick pen, until at least the fraction is covered (free-form masks, Yu et al. 2019)."""
    height, width = size
    corner = np.array([width, height])
    pen = max(1, round(min(height, width) / 12))
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    while np.asarray(canvas).mean() < fraction:
        point = generator.uniform(0, corner)
        angle = generator.uniform(0, 2 * math.pi)
        for _ in range(generator.integers(3, 8)):
            angle += generator.normal(0, 0.7)
            step = generator.uniform(0.1, 0.25) * min(height, width)
            end = np.clip(point + step * np.array([math.cos(angle), math.sin(angle)]), 0, corner - 1)
            draw.line([*point.tolist(), *end.tolist()], fill=1, width=pen)
            point = end
    return np.array(canvas)


def text(fraction: float, size: Size, generator: np.random.Generator) -> Missing:
    """Lines of random letters across the whole image, a fifth of its height each (at least 7 pixels).

    The fraction is not used.
    """
    height, width = size
    line_height = max(7, round(height / 5))
    font = ImageFont.load_default(line_height)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    letters = list(string.ascii_letters)
    for top in range(-int(generator.integers(line_height)), height, line_height):
        line = "".join(generator.choice(letters, 2 + 3 * width // line_height))
        draw.text((-int(generator.integers(line_height)), top), line, fill=1, font=font)
    return np.array(canvas)


MaskKind = Callable[[float, Size, np.random.Generator], Missing]
"""From the missing fraction, in (0, 0.99], the sides in pixels and a generator to the missing pixels."""

WITH_FRACTION: dict[str, MaskKind] = {
    "random": random_pixels,
    "block": block,
    "blocks": blocks,
    "stripes": slabs,
    "slabs": slabs,
    "rows": rows,
    "columns": columns,
    "strokes": strokes,
}
WITHOUT_FRACTION: dict[str, MaskKind] = {"half": half, "text": text}
DRAWN = ("strokes", "text")
"""Kinds that are drawn on a plane: for images with two spatial axes alone."""
BLUR = "blur"
MAX_BLUR = 1.5
"""Standard deviation in pixels of the largest blur whose kernel is within the support that
:class:`~lightning_memaudit.recovery.BlindDeblurring` looks for by default."""
MODIFIERS = ("noise-<sigma>", "fill-<value>", "fill-noise", "channels")
EXAMPLES = "random-0.5, block-0.25, half, text, random-0.5+noise-0.05"


@dataclass(frozen=True)
class Degradation:
    """One way to degrade images; made by :func:`parse_degradation`.

    Attributes:
        name: As it was written.
        kind: Key of :data:`WITH_FRACTION` or :data:`WITHOUT_FRACTION`, or :data:`BLUR`.
        fraction: Share of missing pixels, in (0, 0.99]; not used by kinds without one.
        noise: Standard deviation of Gaussian noise on everything, missing or not.
        fill: Value of missing pixels; None fills them with uniform noise in [0, 1].
        per_channel: Another mask for every channel.
        blur: Standard deviation of a Gaussian blur in pixels, in (0, 1.5]; 0 for the kinds that hide pixels.

    >>> half = parse_degradation("half")
    >>> members, controls = torch.rand(2, 5, 1, 8, 8)
    >>> member_masks, control_masks = (half(images, range(5), seed=0).mask for images in (members, controls))
    >>> torch.equal(member_masks, control_masks), member_masks.mean().item()  # the i-th of each lose the same half
    (True, 0.5)
    """

    name: str
    kind: str
    fraction: float = 0.5
    noise: float = 0.0
    fill: float | None = 0.0
    per_channel: bool = False
    blur: float = 0.0

    @property
    def family(self) -> Family:
        """What the image went through: a mask, or a blur."""
        return "blur" if self.kind == BLUR else "mask"

    def __call__(self, images: Tensor, positions: Sequence[int], seed: int = 0) -> Degraded:
        """Degrade ``images``, (B, C, *spatial).

        Args:
            images: The truth, in [0, 1].
            positions: B numbers; the degradation of an image depends on its number and the seed.
            seed: Seed of the whole audit, 0 or more.

        Raises:
            ValueError: The images are smaller than the kernel of a blur, or a kind is not for as many spatial axes.
        """
        size = spatial(images)
        if self.kind in DRAWN and len(size) != 2:
            raise ValueError(
                f"pattern {self.name!r}: {self.kind} is for images with two spatial axes, these have {len(size)}; "
                "random, block, blocks, slabs, rows, columns, half and blur are for any"
            )
        if self.kind == BLUR:
            blurred = blur(images, self._kernel(images)) if len(images) else images
            return Degraded(self._with_noise(blurred, positions, seed), torch.ones_like(images[:, :1]))
        channels = images.shape[1]
        make = (WITH_FRACTION | WITHOUT_FRACTION)[self.kind]
        generators = [self._generator(seed, position, "mask") for position in positions]
        layers = channels if self.per_channel else 1
        missing = np.zeros((len(images), layers, *size), dtype=bool)
        for row, generator in enumerate(generators):
            for layer in range(layers):
                missing[row, layer] = make(self.fraction, size, generator)
        mask = torch.from_numpy(~missing).to(images)
        fill: Tensor | float = 0.0 if self.fill is None else self.fill
        if self.fill is None:
            fill = self._random_field(images, positions, seed, "fill", lambda g, shape: g.random(shape))
        return Degraded(self._with_noise(mask * images + (1 - mask) * fill, positions, seed), mask)

    def _with_noise(self, observed: Tensor, positions: Sequence[int], seed: int) -> Tensor:
        if not self.noise:
            return observed
        return observed + self.noise * self._random_field(
            observed, positions, seed, "noise", lambda g, shape: g.standard_normal(shape)
        )

    def _kernel(self, images: Tensor) -> Tensor:
        """The blur for each image, (B, 1, *[K]), of sum 1: two standard deviations to each side."""
        reach = math.ceil(2 * self.blur)
        if min(spatial(images)) < 2 * reach + 1:
            size = " x ".join(map(str, spatial(images)))
            raise ValueError(
                f"pattern {self.name!r}: its kernel of {2 * reach + 1} pixels is larger than {size} images"
            )
        line = torch.exp(-torch.arange(-reach, reach + 1, device=images.device).square() / (2 * self.blur**2))
        kernel = line
        for _ in spatial(images)[1:]:
            kernel = kernel[..., None] * line
        return (kernel / kernel.sum()).to(images).expand(len(images), 1, *kernel.shape)

    def _generator(self, seed: int, position: int, purpose: str) -> np.random.Generator:
        # crc32 and not hash(), which differs from process to process.
        return np.random.default_rng([seed, zlib.crc32(f"{self.kind}/{purpose}".encode()), position])

    def _random_field(
        self,
        images: Tensor,
        positions: Sequence[int],
        seed: int,
        purpose: str,
        draw: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]],
    ) -> Tensor:
        shape = tuple(images.shape[1:])
        fields = [draw(self._generator(seed, position, purpose), shape) for position in positions]
        return torch.from_numpy(np.stack(fields) if fields else np.zeros((0, *shape))).to(images)


def parse_degradation(name: str) -> Degradation:
    """The degradation called ``name``; the module's docstring has the grammar.

    Raises:
        ValueError: There is none; the message says which part is wrong and what to write instead.
    """
    head, *modifiers = str(name).split("+")
    kind, dash, number = head.partition("-")
    if kind in WITHOUT_FRACTION:
        if dash:
            raise ValueError(f"pattern {name!r}: {kind} takes no number; write {kind}")
        fraction = 0.5
    elif kind == BLUR:
        return _parse_blur(name, number, modifiers)
    elif kind in WITH_FRACTION:
        fraction = _number(name, number, f"the missing fraction, as in {kind}-0.5")
        if not 0 < fraction <= MAX_FRACTION:
            raise ValueError(f"pattern {name!r}: the missing fraction must be above 0 and at most {MAX_FRACTION}")
    else:
        known = [*WITH_FRACTION, *WITHOUT_FRACTION, BLUR]
        hint = f"{did_you_mean(kind, known, quoted=False)} ".lstrip()
        raise ValueError(f"pattern {name!r} is unknown: {hint}kinds are {', '.join(known)}; such as {EXAMPLES}")
    noise, fill, per_channel = 0.0, 0.0, False
    filled_with: float | None = fill
    for modifier in modifiers:
        word, _, value = modifier.partition("-")
        if modifier == "channels":
            per_channel = True
        elif modifier == "fill-noise":
            filled_with = None
        elif word == "fill":
            filled_with = _number(name, value, "the fill value, as in fill-0.5")
            if not 0 <= filled_with <= 1:
                raise ValueError(f"pattern {name!r}: the fill value must be in [0, 1]")
        elif word == "noise":
            noise = _parse_noise(name, value)
        else:
            raise ValueError(f"pattern {name!r}: {modifier!r} is no modifier; they are {', '.join(MODIFIERS)}")
    return Degradation(name, kind, fraction, noise, filled_with, per_channel)


def _parse_blur(name: str, number: str, modifiers: Sequence[str]) -> Degradation:
    deviation = _number(name, number, "the blur's standard deviation in pixels, as in blur-1")
    if not 0 < deviation <= MAX_BLUR:
        raise ValueError(f"pattern {name!r}: the blur's standard deviation must be above 0 and at most {MAX_BLUR:g}")
    noise = 0.0
    for modifier in modifiers:
        word, _, value = modifier.partition("-")
        if word != "noise":
            raise ValueError(
                f"pattern {name!r}: {modifier!r} is no modifier of a blur, which hides no pixels; only noise is"
            )
        noise = _parse_noise(name, value)
    return Degradation(name, BLUR, noise=noise, blur=deviation)


def _parse_noise(name: str, text: str) -> float:
    noise = _number(name, text, "the noise's standard deviation, as in noise-0.05")
    if not 0 < noise <= 1:
        raise ValueError(f"pattern {name!r}: the noise's standard deviation must be above 0 and at most 1")
    return noise


def _number(name: str, text: str, meaning: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"pattern {name!r}: {text!r} is not a number; give {meaning}")
    return value

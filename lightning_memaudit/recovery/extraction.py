"""What comes out of an autoencoder when nothing goes in: its fixed points, from starts that know no image.

An autoencoder that stored its training images has them among its fixed points ``x = f(x)``. Plain iteration
``x <- f(x)`` (Radhakrishnan, Belkin and Uhler 2020) finds those that attract, slowly, and of those mostly the few with
the largest basins. Three things find more for the same evaluations:

- **Anderson acceleration** (1965) after a few plain iterations: it needs no derivative, ends after some ten evaluations
  where plain iteration takes hundreds, and also reaches fixed points that repel.
- **High contrast**: a start far from the middle of the images lands in smaller basins.
- **Many independent starts**: smooth noise, and f's own outputs for smooth noise, their contrast raised.

No start depends on an image, member or other, nor on what was found before, so that the starts which end at one fixed
point are a fair sample of its basin, and those found once or twice tell how many were missed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import all_finite, map_chunks, per_image_mean, rows_per_chunk
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import resized, row_values
from lightning_memaudit.recovery.types import Autoencoder

DIVERGED = 1e4
"""Mean squared residual beyond which an orbit is given up; images are in [0, 1]."""
WAVE = 128
"""Starts between two looks at whether more would find more. A constant: results must not depend on the memory."""
IDENTITY_SHIFT = 0.25
"""f is like the identity when the median orbit from noise ends within this of its start; two starts are 2 apart."""


class Extraction(NamedTuple):
    """The fixed points of an autoencoder that N starts have found, K of them distinct.

    Attributes:
        images: (K, C, *spatial) float32 on the CPU, in the order of discovery.
        residual: (K,) mean squared ``f(x) - x``.
        basin: (K,) int64, how many starts ended there.
        end: (N,) int64, at which of the K each start ended; -1 for a start that did not settle.
        num_diverged: Starts that ran off to infinity or NaN.
        num_evaluations: Images that f was given, all together.
        identity_like: f leaves most starts nearly where they are: its fixed points are the starts, and tell nothing.
        complete: The search stopped because more starts would have found next to nothing.

    >>> stored = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def nearest(x):
    ...     return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
    >>> found = FixedPointSearch(num_starts=256)(nearest, (1, 8, 8))
    >>> len(found.images), found.basin.sum().item(), found.num_starts
    (2, 256, 256)
    """

    images: Tensor
    residual: Tensor
    basin: Tensor
    end: Tensor
    num_diverged: int
    num_evaluations: int
    identity_like: bool
    complete: bool

    @property
    def num_starts(self) -> int:
        """N, which is less than was allowed where the search stopped early."""
        return len(self.end)

    @property
    def num_settled(self) -> int:
        """Starts that ended at a fixed point."""
        return int((self.end >= 0).sum())


@dataclass(frozen=True)
class FixedPointSearch:
    """Find fixed points of f without any image: see the head of this module.

    Attributes:
        num_starts: Starts at most.
        num_plain: Plain iterations before the accelerated ones.
        num_accelerated: Accelerated iterations at most.
        window: Earlier iterations that Anderson acceleration combines.
        tolerance: Root mean square of ``f(x) - x`` below which x counts as a fixed point; its orbit ends at a hundredth
            of that.
        separation_db: Fixed points at least this alike (PSNR in dB) are one.
        contrast: Contrast of the starts is raised by a factor between 1 and this, all orders of magnitude alike.
        unseen_share: Stop when a further start would end at a new fixed point with less than this probability: by
            Good and Turing the share of starts that found what no other found, three added to their number, so that
            none of them must be left in 300 starts to go below 0.01. 0 makes every start.
        seed: Seeds the starts; the i-th start depends on it, i, and f alone.
        chunk_size: Starts at once; None chooses by memory.

    Raises:
        ValueError: An attribute is out of its range.

    >>> search = FixedPointSearch(num_starts=512)
    >>> found = search(lambda images: (images + 0.25) / 2, (1, 8, 8))  # a contraction: one fixed point, and no more
    >>> len(found.images), found.images.mean().item(), found.complete
    (1, 0.25, True)
    """

    num_starts: int = 1000
    num_plain: int = 5
    num_accelerated: int = 60
    window: int = 8
    tolerance: float = 3e-3
    separation_db: float = 40.0
    contrast: float = 8.0
    unseen_share: float = 0.01
    seed: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_counts(num_starts=self.num_starts, num_accelerated=self.num_accelerated, window=self.window)
        if self.num_plain < 0:
            raise ValueError(f"num_plain={self.num_plain}: must be 0 or more")
        for name, low in (("tolerance", 0.0), ("separation_db", 0.0), ("contrast", 1.0)):
            value = getattr(self, name)
            if not (value > low or (low and value == low)) or not math.isfinite(value):
                raise ValueError(f"{name}={value}: must be {'at least' if low else 'above'} {low:g}, and finite")
        if not 0 <= self.unseen_share < 1:
            raise ValueError(f"unseen_share={self.unseen_share}: must be at least 0 and below 1, such as 0.01")

    @torch.no_grad()
    def __call__(
        self, autoencoder: Autoencoder, image_shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> Extraction:
        """Search.

        Args:
            autoencoder: f, images (B, C, *spatial) to the same shape.
            image_shape: (C, *spatial).
            device: Where f takes its images.
        """
        f = _Counted(autoencoder)
        probe = torch.zeros(1, *image_shape, device=device)
        chunk = self.chunk_size or max(1, rows_per_chunk(probe, None) // (2 * self.window + 6))
        own = self._own_outputs(f, probe, chunk)
        points = _Distinct(probe, 10 ** (-self.separation_db / 10))
        ends: list[Tensor] = []
        shifts: list[Tensor] = []
        num_diverged, identity_like, complete = 0, False, False
        for begin in range(0, self.num_starts, WAVE):
            rows = range(begin, min(begin + WAVE, self.num_starts))
            starts = self._starts(rows, image_shape, own).to(device)
            parts = map_chunks(partial(self._settle_part, f, starts), len(starts), chunk)
            images = torch.cat([image for image, _ in parts])
            residual = torch.cat([error for _, error in parts])
            settled = residual <= self.tolerance**2
            num_diverged += int((~residual.isfinite()).sum())
            end = torch.full((len(rows),), -1, dtype=torch.int64)
            end[settled.cpu()] = points.add(images[settled], residual[settled])
            ends.append(end)
            shifts.append(_shift(starts[::2], images[::2])[settled[::2]])  # f's own outputs may be fixed points
            identity_like = bool(torch.cat(shifts).nanmedian() < IDENTITY_SHIFT)
            complete = points.unseen(rows.stop) < self.unseen_share
            if identity_like or complete:
                break
        end = torch.cat(ends)
        basin = end[end >= 0].bincount(minlength=len(points.images))
        return Extraction(
            points.images.cpu(), points.residuals.cpu(), basin, end, num_diverged, f.count, identity_like, complete
        )

    def _own_outputs(self, f: "_Counted", probe: Tensor, chunk: int, number: int = 64) -> Tensor:
        """What f makes of smooth noise, those outputs that are finite: (n, C, *spatial) on the CPU."""
        generators = [_generator(self.seed, 2**40 + row) for row in range(number)]
        noise = torch.stack([_smooth_noise(probe.shape[1:], generator) for generator in generators])
        outputs = torch.cat(map_chunks(lambda part: f(noise[part].to(probe.device)), number, chunk)).cpu()
        return outputs[all_finite(outputs)]

    def _starts(self, rows: range, shape: Sequence[int], own: Tensor) -> Tensor:
        """Smooth noise at even positions, f's own outputs at odd ones; each of a contrast of its own."""
        middle = own.mean(0)
        starts = []
        for row in rows:
            generator = _generator(self.seed, row)
            factor = self.contrast ** float(torch.rand((), generator=generator))
            if row % 2 and len(own):
                weights = torch.randn(len(own), generator=generator) / math.sqrt(len(own))
                one = own[int(torch.randint(len(own), (), generator=generator))] - middle
                mixed = torch.einsum("n,n...->...", weights, own - middle)
                share = float(torch.rand((), generator=generator))
                starts.append(middle + factor * (share * one + (1 - share) * mixed))
            else:
                starts.append(0.5 + factor * (_smooth_noise(shape, generator) - 0.5))
        return torch.stack(starts)

    def _settle_part(self, f: "_Counted", starts: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        return self._settle(f, starts[part])

    def _settle(self, f: "_Counted", start: Tensor) -> tuple[Tensor, Tensor]:
        """The best point of each orbit, (B, C, *spatial), and its mean squared residual; infinite where it diverged."""
        x = start
        for _ in range(self.num_plain):
            x = f(x)
        best, least = start.clone(), row_values(start, torch.inf)
        lost = torch.zeros_like(least, dtype=torch.bool)
        rows = torch.arange(len(start), device=start.device)
        points: list[Tensor] = []
        errors: list[Tensor] = []
        for _ in range(self.num_accelerated):
            output = f(x)
            error = (output - x).flatten(1)
            residual = error.square().mean(1)
            finite = residual <= DIVERGED  # false for NaN
            better = residual < least[rows]
            best[rows[better]], least[rows[better]] = output[better], residual[better]
            lost[rows] = ~finite
            going = finite & (residual > (self.tolerance / 100) ** 2)
            if not bool(going.all()):
                rows, x, output, error = rows[going], x[going], output[going], error[going]
                points, errors = [one[going] for one in points], [one[going] for one in errors]
                if not len(rows):
                    break
            points, errors = [*points, x.flatten(1)][-self.window - 1 :], [*errors, error][-self.window - 1 :]
            x = _anderson(points, errors).view_as(x) if len(points) > 1 else output
        least[lost & (least > self.tolerance**2)] = torch.inf
        return best, least


def _anderson(points: list[Tensor], errors: list[Tensor]) -> Tensor:
    """The next point of Anderson's iteration, (B, d), from the last ones and their errors ``f(x) - x``.

    The combination of the earlier steps that cancels most of the last error, by least squares.
    """
    moved = torch.stack([after - before for before, after in pairwise(points)], 1)
    changed = torch.stack([after - before for before, after in pairwise(errors)], 1)
    gram = (changed @ changed.mT).cpu().double()  # small, and not every device has double precision
    right = (changed @ errors[-1][:, :, None]).cpu().double()
    ridge = 1e-8 * gram.diagonal(dim1=1, dim2=2).mean(1) + 1e-20
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve_ex(gram, right).result.to(moved)  # a singular row gives NaN: it has diverged
    step: Tensor = errors[-1] - ((moved + changed).mT @ weights)[:, :, 0]
    return points[-1] + step


class _Counted:
    """f, its evaluations counted."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = InputProtected(autoencoder)
        self.count = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.count += len(images)
        return self._autoencoder(images)


class _Distinct:
    """The distinct ones of the points added so far; a point belongs to the nearest one that is near enough."""

    def __init__(self, probe: Tensor, limit: float) -> None:
        self.images, self.residuals = probe[:0], row_values(probe[:0], 0.0)
        self._limit = limit
        self._counts: list[int] = []

    def add(self, images: Tensor, residuals: Tensor) -> Tensor:
        """The number of the distinct point that each of these is, (B,)."""
        numbers = [self._number(image, error) for image, error in zip(images, residuals, strict=True)]
        return torch.tensor(numbers, dtype=torch.int64)

    def _number(self, image: Tensor, residual: Tensor) -> int:
        if len(self.images):
            distance, nearest = per_image_mean((self.images - image).square()).min(0)
            if distance <= self._limit:
                self._counts[int(nearest)] += 1
                return int(nearest)
        self.images = torch.cat([self.images, image[None]])
        self.residuals = torch.cat([self.residuals, residual[None]])
        self._counts.append(1)
        return len(self._counts) - 1

    def unseen(self, num_starts: int) -> float:
        """About the probability that a further start ends where none did, a little high."""
        return (sum(count == 1 for count in self._counts) + 3) / num_starts


def _shift(starts: Tensor, ends: Tensor) -> Tensor:
    """How far each orbit went, (B,), squared, in units of how far its start lay from the middle of all starts."""
    return per_image_mean((ends - starts).square()) / per_image_mean((starts - starts.mean(0)).square())


def _generator(seed: int, number: int) -> torch.Generator:
    """Seeded by a position, so that a start does not depend on which others are made."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def _smooth_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform noise on a grid of 2 to 8 points along every axis, interpolated: (C, *spatial), about in [0, 1]."""
    channels, *size = shape
    side = int(torch.randint(2, 9, (), generator=generator))
    coarse = torch.rand(1, channels, *[side] * len(size), generator=generator)
    return resized(coarse, size)[0]


__all__ = ["Extraction", "FixedPointSearch"]

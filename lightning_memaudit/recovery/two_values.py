"""Images of two values, such as scans of text: what is known to be one of two can be rounded.

Missing pixels often hold one of the two values themselves, as black pixels do where 0 is the fill. Then all pixels that
are seen to be observed are alike, and so is every smooth filling of the others; and an autoencoder that is shown
nothing but white may answer with images far out of its range. Rounding keeps its answers among images.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import replace_rows
from lightning_memaudit.recovery.candidates import Candidate, better, refine
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.types import Autoencoder, Problem

LEAST_VALUES = 8
"""Observed values of an image from which it is said to have but two: fewer may be alike by chance."""

FILL_WEIGHTS = (0.02, 0.1, 0.3)
"""What a pixel that holds the fill weighs in the first fillings, against 1 for one that is seen to be observed: where
many are seen the image holds their value, where none is the fill's. The less is missing, the larger the best one."""

ROUNDED_STEPS = 15
"""Evaluations of f between two looks at a rounded image: few images still change by then."""

ROUNDED_COST = ROUNDED_STEPS + 1
"""The same with the one that scores the image."""

TWO_VALUES_COST = 2 + len(FILL_WEIGHTS) * ROUNDED_COST
"""Evaluations for all fillings, with the first and the last one of a search."""

ROUNDED_MARGIN = 4.0
"""A rounded image replaces the one that it was rounded from up to so many times its score. Where f errs by 1e-3, the
score of a true image was up to 4.9 times that of what the search found near it, which had fitted f's errors."""


class TwoValues(NamedTuple):
    """The two values of each of B images, as far as its observed pixels tell.

    Attributes:
        present: (B,) whether there are but two in every channel.
        low: (B, C, *ones) the smaller one.
        high: (B, C, *ones) the other one, the same where a channel has only one.

    >>> mask = torch.tensor([1.0, 0]).repeat(1, 1, 8, 4)
    >>> text = (torch.arange(64) % 3 == 0).float().view(1, 1, 8, 8)
    >>> values = find_two_values(Problem.whole(mask * text, mask, noise=torch.zeros(1)))
    >>> values.present.item(), values.low.item(), values.high.item()
    (True, 0.0, 1.0)
    >>> white = mask * text  # as seen by those who do not know which of the black pixels are missing
    >>> [value.item() for value in find_two_values(Problem.whole(white, mask=white, noise=torch.zeros(1)))]
    [True, 0.0, 1.0]
    """

    present: Tensor
    low: Tensor
    high: Tensor

    def select(self, rows: Tensor) -> "TwoValues":
        """Only these images."""
        return TwoValues(*(field[rows] for field in self))

    def rounded(self, images: Tensor) -> Tensor:
        """The nearer of the two for every value of (B, C, *spatial)."""
        return torch.where(images > (self.low + self.high) / 2, self.high, self.low)


def find_two_values(problem: Problem) -> TwoValues:
    """Whether observed pixels hold but two values per channel, or one, and then the missing ones but one other."""
    observed = problem.observed.flatten(2)
    kept = (problem.mask > 0).expand_as(problem.observed).flatten(2)
    low, high = _range(observed, kept)
    fill_low, fill_high = _range(observed, ~kept)
    alone = (low == high) & (fill_low == fill_high)
    low = torch.where(alone, torch.minimum(low, fill_low), low)
    high = torch.where(alone, torch.maximum(high, fill_high), high)
    known = ~kept | (observed == low[..., None]) | (observed == high[..., None])
    present = known.flatten(1).all(1) & (low < high).any(1) & (kept.flatten(1).sum(1) >= LEAST_VALUES)
    present &= (low.isfinite() & high.isfinite()).all(1)  # where no pixel of a channel is observed it has no values
    present &= ((problem.mask == 0) | (problem.mask == 1)).flatten(1).all(1) & (problem.noise == 0)
    return TwoValues(present, with_axes(low, problem.observed), with_axes(high, problem.observed))


def _range(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of values (B, C, N) in some places, (B, C) each; infinite where there are none."""
    return torch.where(where, values, torch.inf).amin(2), torch.where(where, values, -torch.inf).amax(2)


def two_valued_start(problem: Problem, weight: float) -> Tensor:
    """Fill the missing pixels with what is seen nearby, or with what they hold where nothing is.

    Args:
        problem: B degraded images.
        weight: Of a missing pixel, against 1 for an observed one, see :data:`FILL_WEIGHTS`.

    Returns:
        (B, C, *spatial).
    """
    return interpolate(problem.observed, problem.mask + weight * (1 - problem.mask))


def iterate_rounded(autoencoder: Autoencoder, problem: Problem, values: TwoValues, start: Tensor) -> Candidate:
    """Put the data into a rounded image and apply f, again and again: the rounded image in the end, scored.

    x <- round(f(h y + (1 - h) x))

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        problem: y and h of B images that hold but two values each.
        values: The two.
        start: First image, (B, C, *spatial), any values.
    """
    mask = problem.mask.expand_as(problem.observed)
    image = values.rounded(start)
    for _ in range(ROUNDED_STEPS):
        image = values.rounded(autoencoder(torch.lerp(image, problem.observed, mask)))
    return refine(autoencoder, problem.observed, problem.mask, image, problem.noise)


class Rounding(NamedTuple):
    """What a search does besides for images of two values, and nothing where there are none.

    Attributes:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        problem: B degraded images.
        values: Their two values; None where they have more.
        good_error: Images whose expected error is below it need no more.

    >>> mask = torch.tensor([1.0, 0]).repeat(1, 1, 8, 4)
    >>> problem = Problem.whole(mask, mask, noise=torch.zeros(1))
    >>> Rounding(lambda x: x, problem, None, good_error=2e-4).reserve
    0
    """

    autoencoder: Autoencoder
    problem: Problem
    values: TwoValues | None
    good_error: float

    @property
    def reserve(self) -> int:
        """Evaluations per image that :meth:`finish` takes."""
        return 0 if self.values is None else 1

    @property
    def least_error(self) -> float:
        """Images whose expected error is below it at the beginning are not searched."""
        return 0.0 if self.values is None else self.good_error

    def begin(self, best: Candidate, left: Tensor) -> tuple[Candidate, Tensor]:
        """The best candidates after iterations from all fillings, and the evaluations spent on each.

        Args:
            best: Candidates so far, of B images.
            left: Evaluations at most, (B,) int64.
        """
        spent = torch.zeros_like(best.score, dtype=torch.int64)
        for weight in FILL_WEIGHTS if self.values is not None else ():
            best, used = self.improve(None, two_valued_start(self.problem, weight), best, left - spent)
            spent += used
        return best, spent

    def improve(self, chosen: Tensor | None, start: Tensor, best: Candidate, left: Tensor) -> tuple[Candidate, Tensor]:
        """The best candidates of n images after iterations of those that are not good yet, and the evaluations spent.

        Args:
            chosen: Which of the B images these are, (n,); None for all.
            start: (n, C, *spatial), where the iterations begin.
            best: Their candidates so far.
            left: Evaluations that are left, (n,).
        """
        spent = torch.zeros_like(left)
        if self.values is None:
            return best, spent
        rows = ((best.expected_error >= self.good_error) & (left >= ROUNDED_COST)).nonzero().squeeze(1)
        if not len(rows):
            return best, spent
        places = rows if chosen is None else chosen[rows]
        candidate = iterate_rounded(
            self.autoencoder, self.problem.select(places), self.values.select(places), start[rows]
        )
        spent[rows] = ROUNDED_COST
        return replace_rows(best, rows, better(best.select(rows), candidate)), spent

    def finish(self, best: Candidate) -> tuple[Candidate, Tensor]:
        """Round the best candidates, where that makes them little worse; one evaluation of f each."""
        spent = torch.zeros_like(best.score, dtype=torch.int64)
        if self.values is None:
            return best, spent
        rows = (best.score > 0).nonzero().squeeze(1)
        if not len(rows):
            return best, spent
        found, problem = best.select(rows), self.problem.select(rows)
        image = self.values.select(rows).rounded(found.image)
        candidate = refine(self.autoencoder, problem.observed, problem.mask, image, problem.noise)
        little = candidate.score < ROUNDED_MARGIN * found.score
        spent[rows] = 1
        return replace_rows(best, rows[little], candidate.select(little)), spent

"""How an observation may be read: which of its values stand in missing pixels, and what is spent on each reading."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import replace_rows
from lightning_memaudit.recovery.fills import ConstantFill, channels_left_whole, find_constant_fill, find_other_fill
from lightning_memaudit.recovery.further_readings import block_over_two_values, lying_together
from lightning_memaudit.recovery.many_values import many_values
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.trimmed import cost, trials_for, trials_from_candidate
from lightning_memaudit.recovery.two_values import ROUNDED_COST, TWO_VALUES_COST, find_two_values
from lightning_memaudit.recovery.types import Problem

KEPT_SHARE = 6
"""Evaluations are kept for trimmed iterations where there are so many times as many: random starts find less with them.
With 400, where there are no gradients, the third round would lack them."""

EVALUATIONS_STEP = 100
"""What is left to an image for a further reading is rounded down to a multiple of this: those with as much are searched
together, and what is found for one does not depend on the others."""


class Readings(NamedTuple):
    """The first two readings of B observations.

    Attributes:
        fill: The first: the most frequent value stands in missing pixels.
        other: The second: another value does, or many do.
        has_other: (B,) bool, whether there is a second one, and enough to try it.
        has_block: (B,) bool, whether a further one, a block over two values, is worth its share.
        has_many: (B,) bool, whether the second one is that many values stand in missing pixels.
        has_two_values: (B,) bool, whether the image has but two values, so that the second is seldom right.
        has_exact_other: (B,) bool, whether there is a second one, of values without noise, and the image has more.
        first_share: (B,) int64, evaluations for the first one.
        reserve: Evaluations for a short search.
        budget: Evaluations for all of them.

    >>> grey, rest = torch.full((1, 1, 8, 4), 0.5), torch.linspace(0, 1, 32).view(1, 1, 8, 4)
    >>> readings = read(torch.cat([grey, rest], 3), noise=None, budget=400, enough=100)
    >>> readings.fill.present.item(), readings.has_other.item(), readings.first_share.item()
    (True, False, 400)
    """

    fill: ConstantFill
    other: ConstantFill
    has_other: Tensor
    has_block: Tensor
    has_many: Tensor
    has_two_values: Tensor
    has_exact_other: Tensor
    first_share: Tensor
    reserve: int
    budget: int

    def second_share(self, spent: Tensor) -> Tensor:
        """Evaluations (B,) for the second reading, after so many (B,) for the first."""
        left = in_steps(self.budget - spent - self.reserve) + self.reserve
        of_two_values = torch.where(self.has_block, self.reserve, left)
        return torch.where(self.has_two_values, of_two_values, self.first_share)


def in_steps(left: Tensor) -> Tensor:
    """What is left of the evaluations, (B,), rounded down, see :data:`EVALUATIONS_STEP`."""
    return left // EVALUATIONS_STEP * EVALUATIONS_STEP


def read(observed: Tensor, noise: float | None, budget: int, enough: int) -> Readings:
    """Read observations in two ways; several readings share the evaluations, if that is enough for a round of each.

    Args:
        observed: y, (B, C, *spatial).
        noise: Standard deviation; None if unknown.
        budget: Evaluations per image.
        enough: Evaluations without which a search is not worth beginning.
    """
    fill = find_constant_fill(observed, noise)
    other = find_other_fill(observed, fill, noise)
    # Of a second value that lies together in a block and not elsewhere, the block is the likelier reading.
    solid, blocks = lying_together(observed, other, noise)
    other = other._replace(mask=torch.where(with_axes(solid, observed), blocks.mask, other.mask))
    many = torch.zeros_like(other.present)
    if not noise:
        # Where many values repeat, neither of two hides enough; the second one comes later, see ``second_value``.
        many, all_values = many_values(observed, fill, other)
        other = replace_rows(other, many.nonzero().squeeze(1), all_values.select(many))
    # Where nothing is told from channels that are whole, the content of the image tells.
    both = (other.present | channels_left_whole(fill)) & (budget // 2 >= enough)
    many &= both
    block = block_over_two_values(observed, fill, noise)[0] & (budget // 3 >= enough)
    # In images of two values the other one is nearly always no fill: it has little, or what the first one leaves.
    reserve = enough + TWO_VALUES_COST + ROUNDED_COST
    two = find_two_values(Problem.whole(observed, fill.mask, fill.noise)).present
    two &= both & ~solid & (budget > 2 * reserve)
    # Of what the last round of random starts would take, a part is kept for what comes after it.
    trimmed = sum(cost(trials) for trials in trials_for(observed.shape[1], None))
    kept = (trimmed if budget >= KEPT_SHARE * trimmed else 0) * (~fill.present | many).long()
    exact_other = both & ~two & (other.noise == 0)
    kept += cost(trials_from_candidate(observed.shape[1])) * exact_other.long()
    whole = budget - kept * (not noise)
    share = (whole - reserve * two.long()) // (1 + (both & ~two).long() + block.long())
    return Readings(fill, other, both, block, many, two, exact_other, share, reserve, budget)

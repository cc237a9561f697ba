"""Minimize many functions at once by gradients: L-BFGS in which every row of a batch goes its own way."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 8
"""Pairs of steps and changes of the gradient that L-BFGS remembers."""

FIRST_STEP = 0.02
"""Largest change of a value in the first step, of images in [0, 1]; nothing is known of the curvature there."""

LARGEST_STEP = 0.5
"""Largest change of a value in any step."""

WINDOW = 5
"""Gradients between two looks at how far a row has come."""

ValueAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From (R, ...) and the numbers (R,) of these rows to the values (R,) and their gradients (R, ...)."""


class Minimum(NamedTuple):
    """Where the rows have arrived.

    Attributes:
        point: (B, ...), the start where no value was lower.
        value: (B,), infinite where the start has none.
        num_gradients: (B,) int64.

    >>> center = torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
    >>> def bowl(points, rows):  # one for each row
    ...     return (points - center[rows]).square().sum(1), 2 * (points - center[rows])
    >>> found = minimize(bowl, torch.zeros(2, 2), max_gradients=torch.tensor([40, 40]))
    >>> torch.allclose(found.point, center, atol=1e-4), bool((found.num_gradients < 40).all())
    (True, True)
    """

    point: Tensor
    value: Tensor
    num_gradients: Tensor


def minimize(evaluate: ValueAndGradient, start: Tensor, max_gradients: Tensor, improvement: float = 0.8) -> Minimum:
    """L-BFGS (Liu & Nocedal 1989) with a backtracking line search, each row independent of the others.

    A step is taken if it lowers the row's value enough (Armijo 1966), else it is shortened. A row leaves the batch
    once its gradients are spent, or if after :data:`WINDOW` gradients more its value is still above ``improvement``
    times what it was, or is not finite at the start.

    Args:
        evaluate: Values, 0 or more, and gradients; tensors of their own in every call.
        start: (B, ...).
        max_gradients: (B,), at most so many for each row; a row with none stays where it is.
        improvement: In (0, 1).
    """
    shape = start.shape[1:]
    result = start.flatten(1).clone()
    values = torch.full_like(result[:, 0], torch.inf)
    counts = torch.zeros_like(max_gradients)
    rows = (max_gradients > 0).nonzero().squeeze(1)
    if not len(rows):
        return Minimum(start.clone(), values, counts)

    def at(points: Tensor) -> _Place:
        value, gradient = evaluate(points.view(-1, *shape), rows)
        gradient = gradient.flatten(1)
        steepest = gradient.abs().amax(1)
        finite = value.isfinite() & steepest.isfinite()
        if bool(finite.all()):
            return _Place(points, value, gradient, steepest)
        value, steepest = torch.where(finite, value, torch.inf), torch.where(finite, steepest, 0)
        return _Place(points, value, torch.where(finite[:, None], gradient, 0), steepest)

    place = at(result[rows])
    counts[rows] = 1
    looked = place.value
    direction = -place.gradient
    length = _first_length(place)
    pairs: list[_Pair] = []
    number = 1
    while True:
        going = place.value.isfinite() & (number < max_gradients[rows]) & (place.steepest > 0)
        if (number - 1) % WINDOW == 0 and number > 1:
            going &= place.value <= improvement * looked
            looked = place.value
        if not bool(going.all()):
            result[rows], values[rows] = place.point, place.value
            rows = rows[going]
            if not len(rows):
                return Minimum(result.view(-1, *shape), values, counts)
            place = _Place(*(field[going] for field in place))
            looked, direction, length = looked[going], direction[going], length[going]
            pairs = [_Pair(*(field[going] for field in pair)) for pair in pairs]
        slope = _dot(place.gradient, direction)
        step = length[:, None] * direction
        tried = at(place.point + step)
        number += 1
        counts[rows] = number
        taken = tried.value <= place.value + 1e-4 * length * slope
        take, all_taken = taken[:, None], bool(taken.all())
        change = tried.gradient - place.gradient
        pair = (step, change) if all_taken else (torch.where(take, step, 0), torch.where(take, change, 0))
        pairs = [*pairs[1 - MEMORY :], _Pair.of(*pair)]
        # The minimum of the parabola through what is known, within bounds.
        parabola = -slope * length.square() / (2 * (tried.value - place.value - length * slope))
        shorter = parabola.nan_to_num(0, 0, 0).clamp(0.1 * length, 0.5 * length)
        place = tried if all_taken else place.where(taken, tried)
        newton, known = _newton_direction(pairs, place.gradient)
        descends = known & (_dot(newton, place.gradient) < 0)
        fresh = torch.where(descends[:, None], newton, -place.gradient)
        fresh_length = torch.where(descends, 1.0, _first_length(place))
        direction = fresh if all_taken else torch.where(take, fresh, direction)
        largest = direction.abs().amax(1).clamp_min(1e-20)
        length = torch.minimum(torch.where(taken, fresh_length, shorter), LARGEST_STEP / largest)


class _Place(NamedTuple):
    """Points (R, N), the values (R,) and gradients (R, N) there, and the gradients' largest entries, (R,)."""

    point: Tensor
    value: Tensor
    gradient: Tensor
    steepest: Tensor

    def where(self, taken: Tensor, other: "_Place") -> "_Place":
        """The other place in the rows that are taken, (R,)."""
        take = taken[:, None]
        return _Place(
            torch.where(take, other.point, self.point),
            torch.where(taken, other.value, self.value),
            torch.where(take, other.gradient, self.gradient),
            torch.where(taken, other.steepest, self.steepest),
        )


class _Pair(NamedTuple):
    """A step s and the change y of the gradient, (R, N) each, and what the pair says of the curvature, (R,) each.

    Attributes:
        step: s.
        change: y.
        weight: ``1 / (s·y)``, 0 where the pair says nothing.
        scale: ``(s·y) / (y·y)``, 0 likewise.
    """

    step: Tensor
    change: Tensor
    weight: Tensor
    scale: Tensor

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> "_Pair":
        curvature, square = _dot(step, change), _dot(change, change)
        convex = curvature > 1e-10 * square
        weight = torch.where(convex, 1 / curvature.clamp_min(1e-30), 0)
        return cls(step, change, weight, torch.where(weight > 0, 1 / (weight * square).clamp_min(1e-30), 0))


def _newton_direction(pairs: list[_Pair], gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the inverse Hessian times the gradient, (R, N), as far as the pairs tell; whether any does, (R,)."""
    direction = -gradient
    shares: list[Tensor] = []
    scale = torch.zeros_like(gradient[:, 0])
    for pair in reversed(pairs):
        share = pair.weight * _dot(pair.step, direction)
        shares.append(share)
        direction.addcmul_(pair.change, share[:, None], value=-1)
        scale = torch.where(scale == 0, pair.scale, scale)
    direction *= scale[:, None]
    for pair, share in zip(pairs, reversed(shares), strict=True):
        direction.addcmul_(pair.step, (share - pair.weight * _dot(pair.change, direction))[:, None])
    return direction, scale > 0


def _first_length(place: _Place) -> Tensor:
    return FIRST_STEP / place.steepest.clamp_min(1e-20)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1)

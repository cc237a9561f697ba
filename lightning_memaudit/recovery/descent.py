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

    def at(points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(points.view(-1, *shape), rows)
        gradient = gradient.flatten(1)
        finite = value.isfinite() & gradient.isfinite().all(1)
        if bool(finite.all()):
            return value, gradient
        return torch.where(finite, value, torch.inf), torch.where(finite[:, None], gradient, 0)

    point = result[rows]
    value, gradient = at(point)
    counts[rows] = 1
    looked = value
    direction = -gradient
    length = _first_length(gradient)
    pairs: list[_Pair] = []
    number = 1
    while True:
        going = value.isfinite() & (number < max_gradients[rows]) & gradient.any(1)
        if (number - 1) % WINDOW == 0 and number > 1:
            going &= value <= improvement * looked
            looked = value
        if not bool(going.all()):
            result[rows], values[rows] = point, value
            rows = rows[going]
            if not len(rows):
                return Minimum(result.view(-1, *shape), values, counts)
            point, value, gradient, looked = point[going], value[going], gradient[going], looked[going]
            direction, length = direction[going], length[going]
            pairs = [_Pair(*(field[going] for field in pair)) for pair in pairs]
        slope = _dot(gradient, direction)
        step = length[:, None] * direction
        tried_value, tried_gradient = at(point + step)
        number += 1
        counts[rows] = number
        taken = tried_value <= value + 1e-4 * length * slope
        take, all_taken = taken[:, None], bool(taken.all())
        change = tried_gradient - gradient
        pair = (step, change) if all_taken else (torch.where(take, step, 0), torch.where(take, change, 0))
        pairs = [*pairs[1 - MEMORY :], _Pair.of(*pair)]
        # The minimum of the parabola through what is known, within bounds.
        parabola = -slope * length.square() / (2 * (tried_value - value - length * slope))
        shorter = parabola.nan_to_num(0, 0, 0).clamp(0.1 * length, 0.5 * length)
        if all_taken:
            point, value, gradient = point + step, tried_value, tried_gradient
        else:
            point = torch.where(take, point + step, point)
            value = torch.where(taken, tried_value, value)
            gradient = torch.where(take, tried_gradient, gradient)
        newton, known = _newton_direction(pairs, gradient)
        descends = known & (_dot(newton, gradient) < 0)
        fresh = torch.where(descends[:, None], newton, -gradient)
        fresh_length = torch.where(descends, 1.0, _first_length(gradient))
        direction = torch.where(take, fresh, direction)
        largest = direction.abs().amax(1).clamp_min(1e-20)
        length = torch.minimum(torch.where(taken, fresh_length, shorter), LARGEST_STEP / largest)


class _Pair(NamedTuple):
    """A step s and the change y of the gradient, (R, N) each, and 1 / (s·y), (R,): 0 where the pair says nothing."""

    step: Tensor
    change: Tensor
    weight: Tensor

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> "_Pair":
        curvature = _dot(step, change)
        convex = curvature > 1e-10 * change.square().sum(1)
        return cls(step, change, torch.where(convex, 1 / curvature.clamp_min(1e-30), 0))


def _newton_direction(pairs: list[_Pair], gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the inverse Hessian times the gradient, (R, N), as far as the pairs tell; whether any does, (R,)."""
    direction = gradient
    shares: list[Tensor] = []
    scale = torch.zeros_like(gradient[:, 0])
    for step, change, weight in reversed(pairs):
        share = weight * _dot(step, direction)
        shares.append(share)
        direction = direction - share[:, None] * change
        latest = (scale == 0) & (weight > 0)
        scale = torch.where(latest, 1 / (weight * change.square().sum(1)).clamp_min(1e-30), scale)
    direction = scale[:, None] * direction
    for (step, change, weight), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - weight * _dot(change, direction))[:, None] * step
    return -direction, scale > 0


def _first_length(gradient: Tensor) -> Tensor:
    return FIRST_STEP / gradient.abs().amax(1).clamp_min(1e-20)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1)

"""Which attempts come no closer to any image, so that their iteration may end."""

import torch
from torch import Tensor

STILL_FALLING = 0.9
"""Of two stretches of iterations: where the least change in the second is below this share of that in the first, the
attempt still comes closer. Where it is not it moves on, hardly ever to anything better: of 1,237 recoveries of nine
autoencoders behind six patterns 7 are lost by stopping, that iteration 200 holds, and 3 are kept that it has lost."""

LEAST_WANDERING = 1e-3
"""Root mean square change per iteration below which an attempt is on its way to an image, however slowly."""


class Wandering:
    """Rows whose least change in so many iterations is hardly below the least in as many before.

    Where f rounds its results to half precision, an attempt that has arrived moves on by that rounding: one whose
    change falls no more has arrived, or cannot be seen to go on, however small the change.

    Args:
        window: Iterations; 0 finds none.
        check_every: Iterations between two looks.

    >>> wandering, output = Wandering(window=2, check_every=1), torch.rand(2, 1, 4, 4)
    >>> for change in (0.1, 0.05, 0.025, 0.012):  # the first row stays at 0.1, the second falls
    ...     found = wandering.found(torch.tensor([0.1, change]) ** 2, output)
    >>> found
    tensor([ True, False])
    """

    def __init__(self, window: int, check_every: int) -> None:
        self._checks = -(-window // check_every)
        self._changes: list[Tensor] = []
        self._least: float | None = None

    def found(self, change: Tensor, output: Tensor) -> Tensor:
        """Which rows wander, (R,) bool.

        Args:
            change: Mean square change of every row since the last iteration, (R,).
            output: Of f in this iteration, (R, C, *spatial).
        """
        self._changes = [*self._changes, change][-2 * self._checks :] if self._checks else []
        if not self._checks or len(self._changes) < 2 * self._checks:
            return torch.zeros_like(change, dtype=torch.bool)
        if self._least is None:
            self._least = 0.0 if in_half_precision(output) else LEAST_WANDERING
        before, now = (
            torch.stack(part).amin(0) for part in (self._changes[: self._checks], self._changes[self._checks :])
        )
        return (now > STILL_FALLING**2 * before) & (change > self._least**2)

    def keep(self, rows: Tensor) -> None:
        """Forget all but these rows, a boolean vector."""
        self._changes = [change[rows] for change in self._changes]


def in_half_precision(values: Tensor) -> bool:
    """Whether a half-precision type holds all the finite values as they are, as after a network in mixed precision.

    >>> values = torch.rand(100)
    >>> [in_half_precision(some) for some in (values, values.bfloat16().float(), values.half().float())]
    [False, True, True]
    """
    finite = values.isfinite()
    return any(bool(((values.to(kind).to(values.dtype) == values) | ~finite).all()) for kind in _HALVES)


_HALVES = (torch.bfloat16, torch.float16)

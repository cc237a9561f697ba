"""Which attempts come no closer to any image, so that their iteration may end."""

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import per_image_mean

STILL_FALLING = 0.9
"""Of two stretches of iterations: where the least change in the second is below this share of that in the first, the
attempt still comes closer. Where it is not it moves on, hardly ever to anything better: of 1,237 recoveries of nine
autoencoders behind six patterns 7 are lost by stopping, that iteration 200 holds, and 3 are kept that it has lost."""

LEAST_WANDERING = 1e-3
"""Root mean square change per iteration below which an attempt is on its way to an image, however slowly."""

EVEN_PACE, STILL_GROWING = 0.5, 2.0
"""An image of plain iterations that moves at an even pace is, after a window of iterations, as many changes away from
where it was as the window has iterations; one that leaves a repeller moves faster with every step. So one wanders that
is no farther than half of these away, and whose least change has not doubled. Under a U-Net whose images come to
nothing most are 3 to 13 of 25 changes away."""

TREMBLE = 2.0
"""Root mean square change of an image that stays where it is, at most, in units of what half precision rounds: measured
are a quarter of that unit for plain iterations and half of it for the paper's, of a fully connected network."""

STRAY = 4.0
"""An image that stays where it is is, after a window of iterations, at most so many changes away from where it was. One
that moves on at a constant pace is as many away as the window has iterations."""

LOOKED_AT = 512
"""Values of an image that tell whether f rounds to half precision; one in thousands looks so by chance."""


class Wandering:
    """Rows whose least change in so many iterations is hardly below the least in as many before.

    They wander if they move by :data:`LEAST_WANDERING` or more. Where f rounds its results to half precision, those
    have arrived that move by no more than that rounding and stay where they are. Every row is judged by itself.

    Args:
        window: Iterations; 0 finds none.
        check_every: Iterations between two looks.
        even_pace: Whether an image may be on its way at an even pace, or from a repeller: it does not wander then.

    >>> wandering, image = Wandering(window=2, check_every=1), torch.rand(2, 1, 4, 4)
    >>> for change in (0.1, 0.05, 0.025, 0.012):  # the first row stays at 0.1, the second falls
    ...     wanders, arrived = wandering.found(torch.tensor([0.1, change]) ** 2, image, image)
    >>> wanders, arrived
    (tensor([ True, False]), tensor([False, False]))
    """

    def __init__(self, window: int, check_every: int, even_pace: bool = False) -> None:
        self._checks = -(-window // check_every)
        self._way = self._checks * check_every
        self._even_pace = even_pace
        self._looks = 0
        self._changes: list[Tensor] = []
        self._rounding: Tensor | None = None
        self._before: Tensor | None = None

    def found(self, change: Tensor, image: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows wander, and which have arrived as far as half precision lets them, (R,) bool each.

        Args:
            change: Mean square change of every row since the last iteration, (R,).
            image: Of this iteration, (R, C, *spatial).
            output: Of f in it, likewise.
        """
        none = torch.zeros_like(change, dtype=torch.bool)
        if not self._checks:
            return none, none
        self._looks += 1
        self._changes = [*self._changes, change][-2 * self._checks :]
        if self._looks == 1:
            rounding = rounding_of(output)
            self._rounding = rounding if bool(rounding.any()) else None
        trembles, strolls = none, none
        if (self._rounding is not None or self._even_pace) and self._looks % self._checks == 0:
            trembles, strolls = self._in_place(change, image)
        if len(self._changes) < 2 * self._checks:
            return none, none
        before, now = (
            torch.stack(part).amin(0) for part in (self._changes[: self._checks], self._changes[self._checks :])
        )
        stuck = now > STILL_FALLING**2 * before
        wanders = stuck & (change > LEAST_WANDERING**2)
        if self._even_pace:
            wanders &= strolls & (now < STILL_GROWING**2 * before)
        return wanders, stuck & trembles

    def _in_place(self, change: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """By where they were a window of iterations ago: which rows only tremble and stay, and which get nowhere."""
        before, self._before = self._before, image.clone()
        none = torch.zeros_like(change, dtype=torch.bool)
        if before is None:
            return none, none
        way = per_image_mean((image - before).square())
        strolls = way <= (EVEN_PACE * self._way) ** 2 * change
        if self._rounding is None:
            return none, strolls
        tremble = (TREMBLE * self._rounding).square() * per_image_mean(image.square())
        return (change <= tremble) & (way <= STRAY**2 * change), strolls

    def keep(self, rows: Tensor) -> None:
        """Forget all but these rows, a boolean vector."""
        self._changes = [change[rows] for change in self._changes]
        self._rounding = None if self._rounding is None else self._rounding[rows]
        self._before = None if self._before is None else self._before[rows]


def rounding_of(values: Tensor) -> Tensor:
    """What the coarsest type rounds, relative to a value, that holds the finite values of a row as they are.

    Args:
        values: (R, ...); :data:`LOOKED_AT` of each row are looked at, evenly spread.

    Returns:
        (R,): the machine epsilon of bfloat16 or float16; 0 where neither holds them.

    >>> values = torch.rand(1, 100)
    >>> [rounding_of(some).item() for some in (values, values.bfloat16().float(), values.half().float())]
    [0.0, 0.0078125, 0.0009765625]
    """
    values = values.flatten(1)
    values = values[:, :: max(1, values.shape[1] // LOOKED_AT)]
    rounding = torch.zeros_like(values[:, 0])
    for kind in (torch.float16, torch.bfloat16):
        held = (values.to(kind).to(values.dtype) == values) | ~values.isfinite()
        rounding = torch.where(held.all(1), torch.finfo(kind).eps, rounding)
    return rounding

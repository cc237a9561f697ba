"""Whether what reaches a model is a function of the images' values, as after a logarithm, a threshold or rounding.

Such a preparation is the same for all images, whatever it makes of the neighbors of a pixel: its difference from the
images may be as rough as noise, or as smooth as a change of colors. But every value has one value that it becomes,
which noise, flips, crops, masks and a brightness of every image's own do not give it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WORDS = "put through a curve, such as a logarithm, a power, a threshold or rounding"

LEAST_VALUES = 32
"""Of a channel, below which a curve may be chance."""

MOST_STRAY = 1e-3
"""Share of values that may be off the curve: two that are the same but for rounding, on both sides of a threshold."""

LEAST_REPEATED = 0.5
"""Share of values that must be there more than once, to tell a curve that rises and falls."""

ROUNDING = 1e-3
"""Of the range of what the model gets."""

LEAST_CHANGE = 0.02
"""Of the images' standard deviation: rounding to 8 bits, which no audit notices, changes less."""


class Curve(NamedTuple):
    """What the values of images became.

    Attributes:
        before: (C, N) values as the audit would give them to the model.
        after: What the model got instead.

    >>> values = torch.linspace(0, 1, 16)[None]
    >>> Curve(values, values**2).goes_on(Curve(values / 2, (values / 2) ** 2)), Curve(values, values**2).goes_on(
    ...     Curve(values, values**3)
    ... )
    (True, False)
    """

    before: Tensor
    after: Tensor

    def goes_on(self, other: "Curve") -> bool:
        """Whether the values of another batch became the same: of what is drawn for a whole batch, they do not."""
        if len(self.before) != len(other.before):
            return False
        return _is_function(torch.cat([self.before, other.before], 1), torch.cat([self.after, other.after], 1))


def curve_between(wanted: Tensor, seen: Tensor) -> Curve | None:
    """The curve that the values of every channel went through; None if there is none, or it changes next to nothing.

    Args:
        wanted: (B, C, *spatial) as an audit gives them to the model.
        seen: What the model got.

    >>> images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> curve_between(images, (images > 0.5).float()) is None, curve_between(images, images.flip(3)) is None
    (False, True)
    """
    if wanted.shape != seen.shape or wanted.ndim < 3:
        return None
    before, after = (one.detach().float().cpu().transpose(0, 1).flatten(1) for one in (wanted, seen))
    if before.shape[1] < LEAST_VALUES or not bool(before.isfinite().all() and after.isfinite().all()):
        return None
    deviation = before.std(1)
    change = (before - after).square().mean(1).sqrt()
    if not bool((deviation > 0).all()) or not bool((change > LEAST_CHANGE * deviation).any()):
        return None
    return Curve(before, after) if bool(after.std() > 0) and _is_function(before, after) else None


def _is_function(before: Tensor, after: Tensor) -> bool:
    """Whether in every channel each value became one."""
    return all(
        any(_off_rising(x, one * y) <= MOST_STRAY for one in (1, -1)) or _is_of_each_value(x, y)
        for x, y in zip(before, after, strict=True)
    )


def _off_rising(x: Tensor, y: Tensor) -> float:
    """Share of the values that are less than that of a smaller, or the same, value has become."""
    order = y.argsort(descending=True)
    order = order[x[order].argsort(stable=True)]
    y = y[order]
    return float((y.cummax(0).values - y > ROUNDING * (y.max() - y.min())).float().mean())


def _is_of_each_value(x: Tensor, y: Tensor) -> bool:
    """Whether values that are the same became the same, where most are there more than once, as of bytes."""
    values, which, counts = x.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    least = torch.full_like(values, torch.inf).scatter_reduce(0, which, y, "amin")
    most = torch.full_like(values, -torch.inf).scatter_reduce(0, which, y, "amax")
    repeated = counts > 1
    stray = repeated & (most - least > ROUNDING * (y.max() - y.min()))
    in_all = float(counts.sum())
    return (
        float(counts[repeated].sum()) / in_all >= LEAST_REPEATED and float(counts[stray].sum()) / in_all <= MOST_STRAY
    )

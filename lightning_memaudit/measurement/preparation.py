"""Were members and controls prepared alike? A test that looks at every place of the images, whatever was done to them.

What an image shows is anywhere; a repeated border, a faint mark or lines from a scanner are where they are in every
image of a group. The columns of :mod:`~lightning_memaudit.measurement.appearance` sum an image up, and miss them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.measurement.near_duplicates import Sliceable
from lightning_memaudit.recovery.spatial import axes
from lightning_memaudit.results.comparability import APPEARANCE, MAX_FALSE_ALARM, PREPARED_OTHERWISE
from lightning_memaudit.results.own_output import Doubt

MOST_COMPARED = 64
"""Of each group at most so many images are compared, the first ones: as many as an audit saves."""

_VALUES_COMPARED = 2**24
"""Of large images fewer: so many values of a group at most."""
_SMALL = 0.03
"""Differences of neighbours beyond this are edges; how large an edge is says little."""
_CHANCE = MAX_FALSE_ALARM / (len(APPEARANCE) + 3)
"""As for each of the quantities that are compared, of which this is one more."""
_ORDERS, _ORDERS_AT_ONCE = 99_999, 5_000


@torch.no_grad()
def prepared_otherwise(
    members: Sliceable, controls: Sliceable, repeated: Mapping[str, Sequence[int]] | None = None
) -> bool:
    """Whether neighbouring pixels differ otherwise, at some places, in controls than in members.

    A kernel two-sample test (Gretton et al. 2012; Harchaoui, Bach & Moulines 2008). Of every pair of neighbours the
    difference d counts by its sign, d / (|d| + c), and by its size, |d| / (|d| + c); the kernels of both are flattened
    by a ridge, so that no single kind of contrast covers the rest. Exact whatever the images are: if both groups are
    of one source, any other division of the same images is as likely, and so many divisions are tried.

    Args:
        members: Images (n, C, *spatial) in [0, 1].
        controls: Images (m, C, *spatial).
        repeated: Positions by group of images that do not count.

    >>> images = 0.3 * torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> marked = images[30:] + 0.1 * (torch.arange(12) % 2)
    >>> prepared_otherwise(images[:30], images[30:]), prepared_otherwise(images[:30], marked)
    (False, True)
    """
    left_out = repeated or {}
    groups = [_first(members, left_out.get("members", ())), _first(controls, left_out.get("controls", ()))]
    if min(map(len, groups)) < 2 or groups[0].shape[1:] != groups[1].shape[1:]:
        return False  # images of different sizes share no places
    return _is_rare(_kernel(torch.cat(groups)), len(groups[0]))


def doubts_about_preparation(images: Sequence[Sliceable], repeated: Mapping[str, Sequence[int]]) -> list[Doubt]:
    """The same as a doubt, of members and, if there are any, controls.

    >>> doubts_about_preparation([torch.rand(4, 1, 8, 8)], {})
    []
    """
    if len(images) < 2 or not prepared_otherwise(images[0], images[1], repeated):
        return []
    text = (
        "at some places of the images neighbouring pixels differ otherwise in controls than in members (kernel "
        f"two-sample test, p < {_CHANCE:.1g})"
    )
    return [Doubt(PREPARED_OTHERWISE, text)]


def _first(images: Sliceable, left_out: Sequence[int]) -> Tensor:
    """The first images that count, on the CPU."""
    if not len(images):
        return torch.zeros(0)
    most = max(2, min(MOST_COMPARED, _VALUES_COMPARED // max(1, images[slice(0, 1)].numel())))
    first = images[slice(0, most)]
    return first[[row for row in range(len(first)) if row not in set(left_out)]].float().cpu()


def _kernel(images: Tensor) -> NDArray[np.float64]:
    """How alike the differences of neighbours are, place by place, of any two of images (N, C, *spatial): (N, N)."""
    signed, size = (np.zeros((len(images), len(images))) for _ in range(2))
    for axis in axes(images):
        for channel in range(images.shape[1]):  # one at a time: of large images all together take much memory
            steps = images[:, channel : channel + 1].diff(dim=axis).flatten(1)
            signed += _products(steps / (steps.abs() + _SMALL))
            size += _products(steps.abs() / (steps.abs() + _SMALL))
    return _flattened(signed) + _flattened(size)


def _products(features: Tensor) -> NDArray[np.float64]:
    centered = features - features.mean(0)
    products: NDArray[np.float64] = (centered @ centered.T).double().numpy()
    return products


def _flattened(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """With eigenvalues e / (e + their mean)."""
    values, vectors = np.linalg.eigh(kernel)
    values = values.clip(0)
    ridge = values.mean()
    return (vectors * (values / (values + ridge))) @ vectors.T if ridge > 0 else kernel


def _is_rare(kernel: NDArray[np.float64], num_members: int) -> bool:
    """Whether the means of the two groups are farther apart than those of almost all divisions of the same images."""
    number = len(kernel)
    weights = np.r_[np.full(num_members, 1 / num_members), np.full(number - num_members, -1 / (number - num_members))]
    found = weights @ kernel @ weights * (1 - 1e-9)
    most, as_far = int(_CHANCE * (_ORDERS + 1)) - 1, 0
    generator = np.random.default_rng(0)
    for begin in range(0, _ORDERS, _ORDERS_AT_ONCE):
        others = np.tile(weights, (min(_ORDERS_AT_ONCE, _ORDERS - begin), 1))
        others = generator.permuted(others, axis=1)
        as_far += int((((others @ kernel) * others).sum(1) >= found).sum())
        if as_far > most:
            return False
    return True

"""What the autoencoder makes of intact images, summed up; :mod:`lightning_memaudit.results.own_output` judges it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.batches import all_finite
from lightning_memaudit.results.own_output import (
    LARGEST_ROUNDING,
    MAX_DIFFERENCE,
    OutputSums,
    differences_of_calls,
)


def output_sums(output: Tensor, images: Tensor) -> OutputSums:
    """The sums of a batch: f(x) and x, both (B, C, *spatial)."""
    return OutputSums.of(_array(output), _array(images))


def in_other_batches(autoencoder: Autoencoder, images: Tensor, output: Tensor) -> OutputSums:
    """How much outputs change from call to call, or with the images that are beside them; sums over no images.

    Every image is compared with itself in a batch of half the images: the darker half and the brighter one, which is
    where batch statistics differ most, in whatever order the images are. Where one differs, the same batch is called
    again: f may be random. If it is not, another batch size may round otherwise in low precision; what changes among
    other images in a batch of the same size, at the same place of it, is no rounding.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        images: A batch (B, C, *spatial), at least one image.
        output: f(images).
    """
    first = output.clone()  # the next call may overwrite it
    halves = _halves(images)
    others = torch.empty_like(first)
    for rows in halves:
        if len(rows):
            others[rows] = autoencoder(images[rows])
    broken = OutputSums(num_not_finite=int((all_finite(first) & ~all_finite(others)).sum()))
    apart = _differences(first, others)
    if apart.max() <= MAX_DIFFERENCE:
        return broken
    again = _differences(first, autoencoder(images))
    if again.max() > MAX_DIFFERENCE:
        return OutputSums.join([broken, OutputSums(difference=float(again.max()))])
    if apart.max() <= LARGEST_ROUNDING:
        for rows, rest in (halves, halves[::-1]):
            if len(rows):
                beside = images.clone()
                beside[rest] = images[rows[torch.arange(len(rest), device=rows.device) % len(rows)]]
                apart[rows.cpu().numpy()] = _differences(first[rows], autoencoder(beside)[rows])
    return OutputSums.join([broken, OutputSums(batch_difference=float(apart.max()))])


def _halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the darker half and of the brighter one, which one image alone does not have.

    A half of one image holds it twice: not every function that takes batches takes one image.
    """
    order = images.flatten(1).mean(1).argsort(stable=True)
    middle = (len(order) + 1) // 2
    darker, brighter = (
        half.repeat(2) if len(half) == 1 < len(order) else half for half in order.tensor_split([middle])
    )
    return darker.sort().values, brighter.sort().values


def _differences(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    return differences_of_calls(_array(first), _array(second))


def _array(images: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = images.detach().float().cpu().numpy()
    return array

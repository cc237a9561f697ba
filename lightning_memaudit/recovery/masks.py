"""Estimates of the unknown mask, given the current estimate of the image.

A mask estimator is a function ``estimate(image, observed) -> mask`` on batches (B, C, H, W). The mask is in [0, 1],
1 means observed; (B, 1, H, W) when it is shared by the channels, (B, C, H, W) when each channel has its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MaskEstimator = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LeastSquaresMask:
    """The paper's estimate: least squares over 0/1 diagonal degradations (arXiv 2310.02897).

    ``h = argmin over h in {0, 1} of |h x - y|^2``, summed over the channels that share the mask entry, which is
    ``h = 1 where |x - y|^2 < |y|^2, else 0``.

    Attributes:
        shared: One mask for all channels (B, 1, H, W), or one per channel (B, C, H, W).
    """

    shared: bool = True

    def __call__(self, image: Tensor, observed: Tensor) -> Tensor:
        """Estimate the mask of ``observed`` given ``image``, both (B, C, H, W)."""
        kept = (image - observed).square()
        dropped = observed.square()
        if self.shared:
            kept, dropped = kept.sum(1, keepdim=True), dropped.sum(1, keepdim=True)
        return (kept < dropped).to(image.dtype)


def least_squares_mask(image: Tensor, observed: Tensor, shared: bool = True) -> Tensor:
    """Call :class:`LeastSquaresMask` once."""
    return LeastSquaresMask(shared)(image, observed)

"""Fill missing pixels from their observed neighbours: where a recovery starts, no autoencoder involved."""

import torch
from torch import Tensor
from torch.nn import functional

OWN_WEIGHT = 0.02
"""Share of observed pixels in a cell at which its own average and the coarser level's count alike."""


def interpolate(observed: Tensor, mask: Tensor) -> Tensor:
    """Fill every hole with the average of the observed pixels near it.

    Pixels are averaged in cells of 2, 4, 8, ..., and a hole takes the finest cell that has any observed. Normalized
    convolution (Knutsson & Westin 1993) on a pyramid: smooth, exact where observed, any mask, one pass.

    Args:
        observed: y, (B, C, H, W).
        mask: h, (B, 1 or C, H, W), in [0, 1].

    Returns:
        (B, C, H, W); 0 where a whole image is missing.
    """
    values, weights = observed * mask, mask
    levels = [(values, weights)]
    while min(values.shape[-2:]) > 1:
        padding = (0, values.shape[-1] % 2, 0, values.shape[-2] % 2)
        values = functional.avg_pool2d(functional.pad(values, padding), 2)
        weights = functional.avg_pool2d(functional.pad(weights, padding), 2)
        levels.append((values, weights))
    values, weights = (level.mean((-2, -1), keepdim=True) for level in levels.pop())
    filled = values / weights.clamp_min(1e-6)
    for values, weights in reversed(levels):
        coarse = functional.interpolate(filled, size=values.shape[-2:], mode="bilinear", align_corners=False)
        filled = (values + OWN_WEIGHT * coarse) / (weights + OWN_WEIGHT)
    return torch.lerp(filled, observed, mask.expand_as(observed))

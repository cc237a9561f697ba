"""Numbers of intact images that owe nothing to an autoencoder: :mod:`lightning_memaudit.results.sources` compares."""

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.results.cells import Array
from lightning_memaudit.results.sources import IMAGE_STATISTICS

_VALUES_AT_ONCE = 2**22


def image_statistics(images: Tensor) -> dict[str, Array]:
    """Mean, contrast, roughness and range of every image.

    The range is that of the 2nd and 98th percentile of the values: single pixels do not make it.

    Args:
        images: (B, C, H, W), in [0, 1].

    Returns:
        Arrays (B,) by name. ``image_roughness`` is the mean squared difference of neighbouring pixels over twice the
        variance: near 0 for smooth images, 1 for white noise.

    >>> statistics = image_statistics(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    >>> {name: round(float(values[0]), 1) for name, values in statistics.items()}
    {'image_mean': 0.5, 'image_contrast': 0.3, 'image_roughness': 1.0, 'image_low': 0.0, 'image_high': 1.0}
    """
    at_once = max(1, _VALUES_AT_ONCE // max(1, images[:1].numel()))
    # In numpy: on a GPU, torch has no deterministic percentiles.
    parts = [_of_some(part.detach().double().cpu().numpy()) for part in torch.split(images, at_once)]
    return dict(zip(IMAGE_STATISTICS, np.concatenate(parts, 1), strict=True))


def _of_some(images: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Array:
    """The statistics (5, B)."""
    if not len(images):
        return np.zeros((len(IMAGE_STATISTICS), 0))
    flat = images.reshape(len(images), -1)
    variance = flat.var(1)
    steps = [np.square(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (2, 3) if images.shape[axis] > 1]
    roughness = sum(steps, np.zeros(len(images))) / max(1, len(steps)) / np.maximum(2 * variance, 1e-12)
    low, high = np.quantile(flat, (0.02, 0.98), axis=1)
    return np.stack([flat.mean(1), np.sqrt(variance), roughness, low, high])

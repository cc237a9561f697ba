"""How close a recovery is to the truth: pure functions on batches, and a metric that any number of ranks can share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_memaudit.recovery import Recovery
from lightning_memaudit.recovery.batches import images_at_once
from lightning_memaudit.recovery.spatial import MOST_AXES, along_axes, spatial
from lightning_memaudit.results.quantities import MAX_PSNR

SSIM_WINDOW = 11
"""Side of SSIM's window (Wang et al. 2004); smaller images have no SSIM."""


PRODUCTS_AT_ONCE = 2**24
"""Values of the images whose SSIM is computed together at most: it takes ten tensors of their size."""


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, ``-10 log10 mean (x - truth)^2`` for a peak of 1.

    Args:
        images: (B, C, *spatial).
        truth: (B, C, *spatial), in [0, 1].

    Returns:
        (B,) at most :data:`~lightning_memaudit.results.quantities.MAX_PSNR`; NaN where an image is.

    Raises:
        ValueError: The shapes differ, or are not those of batches.
    """
    _check_same_shape(images, truth)
    return _decibels((images - truth).square().flatten(1).mean(1))


def hidden_psnr(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB over the missing pixels alone.

    Args:
        images: (B, C, *spatial).
        truth: (B, C, *spatial), in [0, 1].
        mask: The true mask, (B, 1 or C, *spatial), 1 where observed.

    Returns:
        (B,) at most :data:`~lightning_memaudit.results.quantities.MAX_PSNR`; NaN where nothing is missing.

    Raises:
        ValueError: The shapes differ, or are not those of batches.
    """
    _check_same_shape(images, truth)
    missing = (mask < 0.5).expand_as(images)
    error = torch.where(missing, (images - truth).square(), 0).flatten(1).sum(1)
    return _decibels(error / missing.flatten(1).sum(1))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): a Gaussian window of 11 pixels along every axis.

    Its deviation is 1.5, borders are mirrored.

    ``(2 m n + c1) (2 cov + c2) / ((m^2 + n^2 + c1) (var + var' + c2))`` with the means m and n, the variances and the
    covariance in the window around each pixel, c1 = 0.01^2 and c2 = 0.03^2; the mean over all windows and channels.

    Args:
        images: (B, C, *spatial).
        truth: (B, C, *spatial), in [0, 1].

    Returns:
        (B,) in [-1, 1]; NaN for images with a side under 11 pixels.

    Raises:
        ValueError: The shapes differ, or are not those of batches.
    """
    _check_same_shape(images, truth)
    if not len(images) or min(spatial(images)) < SSIM_WINDOW:
        return images.new_full((len(images),), torch.nan)
    some = images_at_once(len(images), images, PRODUCTS_AT_ONCE)
    if some < len(images):
        parts = zip(torch.split(images, some), torch.split(truth, some), strict=True)
        return torch.cat([ssim(*part) for part in parts])
    means = [_window_means(side, images) for side in spatial(images)]
    products = torch.stack([images, truth, images.square(), truth.square(), images * truth])
    # Products with banded matrices: on a CPU several times as fast as a convolution with the whole window.
    mine, theirs, my_square, their_square, both = along_axes(products, means).unbind()
    variance = (my_square - mine.square()).clamp_min(0) + (their_square - theirs.square()).clamp_min(0)
    similarity = (2 * mine * theirs + 0.01**2) * (2 * (both - mine * theirs) + 0.03**2)
    similarity = similarity / ((mine.square() + theirs.square() + 0.01**2) * (variance + 0.03**2))
    return similarity.flatten(1).mean(1)


def _window_means(side: int, like: Tensor) -> Tensor:
    """Weighted means of the values in the window around each of them, mirrored at the borders, (side, side)."""
    distance = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = torch.exp(-distance.double().square() / (2 * 1.5**2))
    at = (torch.arange(side)[:, None] + distance).abs()
    at = torch.where(at < side, at, 2 * (side - 1) - at)
    means = torch.zeros(side, side, dtype=torch.float64)
    return means.scatter_add_(1, at, (weights / weights.sum()).expand_as(at)).to(like)


def mask_accuracy(estimate: Tensor, mask: Tensor) -> Tensor:
    """Share of the mask's entries that an estimate gets right when it is rounded to 0 or 1: (B,) in [0, 1].

    Args:
        estimate: (B, 1 or C, *spatial), in [0, 1].
        mask: (B, 1 or C, *spatial). Where only one of them is shared by the channels, it is compared with each.
    """
    return ((estimate >= 0.5) == (mask >= 0.5)).flatten(1).float().mean(1)


METRICS: dict[str, Callable[[Recovery, Tensor, Tensor], Tensor]] = {
    "psnr": lambda recovery, truth, mask: psnr(recovery.image, truth),
    "hidden_psnr": lambda recovery, truth, mask: hidden_psnr(recovery.image, truth, mask),
    "ssim": lambda recovery, truth, mask: ssim(recovery.image, truth),
    "mask_accuracy": lambda recovery, truth, mask: mask_accuracy(recovery.mask, mask),
}
"""From a recovery, the truth (B, C, *spatial) and the true mask (B, 1 or C, *spatial) to (B,) numbers each.

A new one is a function above, a line here and one in :data:`~lightning_memaudit.results.quantities.QUANTITIES`."""


class RecoveryRate(Metric):
    """Share of images recovered with at least ``threshold_db``, for one or several thresholds.

    Its states are sums of integers, so that the rate over any number of processes is that of a single one, exactly.

    Args:
        thresholds_db: PSNR thresholds in dB.
        kwargs: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: There is no threshold.

    >>> rate, truth = RecoveryRate(thresholds_db=[20, 30]), torch.zeros(2, 1, 8, 8)
    >>> rate.update(truth + torch.tensor([0.0, 0.05]).view(2, 1, 1, 1), truth)  # exact, and off by 0.05: 26 dB
    >>> rate.compute().tolist()
    [1.0, 0.5]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    num_recovered: Tensor
    num_images: Tensor

    def __init__(self, thresholds_db: float | Sequence[float] = 30.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        levels = [thresholds_db] if isinstance(thresholds_db, int | float) else list(thresholds_db)
        if not levels:
            raise ValueError("thresholds_db=[]: give at least one PSNR in dB, such as 30")
        self.thresholds_db = levels
        self.add_state("num_recovered", torch.zeros(len(levels), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor, truth: Tensor) -> None:
        """Count a batch: ``images`` and ``truth``, both (B, C, *spatial)."""
        levels = torch.tensor(self.thresholds_db, device=images.device)
        self.num_recovered += (psnr(images, truth)[:, None] >= levels).sum(0)
        self.num_images += len(images)

    def compute(self) -> Tensor:
        """The rate for every threshold, (number of thresholds,) in [0, 1]; NaN before the first image."""
        return self.num_recovered / self.num_images


def _decibels(mean_squared_error: Tensor) -> Tensor:
    return -10 * mean_squared_error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()


def _check_same_shape(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or not 1 <= images.ndim - 2 <= MOST_AXES:
        raise ValueError(
            f"images of shape {tuple(images.shape)} and truth of shape {tuple(truth.shape)}: give two batches "
            "(B, C, *spatial) of one shape"
        )

"""Images that nearly equal others, by their pixels. The one module that ``training`` shares with the audit."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

NEAR_DUPLICATE_PSNR = 25.0
"""Images at least this alike (PSNR in dB) are near-duplicates: recovering one nearly recovers the other."""

_PAIRS_AT_ONCE = 2048


class Sliceable(Protocol):
    """Images (n, C, H, W) in [0, 1] that can be sliced; a tensor is one.

    >>> images: Sliceable = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> images[2] = 0.99 * images[0]
    >>> near_duplicates(images).tolist()
    [True, False, True]
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@torch.no_grad()
def near_duplicates(images: Sliceable, others: Sliceable | None = None, block_size: int = 1024) -> Tensor:
    """Which images have a PSNR of at least :data:`NEAR_DUPLICATE_PSNR` against one of the others.

    Exact: averaging over patches can only bring two images closer, so that comparing thumbnails rules out
    almost every pair, and the few that stay are compared in full.

    Args:
        images: Images of one size, (n, C, H, W) in [0, 1].
        others: The same; default: the images themselves, each compared with all but itself.
        block_size: Images of either set compared at a time; bounds the memory.

    Returns:
        (n,) bool, on the CPU.
    """
    limit = 10 ** (-NEAR_DUPLICATE_PSNR / 10)
    against: Sliceable = images if others is None else others
    near = torch.zeros(len(images), dtype=torch.bool)
    thumbnails = _all_thumbnails(images, block_size)
    their_thumbnails = thumbnails if others is None else _all_thumbnails(against, block_size)
    for first in range(0, len(images), block_size):
        for start in range(0, len(against), block_size):
            mine, theirs = thumbnails[first : first + block_size], their_thumbnails[start : start + block_size]
            distance = torch.cdist(mine, theirs).square() / mine.shape[1]
            if others is None and start == first:
                distance.fill_diagonal_(torch.inf)
            # A little slack: cdist loses digits, the full comparison decides.
            pairs = torch.nonzero(distance < 1.01 * limit + 1e-6)
            if not len(pairs):
                continue
            block = images[slice(first, first + block_size)].cpu()
            other_block = against[slice(start, start + block_size)].cpu()
            for some in torch.split(pairs, _PAIRS_AT_ONCE):
                rows, columns = some[~near[first + some[:, 0]]].unbind(1)
                error = (block[rows] - other_block[columns]).square().flatten(1).mean(1)
                near[first + rows[error <= limit]] = True
    return near


def _all_thumbnails(images: Sliceable, block_size: int) -> Tensor:
    blocks = (images[slice(first, first + block_size)].cpu() for first in range(0, len(images), block_size))
    thumbnails = [_thumbnails(block) for block in blocks]
    return torch.cat(thumbnails) if thumbnails else torch.zeros(0, 1)


def _thumbnails(images: Tensor) -> Tensor:
    """Means over equal patches, flat; the image itself where its sides have no such patches."""
    height, width = images.shape[-2:]
    patch = (height // 8 if height % 8 == 0 else 1, width // 8 if width % 8 == 0 else 1)
    return functional.avg_pool2d(images, patch).flatten(1)

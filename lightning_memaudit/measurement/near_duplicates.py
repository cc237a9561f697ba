"""Images that nearly equal others, by their pixels. The one module that ``training`` shares with the audit."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

NEAR_DUPLICATE_PSNR = 25.0
"""Images at least this alike (PSNR in dB) are near-duplicates: recovering one nearly recovers the other."""

REPEAT_PSNR = 35.0
"""Images at least this alike show the same: copies, recompressed ones, or one grey level off."""

_VALUES_AT_ONCE = 2**27
"""Values of one set that are compared at a time at most: of large images these are fewer than are asked for."""

_PAIRS_AT_ONCE = 2048

_POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


class Sliceable(Protocol):
    """Images (n, C, *spatial) in [0, 1] that can be sliced; a tensor is one.

    >>> images: Sliceable = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> images[2] = 0.99 * images[0]
    >>> near_duplicates(images).tolist()
    [True, False, True]
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@torch.no_grad()
def near_duplicates(
    images: Sliceable,
    others: Sliceable | None = None,
    block_size: int = 1024,
    psnr_db: float = NEAR_DUPLICATE_PSNR,
    earlier: bool = False,
) -> Tensor:
    """Which images have a PSNR of at least ``psnr_db`` against one of the others.

    Exact: averaging over patches can only bring two images closer, so that comparing thumbnails rules out
    almost every pair, and the few that stay are compared in full.

    Args:
        images: Images of one size, (n, C, *spatial) in [0, 1].
        others: The same; default: the images themselves, each compared with all but itself.
        block_size: Images of either set compared at a time; bounds the memory.
        psnr_db: How alike, in dB.
        earlier: Compare each image with those before it only, so that of several alike the first is none.

    Returns:
        (n,) bool, on the CPU.
    """
    limit = 10 ** (-psnr_db / 10)
    most = _VALUES_AT_ONCE // max(1, images[slice(0, 1)].numel())
    block_size, pairs_at_once = (max(1, min(number, most)) for number in (block_size, _PAIRS_AT_ONCE))
    against: Sliceable = images if others is None else others
    near = torch.zeros(len(images), dtype=torch.bool)
    thumbnails = _all_thumbnails(images, block_size)
    their_thumbnails = thumbnails if others is None else _all_thumbnails(against, block_size)
    for first in range(0, len(images), block_size):
        for start in range(0, first + 1 if earlier else len(against), block_size):
            mine, theirs = thumbnails[first : first + block_size], their_thumbnails[start : start + block_size]
            distance = torch.cdist(mine, theirs).square() / mine.shape[1]
            if others is None and start == first:
                distance.fill_diagonal_(torch.inf)
            if earlier and start == first:
                distance.masked_fill_(torch.ones_like(distance, dtype=torch.bool).triu(), torch.inf)
            # A little slack: cdist loses digits, the full comparison decides.
            pairs = torch.nonzero(distance < 1.01 * limit + 1e-6)
            if not len(pairs):
                continue
            block = images[slice(first, first + block_size)].cpu()
            other_block = against[slice(start, start + block_size)].cpu()
            for some in torch.split(pairs, pairs_at_once):
                rows, columns = some[~near[first + some[:, 0]]].unbind(1)
                error = (block[rows] - other_block[columns]).square().flatten(1).mean(1)
                near[first + rows[error <= limit]] = True
    return near


def repeats(members: Sliceable, controls: Sliceable | None = None) -> dict[str, list[int]]:
    """Positions of the images that show what was counted before: by group, as far as there are any.

    Of several members that are alike, by :data:`REPEAT_PSNR`, the first is none; a control that shows a member is one,
    and of several controls that are alike all but the first.

    >>> images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> repeats(images[[0, 1, 0]], images[[2, 1, 2]])
    {'members': [2], 'controls': [1, 2]}
    """
    found = {"members": near_duplicates(members, psnr_db=REPEAT_PSNR, earlier=True)}
    if controls is not None:
        again = near_duplicates(controls, psnr_db=REPEAT_PSNR, earlier=True)
        found["controls"] = again | near_duplicates(controls, members, psnr_db=REPEAT_PSNR)
    return {group: which.nonzero().flatten().tolist() for group, which in found.items()}


def _all_thumbnails(images: Sliceable, block_size: int) -> Tensor:
    blocks = (images[slice(first, first + block_size)].cpu() for first in range(0, len(images), block_size))
    thumbnails = [_thumbnails(block) for block in blocks]
    return torch.cat(thumbnails) if thumbnails else torch.zeros(0, 1)


def _thumbnails(images: Tensor) -> Tensor:
    """Means over equal patches, flat; the image itself where its sides have no such patches."""
    patch = tuple(side // 8 if side % 8 == 0 else 1 for side in images.shape[2:])
    means: Tensor = _POOLS[len(patch) - 1](images, patch)
    return means.flatten(1)

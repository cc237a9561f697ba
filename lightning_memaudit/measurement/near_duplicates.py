"""Images that nearly equal others, by their pixels. The one module that ``training`` shares with the audit."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

NEAR_DUPLICATE_PSNR = 25.0
"""Images at least this alike (PSNR in dB) are near-duplicates: recovering one nearly recovers the other."""

REPEAT_PSNR = 35.0
"""Images at least this alike show the same: copies, recompressed ones, or one grey level off; see also
:func:`repeat_psnr`."""

CONTRAST_DB = 20.0
"""An image whose values have a standard deviation below so many dB under 1, that is 0.1, is held against its own
contrast: its differences must be as small beside it as they must be beside that of 0.1. So dim or flat images that
differ are not taken for each other; ordinary photographs have more contrast than that."""

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


class _Outlines(NamedTuple):
    """What there is to know of images before they are compared: thumbnails, and the squared error that each allows."""

    thumbnails: Tensor
    allowed: Tensor

    def of(self, rows: slice | Tensor) -> "_Outlines":
        return _Outlines(self.thumbnails[rows], self.allowed[rows])

    def may_be_alike(self, others: "_Outlines") -> Tensor:
        """(n, m) bool: the pairs that thumbnails do not rule out."""
        mine, theirs = (one.thumbnails - self.thumbnails.mean(0) for one in (self, others))
        allowed = torch.minimum(self.allowed[:, None], others.allowed)
        # A little slack: cdist loses digits, the fewer the nearer all are to 0; the full comparison decides.
        lost = 2e-6 * (mine.square().mean(1)[:, None] + theirs.square().mean(1))
        return torch.cdist(mine, theirs).square() / mine.shape[1] <= 1.01 * allowed + lost


@torch.no_grad()
def near_duplicates(
    images: Sliceable,
    others: Sliceable | None = None,
    block_size: int = 1024,
    psnr_db: float = NEAR_DUPLICATE_PSNR,
) -> Tensor:
    """Which images have a PSNR of at least ``psnr_db`` against one of the others; more where contrast is low.

    Of two images of which one has less contrast than most, see :data:`CONTRAST_DB`, the squared error must be as small
    beside the variance of their values as it must be for others.

    Exact: averaging over patches can only bring two images closer, so that comparing thumbnails rules out
    almost every pair, and the few that stay are compared in full.

    Args:
        images: Images of one size, (n, C, *spatial) in [0, 1].
        others: The same; default: the images themselves, each compared with all but itself.
        block_size: Images of either set compared at a time; bounds the memory.
        psnr_db: How alike, in dB.

    Returns:
        (n,) bool, on the CPU.
    """
    block_size, pairs_at_once = _at_once(images, block_size)
    against: Sliceable = images if others is None else others
    near = torch.zeros(len(images), dtype=torch.bool)
    outlines = _outlines(images, block_size, psnr_db)
    their_outlines = outlines if others is None else _outlines(against, block_size, psnr_db)
    for first in range(0, len(images), block_size):
        for start in range(0, len(against), block_size):
            mine, theirs = (slice(begin, begin + block_size) for begin in (first, start))
            close = outlines.of(mine).may_be_alike(their_outlines.of(theirs))
            if others is None and start == first:
                close.fill_diagonal_(False)
            pairs = torch.nonzero(close)
            if not len(pairs):
                continue
            block, other_block = _loaded(images, mine), _loaded(against, theirs)
            for some in torch.split(pairs, pairs_at_once):
                rows, columns = some[~near[first + some[:, 0]]].unbind(1)
                error = (block[rows] - other_block[columns]).square().flatten(1).mean(1)
                allowed = torch.minimum(outlines.allowed[first + rows], their_outlines.allowed[start + columns])
                near[first + rows[error <= allowed]] = True
    return near


def repeat_psnr(threshold_db: float) -> float:
    """How alike images must be to count once, in dB, where so much is a recovery.

    A control that is so alike to a member comes back whenever that member does, and two such members come back
    together: neither says anything of its own.

    >>> [repeat_psnr(threshold_db) for threshold_db in (20.0, 30.0, 60.0)]
    [25.0, 30.0, 35.0]
    """
    return min(REPEAT_PSNR, max(NEAR_DUPLICATE_PSNR, threshold_db))


@torch.no_grad()
def repeats(
    members: Sliceable,
    controls: Sliceable | None = None,
    *,
    psnr_db: float = REPEAT_PSNR,
    left_out: Mapping[str, Tensor] | None = None,
) -> dict[str, list[int]]:
    """Positions of the images that show what another one shows that counts: by group, as far as there are any.

    Which ones count depends on the pictures alone, not on their order: each in turn, by a hash of its values, unless it
    is alike, by ``psnr_db``, to one that counts already. So of neighbouring frames those that differ stay, and
    each that is left out shows what one that counts does. A control that shows any member, as the training has seen
    that picture, does not count; the others are held against each other likewise.

    Args:
        members: Images of one size, (n, C, *spatial) in [0, 1].
        controls: The same.
        psnr_db: How alike, in dB; see :func:`repeat_psnr`.
        left_out: By group, (n,) bool: images that do not count anyway.

    >>> images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> repeats(images[[0, 1, 0]], images[[2, 1, 2]])
    {'members': [2], 'controls': [1, 2]}
    """
    gone = left_out or {}
    found = {"members": _shown_again(members, gone.get("members"), psnr_db)}
    if controls is not None:
        shows_member = near_duplicates(controls, members, psnr_db=psnr_db)
        away = shows_member | gone["controls"] if "controls" in gone else shows_member
        found["controls"] = shows_member | _shown_again(controls, away, psnr_db)
    return {group: which.nonzero().flatten().tolist() for group, which in found.items()}


def _shown_again(images: Sliceable, left_out: Tensor | None, psnr_db: float, block_size: int = 1024) -> Tensor:
    """(n,) bool: the images that are alike to one that counts, of those that are not left out anyway."""
    block_size, pairs_at_once = _at_once(images, block_size)
    keys = _keys(images, block_size)
    order = [row for row in range(len(images)) if left_out is None or not left_out[row]]
    rows = torch.tensor(sorted(order, key=lambda row: (keys[row], row)), dtype=torch.long)
    outlines = _outlines(images, block_size, psnr_db).of(rows)
    again = torch.zeros(len(rows), dtype=torch.bool)
    for begin in range(0, len(rows), block_size):
        mine = outlines.of(slice(begin, begin + block_size))
        later = [
            mine.may_be_alike(outlines.of(slice(start, start + block_size)))
            for start in range(begin, len(rows), block_size)
        ]
        close = torch.cat(later, 1).triu(1)
        for row in close.any(1).nonzero().flatten().tolist():
            if again[begin + row]:
                continue
            candidates = begin + (close[row] & ~again[begin:]).nonzero().flatten()
            if not len(candidates):
                continue
            image = _gather(images, rows[[begin + row]].tolist())
            for some in torch.split(candidates, pairs_at_once):
                error = (_gather(images, rows[some].tolist()) - image).square().flatten(1).mean(1)
                again[some[error <= torch.minimum(outlines.allowed[some], outlines.allowed[begin + row])]] = True
    found = torch.zeros(len(images), dtype=torch.bool)
    found[rows[again]] = True
    return found


def _keys(images: Sliceable, block_size: int) -> list[tuple[str, str]]:
    """What images are ordered by, whatever their places: hashes of the values at 8 bits, then as they are."""
    keys = []
    for first in range(0, len(images), block_size):
        for image in _loaded(images, slice(first, first + block_size)):
            eight_bits = (image.clamp(0, 1) * 255).round().to(torch.uint8)
            # Adding 0 makes the zeros that have a sign those that have none.
            both = (eight_bits, image.float() + 0.0)
            keys.append(tuple(hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest() for values in both))
    return keys  # type: ignore[return-value]


def _gather(images: Sliceable, rows: Sequence[int]) -> Tensor:
    return torch.cat([_loaded(images, slice(row, row + 1)) for row in rows])


def _loaded(images: Sliceable, rows: slice) -> Tensor:
    """These images on the CPU, in single precision at least: half precision has no distances there."""
    block = images[rows].cpu()
    return block.to(torch.promote_types(block.dtype, torch.float32))


def _at_once(images: Sliceable, block_size: int) -> tuple[int, int]:
    """How many images, and pairs of them, are compared at a time: fewer of large ones."""
    most = _VALUES_AT_ONCE // max(1, images[slice(0, 1)].numel())
    return max(1, min(block_size, most)), max(1, min(_PAIRS_AT_ONCE, most))


def _outlines(images: Sliceable, block_size: int, psnr_db: float) -> _Outlines:
    blocks = (_loaded(images, slice(first, first + block_size)) for first in range(0, len(images), block_size))
    found = [(_thumbnails(block), _allowed(block, psnr_db)) for block in blocks]
    if not found:
        return _Outlines(torch.zeros(0, 1), torch.zeros(0))
    thumbnails, allowed = zip(*found, strict=True)
    return _Outlines(torch.cat(thumbnails), torch.cat(allowed))


def _allowed(images: Tensor, psnr_db: float) -> Tensor:
    """The mean squared error up to which others are as alike to each image as ``psnr_db``, (n,)."""
    variance = images.flatten(2).var(2, correction=0).mean(1)  # within channels: a tint is no contrast
    return (variance * 10 ** (CONTRAST_DB / 10)).clamp(max=1) * 10 ** (-psnr_db / 10)


def _thumbnails(images: Tensor) -> Tensor:
    """Means over equal patches, flat; the image itself where its sides have no such patches."""
    patch = tuple(side // 8 if side % 8 == 0 else 1 for side in images.shape[2:])
    means: Tensor = _POOLS[len(patch) - 1](images, patch)
    return means.flatten(1)

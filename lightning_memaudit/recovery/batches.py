"""Batches: chunks of them that fit the memory, means per image, masks of one shape."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lightning_memaudit.recovery.checks import check_counts

Result = TypeVar("Result")
OfImages = TypeVar("OfImages", bound=tuple[Tensor, ...])

ELEMENTS_PER_CHUNK = {"cpu": 2**23, "cuda": 2**25}
"""Rows per chunk are chosen so that one variable of the solver has about this many elements.

On a CPU 32 MiB in float32: fewer rows and the weights of f are read too often, more and every result of f is memory
fresh from the system (measured from 4 to 64 MiB). On a GPU 128 MiB: enough to keep it busy.
"""


ACTIVATIONS_IN_CACHE = {"cpu": 2**24}
"""Rows per chunk are fewer where f would allocate more than about this many elements: convolutions of more images take
up to twice the time per image (measured from 2 to 20 images of 256 x 256). A GPU has no such limit but its memory."""


def rows_per_chunk(images: Tensor, chunk_size: int | None) -> int:
    """``chunk_size`` if given, else as many rows as :data:`ELEMENTS_PER_CHUNK` holds on their device; at least 1.

    Args:
        images: (B, C, *spatial).
        chunk_size: None chooses.

    Raises:
        ValueError: ``chunk_size`` is below 1.
    """
    if chunk_size is not None:
        check_counts(chunk_size=chunk_size)
        return chunk_size
    if not len(images):
        return 1
    elements = ELEMENTS_PER_CHUNK.get(images.device.type, ELEMENTS_PER_CHUNK["cpu"])
    return max(1, elements // max(1, images[0].numel()))


VALUES_AT_ONCE = 2**27
"""Values of the images that are degraded, read or compared together, at most: 512 MiB in float32."""


def images_at_once(number: int, images: Tensor, values: int | None = None) -> int:
    """``number``, or fewer of images (B, C, *spatial), as many as have so many values; None: :data:`VALUES_AT_ONCE`."""
    return max(1, min(number, (values or VALUES_AT_ONCE) // max(1, images[:1].numel())))


def rows_by_activations(images: Tensor, activations: int) -> int | None:
    """How many images f should be given at once, at least 1, by the elements that it allocates for one of them.

    Args:
        images: (B, C, *spatial), for their device.
        activations: Of one image; 0 where it is not known.

    Returns:
        None where nothing limits it.
    """
    limit = ACTIVATIONS_IN_CACHE.get(images.device.type)
    return None if limit is None or not activations else max(1, limit // activations)


def map_chunks(function: Callable[[slice], Result], num_rows: int, chunk_size: int) -> list[Result]:
    """Call ``function(slice)`` for consecutive slices that cover ``range(num_rows)``.

    When the device runs out of memory the chunk is halved, with one warning, and the work goes on.

    Raises:
        torch.OutOfMemoryError: Not even one row fits.
    """
    results: list[Result] = []
    begin, warned = 0, False
    while begin < num_rows:
        end = min(begin + chunk_size, num_rows)
        try:
            results.append(function(slice(begin, end)))
        except torch.OutOfMemoryError:
            if end - begin == 1:
                raise
            chunk_size = (end - begin) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not warned:
                warnings.warn(
                    f"out of memory with {end - begin} images at once: going on with {chunk_size}; "
                    f"pass chunk_size={chunk_size} or less to start there",
                    stacklevel=2,
                )
                warned = True
            continue
        begin = end
    return results


def per_image_mean(values: Tensor) -> Tensor:
    """Mean over everything but the first dimension: (B, ...) to (B,)."""
    return values.flatten(1).mean(1)


def all_finite(values: Tensor) -> Tensor:
    """Whether all values of a row are finite, (B, ...) to (B,).

    The largest one tells, as NaN is the largest of all; finding it is ten times as fast as asking each of them.
    """
    return values.flatten(1).abs().amax(1).isfinite()


def same_channels(masks: Sequence[Tensor]) -> list[Tensor]:
    """Masks (B, 1 or C, *spatial) with as many channels as the one that has most."""
    channels = max(mask.shape[1] for mask in masks)
    return [mask.expand(-1, channels, *mask.shape[2:]) for mask in masks]


def replace_rows(whole: OfImages, rows: Tensor, part: OfImages) -> OfImages:
    """With the rows of some images, given by their indices, replaced by ``part``, as of candidates or fills.

    Args:
        whole: A named tuple of tensors with a row for each image, (B,) or (B, 1 or C, *spatial).
        rows: (n,) int64.
        part: The same of n images.

    >>> from lightning_memaudit.recovery.candidates import Candidate
    >>> first, second = (Candidate(*torch.full((4, 2, 1, 1), value)) for value in (0.0, 1.0))
    >>> replace_rows(first, torch.tensor([1]), second.select(torch.tensor([0]))).score.flatten().tolist()
    [0.0, 1.0]
    """
    fields = []
    for field, new in zip(whole, part, strict=True):
        field, new = same_channels([field, new]) if field.ndim > 1 else (field, new)
        field = field.clone()
        field[rows] = new
        fields.append(field)
    return type(whole)(*fields)

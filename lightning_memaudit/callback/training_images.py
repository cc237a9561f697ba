"""All images that training can reach: no control may be one of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_memaudit.callback.dataset_images import choose_indices
from lightning_memaudit.callback.reading import ReadBatch, Reader, Source
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes

MOST_COMPARED, SECONDS_COMPARED = 20_000, 30.0
"""How many images of the training the controls are compared with, and for how long at most."""


@dataclass(frozen=True)
class Compared:
    """What the controls were compared with.

    Attributes:
        hashes: Of the images of the training that were read for it.
        num_reachable: Images that training can reach; None where that is not known.

    >>> Compared({"ab", "cd"}, num_reachable=9).note
    'controls were compared with 2 of the 9 images that training can reach'
    """

    hashes: set[str]
    num_images: int = 0
    num_reachable: int | None = None

    @property
    def note(self) -> str | None:
        """Says so where not all of them were; None otherwise."""
        count = self.num_images or len(self.hashes)
        if self.num_reachable is not None and count >= self.num_reachable:
            return None
        total = "the" if self.num_reachable is None else f"the {self.num_reachable}"
        return f"controls were compared with {count} of {total} images that training can reach"


def compare_with_training(
    sources: Sequence[Source],
    convert: Callable[[Source, ReadBatch], Tensor],
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> Compared:
    """Hashes of the images that training can reach, up to a number and a time.

    Args:
        sources: See :meth:`ImageChoice.training`.
        convert: From a batch to its images in [0, 1].
        seed: Of the choice where there are too many.
        share: Rank and number of the processes that share the work.
    """
    hashes: set[str] = set()
    began, count, total = time.monotonic(), 0, 0
    for source in sources:
        if source.indices is None:
            reads: Iterator[ReadBatch] = Reader(source, seed).first(min(MOST_COMPARED, 1000))
            total = -1
        else:
            wanted = choose_indices(len(source.indices), MOST_COMPARED, seed)
            mine = [source.indices[index] for index in wanted][share[0] :: share[1]]
            total = total + len(source.indices) if total >= 0 else total
            size = source.batch_size
            reads = Reader(source, seed).blocks([mine[at : at + size] for at in range(0, len(mine), size)])
        for read in reads:
            images = convert(source, read).clamp(0, 1)  # in whichever range: they are only compared
            hashes.update(image_hashes(Group.whole(source.group, images)))
            count += len(images)
            if time.monotonic() - began > SECONDS_COMPARED:
                break
    return Compared(hashes, count, None if total < 0 else total)

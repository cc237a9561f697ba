"""All images that training can reach: no control may be one of them."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from torch import Tensor

from lightning_memaudit.callback.reading.reader import ReadBatch, Reader, Source
from lightning_memaudit.measurement.choice import choose_indices
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes

MOST_COMPARED, MOST_OF_A_STREAM, SECONDS_COMPARED = 20_000, 1000, 30.0
"""How many images of the training the controls are compared with, and for how long at most."""


@dataclass(frozen=True)
class Compared:
    """What the controls were compared with.

    Attributes:
        hashes: Of the images of the training that were read for it.
        num_images: How many they are.
        num_reachable: Images that training can reach; None where that is not known.
        unread: Why some of them could not be read.

    >>> Compared({"ab", "cd"}, num_images=2, num_reachable=9).note
    'controls were compared with 2 of the 9 images that training can reach'
    """

    hashes: set[str]
    num_images: int = 0
    num_reachable: int | None = None
    unread: list[str] = field(default_factory=list)

    @property
    def note(self) -> str | None:
        """Says so where not all of them were; None otherwise."""
        if self.num_reachable is not None and self.num_images >= self.num_reachable:
            return None
        total = "the" if self.num_reachable is None else f"the {self.num_reachable}"
        why = f" ({self.unread[0]})" if self.unread else ""
        return f"controls were compared with {self.num_images} of {total} images that training can reach{why}"


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
    began, count, total, unread = time.monotonic(), 0, 0, []
    for source in sources:
        if source.indices is None:
            total = -1
        elif total >= 0:
            total += len(source.indices)
        try:
            with closing(_reads(source, seed, share)) as reads:
                for read in reads:
                    images = convert(source, read).clamp(0, 1)  # in whichever range: they are only compared
                    hashes.update(image_hashes(Group.whole(source.group, images)))
                    count += len(images)
                    if time.monotonic() - began > SECONDS_COMPARED:
                        break
        except ValueError as error:
            unread.append(str(error))
    return Compared(hashes, count, None if total < 0 else total, unread)


def _reads(source: Source, seed: int, share: tuple[int, int]) -> Generator[ReadBatch, None, None]:
    reader = Reader(source, seed)
    if source.indices is None:
        return reader.first(MOST_OF_A_STREAM)
    wanted = choose_indices(len(source.indices), MOST_COMPARED, seed)
    mine = [source.indices[index] for index in wanted][share[0] :: share[1]]
    size = source.batch_size
    return reader.blocks([mine[at : at + size] for at in range(0, len(mine), size)])

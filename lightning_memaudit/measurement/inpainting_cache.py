"""What does not depend on the autoencoder, kept for the next audit of the same images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_memaudit.recovery import Recovery
from lightning_memaudit.results.cells import Array

CacheKey = tuple[str, str, str, int, int]
"""Group, pattern, method, the block's first row and its size."""


@dataclass
class InpaintingCache:
    """Recoveries and baselines that are the same in every audit of the same images.

    Attributes:
        recoveries: Of methods that do not call the autoencoder.
        baselines: PSNR (n,) over the missing pixels of the best filling without it.
        max_bytes: Of the recoveries; what comes when it is full is made anew in the next audit.

    >>> InpaintingCache().recoveries
    {}
    """

    recoveries: dict[CacheKey, Recovery] = field(default_factory=dict)
    baselines: dict[CacheKey, Array] = field(default_factory=dict)
    max_bytes: int = 2**29
    _num_bytes: int = 0

    def keep(self, found: Mapping[CacheKey, Recovery]) -> None:
        """Keep recoveries, as many as there is room for."""
        for key, recovery in found.items():
            size = recovery.image.nbytes + recovery.mask.nbytes
            if key not in self.recoveries and self._num_bytes + size <= self.max_bytes:
                self.recoveries[key] = recovery
                self._num_bytes += size

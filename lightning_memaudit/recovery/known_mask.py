"""Recovery when the mask is known: the upper bound of the blind method."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lightning_memaudit.recovery.admm import Alternation
from lightning_memaudit.recovery.attempts import recover
from lightning_memaudit.recovery.checks import check_images, check_mask, check_penalties
from lightning_memaudit.recovery.types import Autoencoder, Recovery


@dataclass(frozen=True)
class KnownMaskRecovery:
    """Plug-and-play ADMM with the true mask (the paper's comparison with known degradation).

    Attributes:
        penalties: ADMM penalties to try on every image; the best by the blind score is kept.
        alternation: Iterations and tolerances.
        chunk_size: Attempts at once; None chooses by memory.
        record_at: Iterations to record in ``recovery.trace``; 0 is the start.
    """

    needs_mask: ClassVar[bool] = True

    penalties: Sequence[float] = (0.1,)
    alternation: Alternation = field(default_factory=Alternation)
    chunk_size: int | None = None
    record_at: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_penalties(tuple(self.penalties))

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, H, W), given ``mask``, (B, 1 or C, H, W).

        Raises:
            ValueError: The shapes do not fit or values are not finite.
        """
        check_images("observed", observed)
        check_mask(mask, observed)
        return recover(
            autoencoder, observed, mask, self.penalties, self.alternation, self.chunk_size, self.record_at
        )

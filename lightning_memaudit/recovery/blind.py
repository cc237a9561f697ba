"""Blind recovery: image and mask from the observation and the autoencoder alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lightning_memaudit.recovery.admm import Alternation
from lightning_memaudit.recovery.attempts import recover
from lightning_memaudit.recovery.checks import check_images, check_penalties
from lightning_memaudit.recovery.masks import LeastSquaresMask, MaskEstimator
from lightning_memaudit.recovery.types import Autoencoder, Recovery

MASK_ESTIMATORS: dict[str, MaskEstimator] = {"least_squares": LeastSquaresMask()}


@dataclass(frozen=True)
class BlindRecovery:
    """Alternating recovery of image and mask with the autoencoder as the prior (arXiv 2310.02897).

    It sees the autoencoder and the observation, never the truth. ``BlindRecovery(mask_estimator="least_squares",
    penalties=[0.1])`` is the paper's method.

    Attributes:
        mask_estimator: A name, or any function ``(image, observed) -> mask``.
        penalties: ADMM penalties to try on every image; the best by the blind score is kept.
        alternation: Iterations and tolerances.
        certification_threshold: Blind scores at or below it are certified as recovered; None certifies nothing.
        chunk_size: Attempts at once; None chooses by memory.
        record_at: Iterations to record in ``recovery.trace``; 0 is the start.
    """

    estimates_mask: ClassVar[bool] = True

    mask_estimator: str | MaskEstimator = "least_squares"
    penalties: Sequence[float] = (0.03, 0.1, 0.3, 1.0)
    alternation: Alternation = field(default_factory=Alternation)
    certification_threshold: float | None = None
    chunk_size: int | None = None
    record_at: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_penalties(tuple(self.penalties))
        if isinstance(self.mask_estimator, str) and self.mask_estimator not in MASK_ESTIMATORS:
            names = ", ".join(MASK_ESTIMATORS)
            raise ValueError(f"mask_estimator={self.mask_estimator!r}: pass one of {names}, or a function")

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, H, W).

        Raises:
            ValueError: ``observed`` is not a finite batch of images.
        """
        check_images("observed", observed)
        estimator = self.mask_estimator
        recovery = recover(
            autoencoder,
            observed,
            MASK_ESTIMATORS[estimator] if isinstance(estimator, str) else estimator,
            self.penalties,
            self.alternation,
            self.chunk_size,
            self.record_at,
        )
        if self.certification_threshold is None:
            return recovery
        return recovery._replace(certified=recovery.score <= self.certification_threshold)

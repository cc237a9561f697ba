"""Plain iteration of the autoencoder, the baseline of Radhakrishnan, Belkin and Uhler (PNAS 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import all_finite, map_chunks, per_image_mean, rows_per_chunk
from lightning_memaudit.recovery.checks import check_counts, check_images, check_wandering
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import row_values, with_axes
from lightning_memaudit.recovery.types import Autoencoder, Family, Recovery, Trace, concatenate
from lightning_memaudit.recovery.wandering import Wandering


@dataclass(frozen=True)
class AutoencoderIterations:
    """``x <- f(x)`` from x = y until nothing moves: training images that are attractors come back.

    An image that wanders, and comes no closer to one that f keeps as it is, ends too: under convolutions most do so.
    Where f rounds to half precision an image may tremble by that rounding for ever: it ends where it only does that and
    stays where it is. See :class:`~lightning_memaudit.recovery.wandering.Wandering`.

    It estimates no mask (``recovery.mask`` is all ones) and certifies nothing. The score is the mean squared change of
    an image in its last iteration.

    Attributes:
        num_iterations: Iterations at most.
        check_every: Iterations between two looks at convergence.
        tolerance: Root mean square change per iteration below which an image has converged; 0 never stops early. On
            six autoencoders the same 126 images came back with a tenth of it, for up to 32% more evaluations.
        chunk_size: Images at once; None chooses by memory.
        record_at: Iterations to record in ``recovery.trace``; 0 is the start.
        wandering: An image wanders, and stops, when its least change in so many iterations is hardly below the least
            in as many before, nor twice that, and it has got nowhere meanwhile; 0 lets it go on.

    Raises:
        ValueError: A number of iterations is below 1, or ``wandering`` below 0.

    >>> stored = torch.full((1, 1, 8, 8), 0.5)  # an attractor of the autoencoder below
    >>> recovery = AutoencoderIterations()(lambda images: (images + stored) / 2, torch.zeros(1, 1, 8, 8))
    >>> torch.allclose(recovery.image, stored, atol=1e-3), recovery.num_evaluations.tolist()
    (True, [15])
    """

    families: ClassVar[tuple[Family, ...]] = ("mask", "blur")

    num_iterations: int = 200
    check_every: int = 5
    tolerance: float = 1e-4
    chunk_size: int | None = None
    record_at: Sequence[int] = ()
    wandering: int = 25

    def __post_init__(self) -> None:
        check_counts(num_iterations=self.num_iterations, check_every=self.check_every)
        check_wandering(self.wandering)

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Iterate from ``observed``, (B, C, *spatial).

        Raises:
            ValueError: ``observed`` is not a finite batch of images.
        """
        check_images("observed", observed)
        autoencoder = InputProtected(autoencoder)
        chunk_size = rows_per_chunk(observed, self.chunk_size)
        return concatenate(
            map_chunks(lambda rows: self._iterate(autoencoder, observed[rows]), len(observed), chunk_size)
        )

    @torch.no_grad()
    def _iterate(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        image, final = observed, observed.clone()
        rows = torch.arange(len(observed), device=observed.device)
        residual = row_values(observed, torch.inf)
        evaluations = torch.zeros(len(observed), dtype=torch.int64, device=observed.device)
        records = {0: observed} if 0 in self.record_at else {}
        wandering = Wandering(self.wandering if self.tolerance > 0 else 0, self.check_every, even_pace=True)
        for iteration in range(1, self.num_iterations + 1):
            previous, image = image, autoencoder(image)
            last = iteration == self.num_iterations
            if last or iteration % self.check_every == 0 or iteration in self.record_at:
                change = per_image_mean((image - previous).square())
                going = change > self.tolerance**2  # false for NaN: a diverged image leaves
                if iteration % self.check_every == 0:
                    wanders, arrived = wandering.found(change, image, image)
                    going &= ~(wanders | arrived)
                final[rows], residual[rows], evaluations[rows] = image, change, iteration
                if iteration in self.record_at:
                    records[iteration] = final.clone()
                if last or not bool(going.all()):
                    rows, image = rows[going], image[going]
                    wandering.keep(going)
                    if not len(rows):
                        later = [one for one in self.record_at if iteration < one <= self.num_iterations]
                        if later:  # it would find no other images, and nor would all after it
                            records[min(later)] = final.clone()
                        break
        finite = all_finite(final) & residual.isfinite()
        return Recovery(
            image=torch.where(with_axes(finite, observed), final, observed),
            mask=torch.ones_like(observed[:, :1]),
            score=torch.where(finite, residual, torch.inf),
            certified=torch.zeros_like(finite),
            num_evaluations=evaluations,
            trace=_trace(records, autoencoder, observed),
        )


def _trace(records: dict[int, Tensor], autoencoder: Autoencoder, observed: Tensor) -> Trace | None:
    if not records:
        return None
    images = torch.stack(list(records.values()))
    return Trace(
        iterations=tuple(records),
        image=images,
        mask=torch.ones_like(images[:, :, :1]),
        fixed_point_residual=torch.stack([per_image_mean((autoencoder(x) - x).square()) for x in images]),
        data_residual=torch.stack([per_image_mean((x - observed).square()) for x in images]),
    )

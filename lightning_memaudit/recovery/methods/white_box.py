"""Recovery by gradients through the autoencoder, for the question whether they find more than evaluations do."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import map_chunks, rows_per_chunk
from lightning_memaudit.recovery.candidates import masked_mean, refine
from lightning_memaudit.recovery.checks import check_counts, check_images
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.mask_rules import AutomaticMask
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import row_values, with_axes
from lightning_memaudit.recovery.types import Autoencoder, Recovery, concatenate


@dataclass(frozen=True)
class WhiteBoxRecovery:
    """Gradient descent on the image through the autoencoder.

    Minimize over x, by Adam from the smooth interpolation of the data, with the mask estimated as x goes on,

        mean over h of (x - y)^2  +  weight * mean (f(x) - x)^2

    It is blind as :class:`~lightning_memaudit.recovery.BlindRecovery` is, but differentiates f, where that one only
    evaluates it; a gradient costs about two evaluations more, and is counted as such. It certifies nothing.

    Attributes:
        mask_estimator: Any function ``(image, observed) -> mask``.
        weight: Of the fixed-point term, positive.
        num_steps: Steps of Adam.
        learning_rate: Of Adam at the first step, positive; it falls linearly towards 0.
        mask_steps: Steps between two estimates of the mask.
        chunk_size: Images at once; None chooses by memory.

    Raises:
        ValueError: An attribute is out of its range; the message names it and its value.

    >>> stored = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def f(x):  # a mean of the stored images in which near ones weigh more: it has a gradient
    ...     weights = torch.softmax(-9 * torch.cdist(x.flatten(1), stored.flatten(1)), 1)
    ...     return (weights @ stored.flatten(1)).view_as(x)
    >>> mask = torch.tensor([1.0, 0]).repeat(4, 1, 8, 4)
    >>> recovery = WhiteBoxRecovery(num_steps=100)(f, observed=mask * stored)
    >>> torch.allclose(recovery.image, stored, atol=0.05), recovery.num_evaluations.tolist()
    (True, [301, 301, 301, 301])
    """

    estimates_mask: ClassVar[bool] = True

    mask_estimator: MaskEstimator = field(default_factory=AutomaticMask)
    weight: float = 1.0
    num_steps: int = 200
    learning_rate: float = 0.02
    mask_steps: int = 10
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_counts(num_steps=self.num_steps, mask_steps=self.mask_steps)
        for name in ("weight", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, *spatial), in whatever grad mode the caller is; weights of f get no gradients.

        Raises:
            ValueError: ``observed`` is not a finite batch of images, or f cannot be differentiated.
        """
        check_images("observed", observed)
        autoencoder = InputProtected(autoencoder)
        rows = rows_per_chunk(observed, self.chunk_size)
        return concatenate(map_chunks(lambda part: self._recover(autoencoder, observed[part]), len(observed), rows))

    def _recover(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        mask = self.mask_estimator(observed, observed)
        image = interpolate(observed, mask)
        first, second = torch.zeros_like(image), torch.zeros_like(image)
        for step in range(1, self.num_steps + 1):
            if step > 1 and step % self.mask_steps == 0:
                mask = self.mask_estimator(image, observed)
            gradient = self._gradient(autoencoder, observed, mask, image)
            # Adam (Kingma & Ba 2015), every image on its own.
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            direction = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            image = image - self.learning_rate * (1 - step / (self.num_steps + 1)) * direction
        with torch.no_grad():
            mask = self.mask_estimator(image, observed)
            candidate = refine(autoencoder, observed, mask, image, row_values(observed, 0.0))
        finite = candidate.score.isfinite()
        usable = with_axes(finite, observed)
        return Recovery(
            image=torch.where(usable, candidate.image, observed),
            mask=torch.where(usable, candidate.mask, 1.0),
            score=candidate.score,
            certified=torch.zeros_like(finite),
            num_evaluations=torch.full_like(finite, 3 * self.num_steps + 1, dtype=torch.int64),
        )

    def _gradient(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = image.detach().requires_grad_()
            output = autoencoder(variable)
            if not output.requires_grad:
                raise ValueError("autoencoder: its output has no gradient; pass one that torch can differentiate")
            data = masked_mean((variable - observed).square(), mask)
            loss = data + self.weight * (output - variable).square().flatten(1).mean(1)
            # Only with respect to the image: gradients of the weights must not change.
            return torch.autograd.grad(loss.sum(), variable)[0]

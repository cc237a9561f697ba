"""Recovery when the mask is known: the upper bound of the blind method."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.checks import (
    check_images,
    check_mask,
    check_max_evaluations,
    check_noise,
    check_penalties,
)
from lightning_memaudit.recovery.given_penalties import recover_with_penalties
from lightning_memaudit.recovery.gradients import UseOfGradients, check_gradients, evaluations_allowed
from lightning_memaudit.recovery.mask_rules import known_mask
from lightning_memaudit.recovery.methods.blind import BlindRecovery
from lightning_memaudit.recovery.search import GAIN_EVALUATIONS, SearchResult, recover_self_tuned, search
from lightning_memaudit.recovery.spatial import row_values
from lightning_memaudit.recovery.tuning import SelfTuning
from lightning_memaudit.recovery.types import Autoencoder, Problem, Recovery, concatenate


@dataclass(frozen=True)
class KnownMaskRecovery:
    """Plug-and-play ADMM with the true mask (the paper's comparison with known degradation).

    It tunes itself as :class:`~lightning_memaudit.recovery.BlindRecovery` does, or runs given penalties as they are.

    Attributes:
        penalties: None tunes itself. A list: exactly these ADMM penalties, from f(y), the best by the blind score is
            kept.
        gradients: ``auto`` differentiates the autoencoder where that is possible, when tuning itself; ``never`` only
            evaluates it.
        max_evaluations: Evaluations of the autoencoder per image at most, when tuning itself; a backward pass counts as
            two. None is 700 with gradients and 400 without. One more may look for noise.
        noise: Standard deviation of the noise in the observation. With 0 what there is, is told from residuals in the
            end.
        tuning: The order in which the self-tuning tries things.
        alternation: Iterations and tolerances of given penalties.
        chunk_size: Attempts at once; None chooses by memory.
        record_at: Iterations of given penalties to record in ``recovery.trace``; 0 is the start.

    Raises:
        ValueError: An attribute is out of its range or does not fit another; the message names it and its value.

    >>> stored = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def f(x):
    ...     return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
    >>> mask = (torch.arange(8) < 2).repeat(4, 1, 8, 1)  # a quarter is observed
    >>> recovery = KnownMaskRecovery()(f, mask * stored, mask)
    >>> torch.equal(recovery.image, stored), recovery.certified.any().item()  # told the mask, it claims nothing
    (True, False)
    """

    needs_mask: ClassVar[bool] = True

    penalties: Sequence[float] | None = None
    max_evaluations: int | None = None
    noise: float = 0.0
    tuning: SelfTuning = field(default_factory=SelfTuning)
    alternation: Alternation = field(default_factory=Alternation)
    chunk_size: int | None = None
    record_at: Sequence[int] = ()
    gradients: UseOfGradients = "auto"

    def __post_init__(self) -> None:
        if self.penalties is not None:
            check_penalties(tuple(self.penalties))
        elif self.record_at:
            raise ValueError(
                f"record_at={list(self.record_at)}: only given penalties are recorded, pass penalties=[0.1]"
            )
        check_max_evaluations(self.max_evaluations)
        check_gradients(self.gradients)
        check_noise(self.noise)

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, *spatial), given ``mask``, (B, 1 or C, *spatial), of any type, in [0, 1].

        Raises:
            ValueError: The shapes do not fit or values are not finite.
        """
        check_images("observed", observed)
        check_mask(mask, observed)
        mask = mask.to(observed.dtype)
        if self.penalties is not None:
            return recover_with_penalties(
                autoencoder, observed, mask, self.penalties, self.alternation, self.chunk_size, self.record_at
            )

        def find(autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> SearchResult:
            problem = Problem.whole(observed, mask, row_values(observed, self.noise))
            budget = evaluations_allowed(self.max_evaluations, autoencoder) - GAIN_EVALUATIONS
            share = torch.full_like(problem.noise, budget, dtype=torch.int64)
            return search(autoencoder, problem, known_mask, self.tuning, share)

        return recover_self_tuned(autoencoder, observed, find, self.chunk_size, self.gradients, mask)

    def after(
        self, earlier: Sequence[tuple[object, Recovery]], autoencoder: Autoencoder, observed: Tensor, mask: Tensor
    ) -> Recovery:
        """The same recovery as a call's, without searching again what another method has searched alike.

        Args:
            earlier: Methods and what they made of the same ``observed`` with the same ``autoencoder``.
            autoencoder: f, images (B, C, *spatial) to the same shape.
            observed: (B, C, *spatial).
            mask: The true mask, (B, 1 or C, *spatial).

        Returns:
            The recovery; ``num_evaluations`` is what a call spends, although images taken over cost none here.

        Raises:
            ValueError: The shapes do not fit or values are not finite.
        """
        for method, found in earlier:
            alike = self._searched_alike(method, found, mask)
            if bool(alike.any()):
                break
        else:
            return self(autoencoder, observed, mask)
        # It claims nothing, and its mask is the one that it is told.
        certified, told = torch.zeros_like(found.certified), mask.to(found.mask.dtype)
        taken = found._replace(certified=certified, calibration=None, mask=told)
        if found.num_beside is not None:
            taken = taken._replace(num_evaluations=found.num_evaluations - found.num_beside, num_beside=None)
        rest = (~alike).nonzero().squeeze(1)
        if not len(rest):
            return taken
        others = self(autoencoder, observed[rest], mask[rest])
        order = torch.cat([alike.nonzero().squeeze(1), rest]).argsort()
        return concatenate([taken.select(alike), others]).select(order)

    def _searched_alike(self, method: object, found: Recovery, mask: Tensor) -> Tensor:
        """Which images the method searched exactly as this one would: with the same mask, to the bit, and settings."""
        nothing = torch.zeros_like(found.certified)
        if not isinstance(method, BlindRecovery) or found.relied_on_mask is None or self.penalties is not None:
            return nothing
        mine, theirs = (
            (one.penalties, one.tuning, one.gradients, one.max_evaluations, one.noise or 0.0) for one in (self, method)
        )
        if mine != theirs or found.mask.shape[1] < mask.shape[1]:
            return nothing
        # Where another image of the batch had a mask per channel, a shared mask is repeated.
        same = (found.mask == mask.to(found.mask.dtype)).flatten(1).all(1)
        if mask.shape[1] > 1:
            same &= (mask != mask[:, :1]).flatten(1).any(1)
        return found.relied_on_mask & same

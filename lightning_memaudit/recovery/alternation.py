"""The alternation: plug-and-play ADMM for the image, an estimator for the mask, until nothing moves any more.

Rows that have converged or diverged, or wander, leave the batch, but only at every ``check_every``-th iteration:
looking costs a wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.admm import Workspace
from lightning_memaudit.recovery.batches import per_image_mean, same_channels
from lightning_memaudit.recovery.checks import check_counts, check_wandering
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.types import Autoencoder, Trace
from lightning_memaudit.recovery.wandering import Wandering


class Solution(NamedTuple):
    """Where the alternation stopped, one row per attempt.

    Attributes:
        image: (B, C, *spatial), not finite where the attempt diverged.
        mask: (B, 1 or C, *spatial).
        fixed_point_residual: (B,) mean ``(f(x) - x)^2``.
        data_residual: (B,) mean over the mask of ``(x - y)^2``; infinite where the mask is empty.
        num_evaluations: (B,) int64.
        trace: The recorded iterations, or None.

    >>> stored, mask = torch.full((1, 1, 4, 4), 0.5), torch.tensor([1.0, 0, 1, 0]).expand(1, 1, 4, 4)
    >>> solution = alternate(lambda v: stored, mask * stored, torch.ones(1), mask, start=mask, settings=Alternation())
    >>> solution.image.round(decimals=3).unique().tolist(), bool(solution.score < 1e-6)  # stored, not seen whole
    ([0.5], True)
    """

    image: Tensor
    mask: Tensor
    fixed_point_residual: Tensor
    data_residual: Tensor
    num_evaluations: Tensor
    trace: Trace | None

    @property
    def score(self) -> Tensor:
        """(B,) the sum of both residuals, infinite where the attempt diverged."""
        score = self.fixed_point_residual + self.data_residual
        return torch.where(score.isfinite(), score, torch.inf)


@dataclass(frozen=True)
class Alternation:
    """How the alternation runs.

    Attributes:
        num_iterations: ADMM iterations at most.
        admm_steps: ADMM iterations between two mask estimates.
        check_every: Iterations between two looks at convergence; the only time the host waits for the device.
        tolerance: An attempt has converged when the root mean square change of its image per iteration is below
            this; 0 never stops early. With a tenth of it the same 778 images came back on seven autoencoders, for 14%
            to 38% more evaluations.
        wandering: An attempt wanders, and stops, when the least change of its image in so many iterations is hardly
            below the least in as many before, see :mod:`lightning_memaudit.recovery.wandering`; 0 lets it go on.

    Raises:
        ValueError: A number is below 1, or the tolerance or ``wandering`` below 0.

    >>> image, settings = torch.ones(1, 1, 4, 4), Alternation(num_iterations=200, check_every=20)
    >>> alternate(lambda v: v, image, torch.ones(1), image, image, settings).num_evaluations.item()  # stops after 20
    22
    """

    num_iterations: int = 200
    admm_steps: int = 5
    check_every: int = 5
    tolerance: float = 1e-4
    wandering: int = 25

    def __post_init__(self) -> None:
        check_counts(num_iterations=self.num_iterations, admm_steps=self.admm_steps, check_every=self.check_every)
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance}: must be 0 or more")
        check_wandering(self.wandering)


def residuals(autoencoder: Autoencoder, observed: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed-point residual ``mean (f(x) - x)^2`` and data residual ``mean over h of (x - y)^2``, each (B,).

    The arguments are f, y and h of :func:`~lightning_memaudit.recovery.admm.step`, and x. An empty mask explains
    nothing: its data residual is infinite.
    """
    fixed_point = per_image_mean((autoencoder(image) - image).square())
    return fixed_point, data_residual(observed, mask, image)


def data_residual(observed: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """Mean over the mask of ``(x - y)^2``, (B,); infinite where the mask is empty."""
    weight = mask.expand_as(image).flatten(1)
    total = (weight * (image - observed).square().flatten(1)).sum(1)
    kept = weight.sum(1)
    return torch.where(kept > 0, total / kept.clamp_min(1), torch.inf)


def alternate(
    autoencoder: Autoencoder,
    observed: Tensor,
    penalty: Tensor,
    mask: Tensor | MaskEstimator,
    start: Tensor,
    settings: Alternation,
    record_at: Sequence[int] = (),
) -> Solution:
    """Alternate between the mask and the image until nothing moves (arXiv 2310.02897).

    Start from x = z = start, u = 0. Then repeat: estimate the mask from x, unless it is given; ``admm_steps`` times
    :func:`~lightning_memaudit.recovery.admm.step`. Rows that have converged, wander or are no longer finite leave the
    batch at every ``check_every`` iterations.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: y, (B, C, *spatial).
        penalty: (B,), positive, one per row.
        mask: The known mask, (B, 1 or C, *spatial), or an estimator of it.
        start: First image, (B, C, *spatial), usually f(y).
        settings: Iterations and tolerances.
        record_at: Iterations to record; 0 is the start. Recording costs one more evaluation each, which is not counted.
    """
    estimate = None if isinstance(mask, Tensor) else mask
    rows = torch.arange(len(observed), device=observed.device)
    current = mask if isinstance(mask, Tensor) else mask(start, observed)
    work = Workspace(autoencoder, observed, start, penalty)
    work.set_mask(current)
    del start  # the workspace lets it go once it is used

    finished = _Finished()
    wandering = Wandering(settings.wandering, settings.check_every)
    recorder = _Recorder(autoencoder, observed, record_at)
    if recorder.wants(0):
        recorder.record(0, rows, work.image, current, finished)

    def checks(iteration: int) -> bool:
        last = iteration == settings.num_iterations
        return last or (iteration % settings.check_every == 0 and settings.tolerance > 0)

    active = observed
    for iteration in range(1, settings.num_iterations + 1):
        if estimate is not None and iteration > 1 and (iteration - 1) % settings.admm_steps == 0:
            current = estimate(work.image, active)
            work.set_mask(current)
        previous = work.take_image() if checks(iteration) else None
        estimates = estimate is not None and iteration % settings.admm_steps == 0
        wanted = checks(iteration) or checks(iteration + 1) or estimates or recorder.wants(iteration)
        work.advance(image=wanted)
        if recorder.wants(iteration):
            recorder.record(iteration, rows, work.image, current, finished)
        if previous is not None:
            change = per_image_mean(previous.sub_(work.image).square_())
            # NaN compares false, so a diverged row is "not moving on" and leaves.
            wanders, arrived = wandering.found(change, work.image, work.prior)
            going = (change > settings.tolerance**2) & ~wanders & ~arrived
            last = iteration == settings.num_iterations
            if last:
                going = torch.zeros_like(going)
            if last or not bool(going.all()):
                finished.add(rows, ~going, iteration, work.image, current)
                rows, active, current = rows[going], active[going], current[going]
                work.keep(going)
                wandering.keep(going)
                if not len(rows):
                    recorder.record_the_end(iteration, settings.num_iterations, finished)
                    break

    del work, previous, active
    final_image, final_mask, iterations_used = finished.join()
    if estimate is not None:
        final_mask = estimate(final_image, observed)
    fixed_point, data = residuals(autoencoder, observed, final_mask, final_image)
    # One evaluation made the start (by the caller), one the final residual.
    return Solution(final_image, final_mask, fixed_point, data, iterations_used + 2, recorder.trace())


class _Finished:
    """Collects the rows that leave the batch."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, rows: Tensor, done: Tensor, iteration: int, image: Tensor, mask: Tensor) -> None:
        """Take the rows that are done out of ``rows``, ``image`` and ``mask``; all of them without a copy."""
        if not bool(done.all()):
            rows, image, mask = rows[done], image[done], mask[done]
        self.parts.append((rows, image, mask, torch.full_like(rows, iteration)))

    def join(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, masks and iterations used, in the order in which the batch began."""
        if len(self.parts) == 1:
            return self.parts[0][1:]
        all_rows, images, masks, numbers = zip(*self.parts, strict=True)
        self.parts.clear()
        order = torch.cat(all_rows).argsort()
        # An estimator may need a mask per channel for some rows only.
        return torch.cat(images)[order], torch.cat(same_channels(masks))[order], torch.cat(numbers)[order]


class _Recorder:
    """Keeps chosen iterations of every row; rows that have left stay what they were when they left."""

    def __init__(self, autoencoder: Autoencoder, observed: Tensor, record_at: Sequence[int]) -> None:
        self.autoencoder = autoencoder
        self.observed = observed
        self.wanted = frozenset(record_at)
        self.records: list[tuple[int, Tensor, Tensor]] = []

    def wants(self, iteration: int) -> bool:
        return iteration in self.wanted

    def record(self, iteration: int, rows: Tensor, image: Tensor, mask: Tensor, finished: _Finished) -> None:
        self._record(iteration, [*(part[:3] for part in finished.parts), (rows, image, mask)])

    def record_the_end(self, iteration: int, num_iterations: int, finished: _Finished) -> None:
        """Once all rows have left: what they are is what the next iteration to record would find, and all after it."""
        later = [one for one in self.wanted if iteration < one <= num_iterations]
        if later:
            self._record(min(later), [part[:3] for part in finished.parts])

    def _record(self, iteration: int, parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        rows, images, masks = zip(*parts, strict=True)
        order = torch.cat(rows).argsort()
        self.records.append((iteration, torch.cat(images)[order], torch.cat(same_channels(masks))[order]))

    def trace(self) -> Trace | None:
        if not self.records:
            return None
        pairs = [residuals(self.autoencoder, self.observed, mask, image) for _, image, mask in self.records]
        return Trace(
            tuple(iteration for iteration, _, _ in self.records),
            torch.stack([image for _, image, _ in self.records]),
            torch.stack(same_channels([mask for _, _, mask in self.records])),
            torch.stack([fixed_point for fixed_point, _ in pairs]),
            torch.stack([data for _, data in pairs]),
        )

"""Alternating recovery: plug-and-play ADMM for the image, an estimator for the mask.

One row of a batch is one attempt: an image with its own penalty and its own start. All rows advance together. Rows
that have converged or diverged leave the batch, but only at every ``check_every``-th iteration: looking costs a wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import per_image_mean, same_channels
from lightning_memaudit.recovery.checks import check_counts
from lightning_memaudit.recovery.interpolation import Interpolation
from lightning_memaudit.recovery.masks import MaskEstimator
from lightning_memaudit.recovery.spatial import with_axes
from lightning_memaudit.recovery.types import Autoencoder, Trace


class State(NamedTuple):
    """The three ADMM variables, each (B, C, *spatial).

    Attributes:
        image: x, the estimate that fits the data.
        prior: z, the estimate that the autoencoder returned.
        dual: u, the scaled dual variable; it starts at zero.

    >>> one, zero = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    >>> state = step(lambda v: v / 2, one, one, State(zero, zero, zero), penalty=torch.ones(1, 1, 1, 1))
    >>> [field.mean().item() for field in state]  # x halfway between y = 1 and z = 0; z = f(x + u); u = u + x - z
    [0.5, 0.25, 0.25]
    """

    image: Tensor
    prior: Tensor
    dual: Tensor


def data_step(observed: Tensor, mask: Tensor, prior: Tensor, dual: Tensor, penalty: Tensor) -> Tensor:
    """Minimize ``|h x - y|^2 + penalty |x - (z - u)|^2`` over x, elementwise for a diagonal degradation h.

    x = (h y + penalty (z - u)) / (h^2 + penalty), (B, C, *spatial); the arguments are as those of :func:`step`
    """
    return (mask * observed + penalty * (prior - dual)) / (mask.square() + penalty)


def step(autoencoder: Autoencoder, observed: Tensor, mask: Tensor, state: State, penalty: Tensor) -> State:
    """One iteration of plug-and-play ADMM (arXiv 2310.02897; Venkatakrishnan et al. 2013).

    x = (h y + penalty (z - u)) / (h^2 + penalty)      data term
    z = f(x + u)                                       prior term: f stands where a proximal map would
    u = u + x - z                                      dual

    Args:
        autoencoder: f, from (B, C, *spatial) to (B, C, *spatial).
        observed: y, (B, C, *spatial).
        mask: h, (B, 1, *spatial) or (B, C, *spatial), in [0, 1].
        state: x, z and u of the last iteration.
        penalty: (B, 1, *ones), positive, one per row.
    """
    image = data_step(observed, mask, state.prior, state.dual, penalty)
    prior = autoencoder(image + state.dual)
    dual = state.dual + image - prior
    return State(image, prior, dual)


class _Neighbours(NamedTuple):
    """Where corrections are spread from, how, and which share of them every pixel takes, (B, 1 or C, *spatial)."""

    observed: Tensor
    interpolation: Interpolation
    share: Tensor


class Workspace:
    """:func:`step` in place: the same three equations in buffers that are allocated once.

    With the data term's constants ``a = h y / (h^2 + penalty)`` and ``b = penalty / (h^2 + penalty)``, and v = x + u:

    x = a + b (z - u)                 only where it is asked for
    v = a + (1 - b) u + b z           the same plus u
    z = f(v)
    u = v - z                         since u + x - z = v - z

    u and v share a buffer, and the old z is gone when f makes the new one. So beside f's own memory there are a, u, z
    and, where it is asked for, x: four tensors of the batch's size; b has the mask's size.

    In hidden pixels, h = 0, v is the last z: only observed pixels are corrected, and where these are few f hardly
    reacts. ``spread`` s > 0 adds to hidden pixels s times the average correction v - z of the observed ones nearby:

    z = f(v + s (1 - h) S(v - z))     S averages nearby pixels with h > 1/2, see Interpolation

    The other equations stay as they are. Where f returns the data v - z is 0, and so is what is added. It takes one
    tensor more while f runs, and S for a moment somewhat more than another.

    Args:
        autoencoder: f, which leaves its input alone and returns a tensor of its own.
        observed: y, (B, C, *spatial).
        start: First x and z, (B, C, *spatial).
        penalty: (B,), positive, one per row.
        spread: s, (B,), in [0, 1]; None is :func:`step`.

    Attributes:
        prior: z, (B, C, *spatial).

    >>> ones = torch.ones(2, 1, 4, 4)
    >>> work = Workspace(lambda v: v / 2, observed=ones, start=0 * ones, penalty=torch.tensor([1.0, 3.0]))
    >>> work.set_mask(ones)
    >>> work.advance()
    >>> work.image.mean((1, 2, 3)).tolist(), work.prior.mean((1, 2, 3)).tolist()  # x = 1 / (1 + penalty), z = f(x)
    ([0.5, 0.25], [0.25, 0.125])
    """

    def __init__(
        self, autoencoder: Autoencoder, observed: Tensor, start: Tensor, penalty: Tensor, spread: Tensor | None = None
    ) -> None:
        self._autoencoder = autoencoder
        self._spread = None if spread is None else with_axes(spread, observed)
        self._neighbours: _Neighbours | None = None
        self._observed = observed
        self._penalty = with_axes(penalty, observed)
        self.prior = start.to(observed.dtype)
        self._dual = torch.zeros_like(observed)
        self._constant = torch.empty_like(observed)
        self._weight: Tensor | None = None
        self._image: Tensor | None = start
        self._buffer: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """The last iteration's x, which it must have been asked for, (B, C, *spatial); the start before the first."""
        assert self._image is not None
        return self._image

    def take_image(self) -> Tensor:
        """:attr:`image` as a tensor that the caller may keep and write to; the workspace will not write to it."""
        if self._image is not self._buffer:  # the start, which is someone else's
            return self.image.clone()
        self._buffer = None
        return self.image

    def set_mask(self, mask: Tensor) -> None:
        """Take over a mask (B, 1 or C, *spatial)."""
        mask = mask.to(self._observed.dtype)
        denominator = mask.square().add_(self._penalty)
        self._weight = self._penalty / denominator
        if self._spread is not None:
            # With h between 0 and 1 the data term asks for y / h: no correction that others should be shown.
            observed = (mask > 0.5).to(mask.dtype)
            self._neighbours = _Neighbours(observed, Interpolation(observed), self._spread * (1 - mask))
        torch.mul(self._observed, mask.div(denominator), out=self._constant)

    def advance(self, image: bool = True) -> None:
        """One iteration; a mask must have been set.

        Args:
            image: Whether x is wanted. The iteration needs only v and goes faster without.
        """
        assert self._weight is not None
        self._image = None
        if image:
            if self._buffer is None:
                self._buffer = torch.empty_like(self._dual)
            self._image = torch.sub(self.prior, self._dual, out=self._buffer)
            torch.addcmul(self._constant, self._weight, self._image, out=self._image)
        point = self._dual.lerp_(self.prior, self._weight).add_(self._constant)
        shown = self._spread_out(point)
        del self.prior
        self.prior = self._autoencoder(shown)
        self._dual = point.sub_(self.prior)

    def _spread_out(self, point: Tensor) -> Tensor:
        """What f is shown: ``v + s (1 - h) S(v - z)``, or v itself where nothing is spread."""
        if self._neighbours is None:
            return point
        observed, interpolation, share = self._neighbours
        return torch.addcmul(point, interpolation((point - self.prior).mul_(observed)), share)

    def keep(self, rows: Tensor) -> None:
        """Let all but these rows (a boolean vector) leave the batch; only where nothing is spread."""
        assert self._spread is None
        self._observed, self._penalty = self._observed[rows], self._penalty[rows]
        self.prior, self._dual, self._constant = self.prior[rows], self._dual[rows], self._constant[rows]
        self._image = None if self._image is None else self._image[rows]
        self._buffer = self._image
        self._weight = None if self._weight is None else self._weight[rows]


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
            this; 0 never stops early.

    Raises:
        ValueError: A number is below 1, or the tolerance below 0.

    >>> image, settings = torch.ones(1, 1, 4, 4), Alternation(num_iterations=200, check_every=20)
    >>> alternate(lambda v: v, image, torch.ones(1), image, image, settings).num_evaluations.item()  # stops after 20
    22
    """

    num_iterations: int = 200
    admm_steps: int = 5
    check_every: int = 5
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_counts(num_iterations=self.num_iterations, admm_steps=self.admm_steps, check_every=self.check_every)
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance}: must be 0 or more")


def residuals(autoencoder: Autoencoder, observed: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed-point residual ``mean (f(x) - x)^2`` and data residual ``mean over h of (x - y)^2``, each (B,).

    The arguments are f, y and h of :func:`step`, and x. An empty mask explains nothing: its data residual is infinite.
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
    :func:`step`. Rows that have converged or are no longer finite leave the batch at every ``check_every`` iterations.

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
            going = change > settings.tolerance**2
            last = iteration == settings.num_iterations
            if last:
                going = torch.zeros_like(going)
            if last or not bool(going.all()):
                finished.add(rows, ~going, iteration, work.image, current)
                rows, active, current = rows[going], active[going], current[going]
                work.keep(going)
                if not len(rows):
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
    """Keeps chosen iterations of every row; rows that have left keep their last record."""

    def __init__(self, autoencoder: Autoencoder, observed: Tensor, record_at: Sequence[int]) -> None:
        self.autoencoder = autoencoder
        self.observed = observed
        self.wanted = frozenset(record_at)
        self.records: list[tuple[int, Tensor, Tensor]] = []

    def wants(self, iteration: int) -> bool:
        return iteration in self.wanted

    def record(self, iteration: int, rows: Tensor, image: Tensor, mask: Tensor, finished: _Finished) -> None:
        if self.records:
            _, images, masks = self.records[-1]
            images, masks = images.clone(), masks.clone()
        else:
            images = torch.zeros_like(self.observed)
            masks = mask.new_zeros(len(self.observed), *mask.shape[1:])
            for left, last_image, last_mask, _ in finished.parts:
                images[left], masks[left] = last_image, last_mask[:, : masks.shape[1]]
        images[rows], masks[rows] = image, mask
        self.records.append((iteration, images, masks))

    def trace(self) -> Trace | None:
        if not self.records:
            return None
        pairs = [residuals(self.autoencoder, self.observed, mask, image) for _, image, mask in self.records]
        return Trace(
            tuple(iteration for iteration, _, _ in self.records),
            torch.stack([image for _, image, _ in self.records]),
            torch.stack([mask for _, _, mask in self.records]),
            torch.stack([fixed_point for fixed_point, _ in pairs]),
            torch.stack([data for _, data in pairs]),
        )

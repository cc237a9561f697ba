"""What goes into a recovery method and what comes out.

Images are (B, C, *spatial) everywhere: B of them, any number of channels C, and one, two or three spatial axes. These
are the length of a signal; height and width of a picture; depth, height and width of a volume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import same_channels

Autoencoder = Callable[[Tensor], Tensor]
"""Any function from images (B, C, *spatial) to images of the same shape, nominally in [0, 1]."""

Family = Literal["mask", "blur"]
"""What H of ``y = H x + noise`` is: diagonal, or circulant."""


class Trace(NamedTuple):
    """The iterations of a recovery, recorded at chosen iterations only (K of them).

    Attributes:
        iterations: The K recorded iteration numbers, 0 is the start.
        image: (K, B, C, *spatial) image estimates.
        mask: (K, B, 1 or C, *spatial) mask estimates in [0, 1].
        fixed_point_residual: (K, B) mean squared ``f(x) - x``.
        data_residual: (K, B) mean squared ``x - y`` over the estimated mask.

    >>> from lightning_memaudit.recovery import AutoencoderIterations
    >>> method = AutoencoderIterations(num_iterations=4, record_at=(0, 2, 4))
    >>> trace = method(lambda images: images / 2, torch.ones(1, 1, 8, 8)).trace
    >>> trace.iterations, trace.image.shape, trace.image.mean((1, 2, 3, 4)).tolist()
    ((0, 2, 4), torch.Size([3, 1, 1, 8, 8]), [1.0, 0.25, 0.0625])
    """

    iterations: tuple[int, ...]
    image: Tensor
    mask: Tensor
    fixed_point_residual: Tensor
    data_residual: Tensor


@dataclass(frozen=True)
class Calibration:
    """A threshold for the blind score, and what it claims.

    Attributes:
        threshold: Certify below it; None where nothing may be certified.
        reason: Why not, in one line; empty where there is a threshold.
        num_controls: n, the number of scores of images that were not trained on.
        false_rate: Largest expected rate of false certificates, 1 / (n + 1).
        interval: Confidence interval of that rate given that none of n was certified (Clopper & Pearson 1934).
        confidence: Coverage of the interval.
        source: What the scores are of: ``controls``, or ``turned copies``, see
            :func:`~lightning_memaudit.recovery.turned_copies`.

    >>> from lightning_memaudit.recovery import calibrate
    >>> enough, few = calibrate([0.25] * 98 + [0.125]), calibrate([0.25] * 20)
    >>> enough.threshold, enough.false_rate
    (0.125, 0.01)
    >>> few.threshold, few.reason
    (None, '20 controls cannot show a false-certification rate of 0.01: it takes 99, so nothing is certified')
    """

    threshold: float | None
    reason: str
    num_controls: int
    false_rate: float
    interval: tuple[float, float]
    confidence: float = 0.95
    source: str = "controls"


class Recovery(NamedTuple):
    """Result of a recovery method on a batch of B images.

    Attributes:
        image: (B, C, *spatial) estimate, finite everywhere (diverged images fall back to the observation).
        mask: (B, 1, *spatial), or (B, C, *spatial) when not shared by channels; in [0, 1], 1 means observed.
        score: (B,) blind score, lower is better; ``inf`` where the iterations diverged. Of an image that took the place
            of another by its residuals alone, see ``Trimmed.instead``, still that of the other.
        certified: (B,) bool, claimed recovered without any ground truth.
        num_evaluations: (B,) int64, evaluations of the autoencoder spent on each image.
        trace: The recorded iterations, when asked for.
        expected_error: (B,) mean squared error, estimated from the score, as of that; from methods that certify.
        gain: (B,) share of white noise that the autoencoder passes on at the estimate, from methods that certify.
        calibration: Where the certificates' threshold comes from, and the rate of false ones.
        kernel: (B, 1, *[K]) estimated blur, as many axes as the images have, from methods that estimate one.
        gradients_used: Whether f was differentiated, from methods that do so where they can.
        relied_on_mask: (B,) bool, whether ``mask`` was taken for known, without noise, from the first evaluation to the
            last but those beside, from methods that tune themselves.
        num_beside: (B,) int64, evaluations that looked for other masks in vain, from methods that do so.

    >>> from lightning_memaudit.recovery import BlindRecovery
    >>> stored, mask = torch.full((2, 3, 8, 8), 0.5), torch.tensor([1.0, 0]).repeat(2, 1, 8, 4)
    >>> recovery = BlindRecovery()(lambda images: stored[:1].expand_as(images), observed=mask * stored)
    >>> recovery.image.shape, recovery.mask.shape, torch.equal(recovery.mask, mask)
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 1, 8, 8]), True)
    >>> bool((recovery.score < 1e-6).all()), recovery.num_evaluations.tolist()
    (True, [3, 3])
    """

    image: Tensor
    mask: Tensor
    score: Tensor
    certified: Tensor
    num_evaluations: Tensor
    trace: Trace | None = None
    expected_error: Tensor | None = None
    gain: Tensor | None = None
    calibration: Calibration | None = None
    kernel: Tensor | None = None
    gradients_used: bool | None = None
    relied_on_mask: Tensor | None = None
    num_beside: Tensor | None = None

    def select(self, rows: Tensor) -> "Recovery":
        """Only these images, a boolean vector or indices; without the trace."""

        def chosen(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        return Recovery(
            image=self.image[rows],
            mask=self.mask[rows],
            score=self.score[rows],
            certified=self.certified[rows],
            num_evaluations=self.num_evaluations[rows],
            expected_error=chosen(self.expected_error),
            gain=chosen(self.gain),
            calibration=self.calibration,
            kernel=chosen(self.kernel),
            gradients_used=self.gradients_used,
            relied_on_mask=chosen(self.relied_on_mask),
            num_beside=chosen(self.num_beside),
        )


class RecoveryMethod(Protocol):
    """A blind method: it receives the autoencoder and the observation, never the truth or the mask.

    >>> def one_pass(autoencoder: Autoencoder, observed: Tensor) -> Recovery:
    ...     mask, zero = torch.ones_like(observed[:, :1]), torch.zeros(len(observed))
    ...     return Recovery(autoencoder(observed), mask, zero, certified=zero.bool(), num_evaluations=zero.long() + 1)
    >>> method: RecoveryMethod = one_pass
    >>> method(lambda images: images / 2, torch.ones(2, 1, 8, 8)).image.unique().tolist()
    [0.5]
    """

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover a batch of images of shape (B, C, *spatial)."""
        ...


class InformedRecoveryMethod(Protocol):
    """A method that is also told the true mask: an upper bound or a generic baseline, never the audit itself.

    An attribute ``needs_mask = True`` tells the audit to pass the mask.

    >>> from lightning_memaudit.recovery import KnownMaskRecovery
    >>> method: InformedRecoveryMethod = KnownMaskRecovery()
    >>> stored, mask = torch.full((1, 1, 8, 8), 0.5), torch.tensor([1.0, 0]).repeat(1, 1, 8, 4)
    >>> torch.equal(method(lambda images: stored, mask * stored, mask).image, stored), method.needs_mask
    (True, True)
    """

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Recover a batch of images of shape (B, C, *spatial) from the true mask, (B, 1 or C, *spatial)."""
        ...


def concatenate(parts: Sequence[Recovery]) -> Recovery:
    """Join the recoveries of consecutive chunks of a batch.

    A trace, or another optional field, is joined where every chunk has it; the calibration and whether f
    was differentiated are those of the first chunk.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    traces = [part.trace for part in parts if part.trace is not None]
    return Recovery(
        image=torch.cat([part.image for part in parts]),
        mask=torch.cat(same_channels([part.mask for part in parts])),
        score=torch.cat([part.score for part in parts]),
        certified=torch.cat([part.certified for part in parts]),
        num_evaluations=torch.cat([part.num_evaluations for part in parts]),
        trace=_join_traces(traces) if len(traces) == len(parts) else None,
        expected_error=_join([part.expected_error for part in parts]),
        gain=_join([part.gain for part in parts]),
        calibration=first.calibration,
        kernel=_join([part.kernel for part in parts]),
        gradients_used=first.gradients_used,
        relied_on_mask=_join([part.relied_on_mask for part in parts]),
        num_beside=_join([part.num_beside for part in parts]),
    )


def _join_traces(traces: Sequence[Trace]) -> Trace:
    """Join the records of chunks; one whose images have all left early repeats its last record."""
    longest = max((trace.iterations for trace in traces), key=len)
    channels = max(trace.mask.shape[2] for trace in traces)
    prolonged = []
    for trace in traces:
        missing = len(longest) - len(trace.iterations)
        fields = trace._replace(mask=trace.mask.expand(-1, -1, channels, *trace.mask.shape[3:]))[1:]
        prolonged.append([torch.cat([field, field[-1:].expand(missing, *field.shape[1:])]) for field in fields])
    return Trace(longest, *(torch.cat(field, 1) for field in zip(*prolonged, strict=True)))


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


class Problem(NamedTuple):
    """What is known of B degraded images; every field has B rows.

    Attributes:
        observed: y, (B, C, *spatial).
        mask: (B, 1 or C, *spatial), in [0, 1]; a guess where it must be estimated.
        noise: (B,) standard deviation of the noise.
        number: (B,) number of each image among those that the search began with.

    >>> problem = Problem.whole(torch.rand(3, 1, 8, 8), mask=torch.ones(3, 1, 8, 8), noise=torch.zeros(3))
    >>> left = problem.select(torch.tensor([False, True, True]))  # the first image is recovered
    >>> left.observed.shape, left.number.tolist()
    (torch.Size([2, 1, 8, 8]), [1, 2])
    """

    observed: Tensor
    mask: Tensor
    noise: Tensor
    number: Tensor

    @classmethod
    def whole(cls, observed: Tensor, mask: Tensor, noise: Tensor) -> "Problem":
        """All images of a search."""
        return cls(observed, mask, noise, torch.arange(len(observed), device=observed.device))

    def select(self, rows: Tensor) -> "Problem":
        """Only these rows, a boolean vector or indices."""
        return Problem(self.observed[rows], self.mask[rows], self.noise[rows], self.number[rows])

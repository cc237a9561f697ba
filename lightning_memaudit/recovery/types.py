"""What goes into a recovery method and what comes out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Autoencoder = Callable[[Tensor], Tensor]
"""Any function from images (B, C, H, W) to images of the same shape, nominally in [0, 1]."""


class Trace(NamedTuple):
    """The iterations of a recovery, recorded at chosen iterations only (K of them).

    Attributes:
        iterations: The K recorded iteration numbers, 0 is the start.
        image: (K, B, C, H, W) image estimates.
        mask: (K, B, 1 or C, H, W) mask estimates in [0, 1].
        fixed_point_residual: (K, B) mean squared ``f(x) - x``.
        data_residual: (K, B) mean squared ``x - y`` over the estimated mask.
    """

    iterations: tuple[int, ...]
    image: Tensor
    mask: Tensor
    fixed_point_residual: Tensor
    data_residual: Tensor


class Recovery(NamedTuple):
    """Result of a recovery method on a batch of B images.

    Attributes:
        image: (B, C, H, W) estimate, finite everywhere (diverged images fall back to the observation).
        mask: (B, 1, H, W), or (B, C, H, W) when not shared by channels; in [0, 1], 1 means observed.
        score: (B,) blind score, lower is better; ``inf`` where the iterations diverged.
        certified: (B,) bool, claimed recovered without any ground truth.
        num_evaluations: (B,) int64, evaluations of the autoencoder spent on each image.
        trace: The recorded iterations, when asked for.
    """

    image: Tensor
    mask: Tensor
    score: Tensor
    certified: Tensor
    num_evaluations: Tensor
    trace: Trace | None = None


class RecoveryMethod(Protocol):
    """A blind method: it receives the autoencoder and the observation, never the truth or the mask."""

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover a batch of images of shape (B, C, H, W)."""
        ...


class InformedRecoveryMethod(Protocol):
    """A method that is also told the true mask: an upper bound or a generic baseline, never the audit itself."""

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Recover a batch of images of shape (B, C, H, W) from the true mask, (B, 1 or C, H, W)."""
        ...


def concatenate(parts: Sequence[Recovery]) -> Recovery:
    """Join the recoveries of consecutive chunks of a batch."""
    if len(parts) == 1:
        return parts[0]
    traces = [part.trace for part in parts if part.trace is not None]
    trace = None
    if traces:
        trace = Trace(traces[0].iterations, *(torch.cat(field, 1) for field in zip(*(t[1:] for t in traces), strict=True)))
    return Recovery(*(torch.cat(field) for field in zip(*(part[:5] for part in parts), strict=True)), trace)

"""What the loss of a training makes the model return: its images, or something else, such as logits.

The gradient of a squared error is the difference between what is returned and what should be, but for a factor; that of
a cross entropy likewise, behind the sigmoid. So where it is exactly made of what the model has returned and of one of
the images in a batch, it tells with what the loss compares.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.callback.reading.affine import Affine

LEFT, LEFT_IN_HALF = 1e-5, 3e-3
"""Of the variance of a gradient, what may be left of it beside such a difference; in half precision."""

CLEARLY = 0.1
"""As a share of what another explanation leaves, below which one is better."""

LEAST_VARIANCE = 1e-8
"""Of a channel's images, below which they are the same everywhere."""

NEARLY = 0.05
"""Of the images' range, by which a target may differ from what the audit expects."""


class Target(NamedTuple):
    """With what a loss compares what the model returns.

    Attributes:
        path: The place in the batch of the images that it is made of; None for what the model itself was given.
        affine: From those in [0, 1] to what should be returned.
        is_logits: Whether it compares the sigmoid of what is returned.

    >>> Target(()).affine.is_identity
    True
    """

    path: tuple[Any, ...] | None
    affine: Affine = Affine()
    is_logits: bool = False

    def same(self, other: "Target | None") -> bool:
        """Whether both are the same, as of two batches."""
        if other is None or (self.path, self.is_logits) != (other.path, other.is_logits):
            return False
        return self.affine.close_to(other.affine, NEARLY)

    @property
    def ignores_images(self) -> bool:
        """Whether the same should be returned of all images."""
        return all(abs(one) < NEARLY for one in self.affine.slope)


def find_target(
    output: Tensor, gradient: Tensor, given: Tensor | None, images: Mapping[tuple[Any, ...], Tensor]
) -> Target | None:
    """With what the loss compares; None where the gradient does not tell.

    Args:
        output: (B, C, *spatial), what the model has returned.
        gradient: Of the loss by that.
        given: What the model was given, where it is of this shape.
        images: The audited images of the batch, first, and other ones that it holds, by their place there, in [0, 1].

    >>> images, output = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    >>> find_target(output, 0.3 * (output - images.flip(0)), images, {(0,): images, (1,): images.flip(0)}).path
    (1,)
    >>> find_target(output, torch.sigmoid(output) - images, images, {(0,): images}).is_logits
    True
    """
    left = LEFT if gradient.dtype in (torch.float32, torch.float64) else LEFT_IN_HALF
    if not bool(gradient.isfinite().all() and output.isfinite().all()):
        return None  # as where mixed precision scales the loss too far, and leaves the step out
    output, gradient = output.double(), gradient.double()
    fitting: dict[tuple[Any, ...] | None, Affine] = {}
    least, (audited, *others) = left, images.items()
    for path, one in (audited, (None, given), *others):
        if one is not None and one.shape == output.shape:
            found, rest = _affine(output, gradient, one.to(output))
            if found is not None and rest <= left:
                fitting[path], least = found, min(least, rest)
    for path, one in (audited, (None, given), *others):
        if one is None or one.shape != output.shape:
            continue
        rest = _beside(gradient, torch.sigmoid(output) - one.to(output))
        # Near zero the sigmoid is nearly a line: the much better one of both is meant.
        if rest <= left and rest < CLEARLY * least:
            return Target(path, is_logits=True)
        if rest <= left and least > CLEARLY * rest:
            return None
    path = next(iter(fitting), None)
    return None if path is None and None not in fitting else Target(path, fitting[path])


def left_out(output: Tensor, gradient: Tensor) -> Tensor | None:
    """The places (C, *spatial), the same in all images, at which a loss does not look; None where there are none.

    Values that are clamped before they are compared get no gradient either, but they are larger or smaller than others.

    Args:
        output: (B, C, *spatial), what the model has returned.
        gradient: Of the loss by that.

    >>> output, gradient = torch.rand(4, 1, 8, 8), torch.ones(4, 1, 8, 8)
    >>> gradient[..., :2] = 0
    >>> left_out(output, gradient).sum().item(), left_out(output, torch.ones(4, 1, 8, 8))
    (16, None)
    """
    without = gradient == 0
    alike = len(without) > 1 and bool((without == without[0]).all())
    if not alike or not bool(without[0].any()) or bool(without[0].all()):
        return None
    least, most = output[~without].aminmax()
    others = output[without]
    return without[0] if bool(((others > least) & (others < most)).float().mean() > 0.5) else None


def _affine(output: Tensor, gradient: Tensor, images: Tensor) -> tuple[Affine | None, float]:
    """The map of the images to what the gradient says should be returned, and what of its variance that leaves."""
    slopes, offsets, most = [], [], 0.0
    for channel in range(images.shape[1]):
        y, g, x = (one[:, channel].flatten() for one in (output, gradient, images))
        if float(x.var()) < LEAST_VARIANCE or float(y.var()) == 0 or float(g.var()) == 0:
            return None, 1.0
        terms = torch.stack([y, x, torch.ones_like(x)], 1)
        scales = terms.square().mean(0).sqrt()
        factors = torch.linalg.lstsq(terms / scales, g[:, None]).solution[:, 0] / scales
        most = max(most, float((g - terms @ factors).square().mean() / g.var()))
        factor, slope, offset = factors.tolist()
        if factor <= 0:
            return None, 1.0
        slopes.append(-slope / factor)
        offsets.append(-offset / factor)
    found = Affine(tuple(slopes), tuple(offsets))
    of_all = Affine(found.slope[:1], found.offset[:1])
    return (of_all if of_all.close_to(found, 1e-3) else found), most


def _beside(one: Tensor, other: Tensor) -> float:
    """What is left of a tensor beside its part along another, of its variance; 1 where that points the other way."""
    along = float((one * other).sum() / other.square().sum().clamp(min=1e-30))
    return 1.0 if along <= 0 else float((one - along * other).square().mean() / one.var())

"""What a model sees of an image in [0, 1]: range, layout, precision; and the way back from what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor


def orders(ndim: int) -> list[tuple[int, ...]]:
    """Orders of axes that bring images back: from channels last, from channels first, from a transposed picture.

    >>> orders(4)
    [(0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 3, 2)]
    """
    inner, last = tuple(range(1, ndim - 1)), ndim - 1
    swapped = [(0, 1, *range(2, ndim - 2), last, ndim - 2)] if ndim > 3 else []
    return [(0, last, *inner), (0, *range(2, ndim), 1), *swapped]


@dataclass(frozen=True)
class Normalization:
    """The affine map between images (B, C, *spatial) in [0, 1] and what the model sees: ``(image - mean) / std``.

    Attributes:
        mean: One number per channel, or one for all; None is 0.
        std: Likewise, positive; None is 1.
        data_range: What both were made of, see :meth:`of_range`; None where they were given themselves.

    Raises:
        ValueError: A number is not finite, or ``std`` not positive; when applied: too few or too many for the channels.

    >>> normalization = Normalization(mean=[0.5], std=[0.5])  # images in [-1, 1]
    >>> seen = normalization.apply(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3))
    >>> seen.flatten().tolist(), normalization.undo(seen).flatten().tolist()
    ([-1.0, 0.0, 1.0], [0.0, 0.5, 1.0])
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    data_range: Sequence[float] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_range(cls, data_range: Sequence[float] | None, mean: Any = None, std: Any = None) -> "Normalization":
        """Of the lowest and the highest value that images can have, which become 0 and 1; None takes mean and std.

        Raises:
            ValueError: It is no range, or ``mean`` or ``std`` is given as well.

        >>> Normalization.of_range([-1000, 3000]).undo(torch.tensor([-1000.0, 3000.0]).view(1, 1, 2)).flatten().tolist()
        [0.0, 1.0]
        """
        if data_range is None:
            return cls(mean, std)
        if mean is not None or std is not None:
            raise ValueError(f"data_range={list(data_range)}: says the same as mean and std; pass one of them")
        if len(data_range) != 2 or not -float("inf") < data_range[0] < data_range[1] < float("inf"):
            raise ValueError(f"data_range={list(data_range)}: give the lowest and the highest possible value")
        low, high = data_range
        return cls([-low / (high - low)], [1 / (high - low)], data_range)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not all(abs(value) < float("inf") for value in values):
                raise ValueError(f"{name}={list(values)}: must be finite numbers, one per channel or one for all")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std={list(self.std)}: must be positive, one per channel or one for all")

    def apply(self, images: Tensor) -> Tensor:
        """From [0, 1] to the model's range."""
        return (images - self._shaped(self.mean, 0.0, images)) / self._shaped(self.std, 1.0, images)

    def undo(self, images: Tensor) -> Tensor:
        """From the model's range to [0, 1]."""
        return images * self._shaped(self.std, 1.0, images) + self._shaped(self.mean, 0.0, images)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is to be done."""
        return self.mean is None and self.std is None

    @staticmethod
    def _shaped(values: Sequence[float] | None, default: float, images: Tensor) -> Tensor:
        tensor = torch.tensor([default] if values is None else list(values), dtype=images.dtype, device=images.device)
        if len(tensor) not in (1, images.shape[1]):
            raise ValueError(
                f"mean or std has {len(tensor)} values for images of {images.shape[1]} channels: "
                "give one per channel or one for all"
            )
        return tensor.view(-1, *(1,) * (images.ndim - 2))


@dataclass(frozen=True)
class Seen:
    """What a model sees of images (B, C, *spatial) in [0, 1], and how its outputs become such images again.

    Attributes:
        normalization: The range that the model was trained in.
        channels_last: The model gets (B, *spatial, C).
        flat: It gets (B, N): the image's values, in the order of its layout.
        dtype: Of what the model gets. Integers are rounded to, and kept within, what they can hold.

    Raises:
        ValueError: ``dtype`` holds no real numbers.

    >>> seen = Seen(Normalization(mean=[0.5], std=[0.5]), channels_last=True, dtype=torch.float64)
    >>> images = torch.rand(2, 3, 4, 5)
    >>> inputs = seen.apply(images)
    >>> inputs.shape, inputs.dtype, torch.equal(seen.undo(inputs, like=images), images)
    (torch.Size([2, 4, 5, 3]), torch.float64, True)
    """

    normalization: Normalization = Normalization()
    channels_last: bool = False
    flat: bool = False
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.dtype.is_complex or self.dtype == torch.bool:
            raise ValueError(f"dtype={self.dtype}: must be a type of real numbers, such as torch.float32")

    def apply(self, images: Tensor) -> Tensor:
        """The model's input: always a copy, since the model may work in place.

        Args:
            images: (B, C, *spatial) in [0, 1].
        """
        inputs = images.to(_precise(images.dtype, self.dtype), copy=True)
        if not self.normalization.is_identity:
            inputs = self.normalization.apply(inputs)
        if not self.dtype.is_floating_point:
            limits = torch.iinfo(self.dtype)
            inputs = inputs.round().clamp(limits.min, limits.max)
        inputs = inputs.to(self.dtype)
        if self.channels_last:
            inputs = inputs.movedim(1, -1).contiguous()
        return inputs.flatten(1) if self.flat else inputs

    def undo(self, output: Tensor, like: Tensor) -> Tensor:
        """Images of the shape and dtype of ``like``, sharing no memory with the model's output.

        Only an output whose values are certainly in the order of the input's is reshaped: one of its very shape, a flat
        one (B, N), or one that has dimensions of size 1 more or less. Patch tokens are not, nor is another layout.

        Args:
            output: What the model made of :meth:`apply`'s result.
            like: The images.

        Raises:
            ValueError: The output has another shape, or complex numbers.
        """
        if hasattr(output, "as_tensor"):  # MONAI's MetaTensor: nothing of it goes further
            output = output.as_tensor()
        if output.is_complex():
            raise ValueError(f"the model returned {output.dtype}: pass reconstruct=<function (module, images)>")
        if not self._fits(output.shape, like):
            raise ValueError(self._refusal(output.shape, like))
        # Copied whatever it is: the model may return its input, or a buffer that its next call overwrites.
        exact = _precise(output.dtype, like.dtype)
        images = output.to(like.device, exact, copy=True, memory_format=torch.contiguous_format)
        images = images.reshape(self.layout(like))
        if self.channels_last:
            images = images.movedim(-1, 1).contiguous()
        if not self.normalization.is_identity:
            images = self.normalization.undo(images)
        return images.to(like.dtype)

    def layout(self, images: Tensor) -> tuple[int, ...]:
        """The shape of images as the model gets them, before they are flattened."""
        batch, channels, *spatial = images.shape
        return (batch, *spatial, channels) if self.channels_last else (batch, channels, *spatial)

    def shapes(self, images: Tensor) -> list[tuple[int, ...]]:
        """The shapes of a reconstruction: the layout's, and that of what the model gets."""
        layout = self.layout(images)
        return [layout, (layout[0], prod(layout[1:]))] if self.flat else [layout]

    def _fits(self, shape: Sequence[int], images: Tensor) -> bool:
        layout = self.layout(images)
        flat = (layout[0], prod(layout[1:]))
        squeezed = [[size for size in sizes if size != 1] for sizes in (shape, layout)]
        same = squeezed[0] == squeezed[1] and not self._may_be_patches(shape, images)
        return tuple(shape) in (layout, flat) or same or (len(images), *shape) == (1, *flat[1:])

    @staticmethod
    def _may_be_patches(shape: Sequence[int], images: Tensor) -> bool:
        """Whether (B, H, W) may as well be (B, patches, values of a patch), whose values are in another order."""
        height, width = images.shape[-2:]
        side = isqrt(width)
        return (
            len(shape) == 3
            and images.ndim > 3
            and side > 1
            and side * side == width
            and height % side == 0
            and width % side == 0
        )

    def _refusal(self, shape: Sequence[int], images: Tensor) -> str:
        layout, given = self.layout(images), self.shapes(images)[-1]
        text = f"the model returned shape {tuple(shape)} for input {given}: an autoencoder returns its input's shape"
        if prod(shape) != images.numel():
            return f"{text}; pass reconstruct=<a method, or a function (module, images)>"
        for order in orders(len(layout)):
            if len(shape) == len(order) and tuple(shape[axis] for axis in order) == layout:
                return (
                    f"{text}, not its dimensions in another order; pass reconstruct=<function (module, images)> that "
                    f"returns this output .permute{order}"
                )
        return (
            f"{text}; as many values in another shape may be in another order, as those of patches are: pass "
            "reconstruct=<function (module, images)> that returns the image"
        )


def _precise(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """A floating-point type that holds the values of both."""
    return torch.promote_types(torch.promote_types(one, other), torch.float32)

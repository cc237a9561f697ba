"""Turn any LightningModule into a function from images in [0, 1] to images in [0, 1]."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Reconstruct = str | Callable[[nn.Module, Tensor], Any]


@dataclass(frozen=True)
class Normalization:
    """The affine map between images in [0, 1] and what the model sees: ``(image - mean) / std`` per channel.

    Attributes:
        mean: One number per channel, or one for all; None is 0.
        std: Likewise, positive; None is 1.

    Raises:
        ValueError: A number is not finite, or ``std`` not positive; when applied: too few or too many for the channels.

    >>> normalization = Normalization(mean=[0.5], std=[0.5])  # images in [-1, 1]
    >>> seen = normalization.apply(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3))
    >>> seen.flatten().tolist(), normalization.undo(seen).flatten().tolist()
    ([-1.0, 0.0, 1.0], [0.0, 0.5, 1.0])
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

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
        if len(tensor) not in (1, images.shape[-3]):
            raise ValueError(
                f"mean or std has {len(tensor)} values for images of {images.shape[-3]} channels: "
                "give one per channel or one for all"
            )
        return tensor.view(-1, 1, 1)


Key = int | str | Sequence[int | str]
"""Where something is within nested tuples, mappings and objects: an index, key or attribute, or a path of them."""


def select_output(result: Any, output: Key | None) -> Any:
    """Pick the reconstruction from what a model returned: an index, a dict key or an attribute, or a path of them.

    Raises:
        ValueError: ``output`` selects nothing there.
    """
    selected = result
    for key in key_path(output):
        try:
            by_name = isinstance(key, str) and not isinstance(selected, Mapping)
            selected = getattr(selected, str(key)) if by_name else selected[key]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            kind = type(selected).__name__
            keys = f" with keys {list(selected)}" if isinstance(selected, Mapping) else ""
            raise ValueError(
                f"output={output!r} selects nothing from the {kind}{keys} that the model returned"
            ) from error
    return selected


def key_path(key: Key | None) -> Sequence[int | str]:
    """A key as a path of keys; none at all for None."""
    return () if key is None else (key,) if isinstance(key, int | str) else tuple(key)


class HalvingBatches:
    """A function on batches that goes on with half as many images at once when memory runs out, and says so once.

    In evaluation mode the images of a batch do not depend on each other, so the result is the same.

    Args:
        call: From images (B, ...) to the same number of results.

    >>> def at_most_two(images):
    ...     if len(images) > 2:
    ...         raise MemoryError
    ...     return images / 2
    >>> call = HalvingBatches(at_most_two)
    >>> call(torch.ones(5, 1, 8, 8)).shape, call.most_images  # and one warning
    (torch.Size([5, 1, 8, 8]), 2)
    """

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        self.call = call
        self.most_images: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Call the function, on as many images at once as fit the memory.

        Raises:
            torch.OutOfMemoryError: Not even one image fits.
        """
        if self.most_images is not None and len(images) > self.most_images:
            return torch.cat([self(part) for part in torch.split(images, self.most_images)])
        try:
            return self.call(images)
        except (RuntimeError, MemoryError) as error:
            if len(images) < 2 or not _out_of_memory(error):
                raise
        # Outside the except block, whose traceback would keep the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.most_images is None:
            warnings.warn(
                f"memorization audit: out of memory with {len(images)} images at once, going on with fewer",
                stacklevel=2,
            )
        self.most_images = len(images) // 2
        return self(images)


def _out_of_memory(error: Exception) -> bool:
    """Of a device, or of the CPU, for which torch has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class ModuleAutoencoder:
    """Whatever a module does with its input, as an autoencoder on images (B, C, H, W) in [0, 1].

    Attributes:
        call: From the model's input to whatever it returns.
        output: Selects the reconstruction from what is returned.
        flatten: Give the model (B, C·H·W); the result is shaped back.
        normalization: The range that the model was trained in.

    >>> linear = nn.Linear(64, 64)
    >>> autoencoder = ModuleAutoencoder(lambda flat: {"decoded": linear(flat)}, output="decoded", flatten=True)
    >>> autoencoder(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    call: Callable[[Tensor], Any]
    output: Key | None = None
    flatten: bool = False
    normalization: Normalization = Normalization()

    def __call__(self, images: Tensor) -> Tensor:
        """Reconstruct a batch; the result is float32 of the same shape.

        Raises:
            ValueError: The model returned no tensor, or one of another size.
        """
        # A copy: the model may work in place, and what it is given are the very images that it is measured on.
        inputs = images.clone() if self.normalization.is_identity else self.normalization.apply(images)
        result = select_output(self.call(inputs.flatten(1) if self.flatten else inputs), self.output)
        if not isinstance(result, Tensor):
            raise ValueError(
                f"the model returned {type(result).__name__}, not a tensor: pass output=<index, key or attribute> "
                f"of the reconstruction{_suggestion(result, images)}"
            )
        if result.shape != images.shape:
            if result.numel() != images.numel():
                raise ValueError(
                    f"the model returned shape {tuple(result.shape)} for input {tuple(inputs.shape)}: an autoencoder "
                    "returns its input's shape; pass reconstruct=<a method, or a function (module, images)>"
                )
            result = result.reshape(images.shape)
        result = result.to(images.dtype)
        return result if self.normalization.is_identity else self.normalization.undo(result)


def _suggestion(result: Any, images: Tensor) -> str:
    """``, such as 0`` when the first tensor of the images' size is there."""
    items = dict(result) if isinstance(result, Mapping) else {}
    if isinstance(result, tuple | list):
        items = dict(enumerate(result))
    fitting = [key for key, item in items.items() if isinstance(item, Tensor) and item.numel() == images.numel()]
    return f", such as {fitting[0]!r}" if fitting else ""


def bind_reconstruct(
    module: nn.Module, forward: Callable[[Tensor], Any], reconstruct: Reconstruct
) -> Callable[[Tensor], Any]:
    """The call that reconstructs: the forward pass, a method by name, or a function ``(module, images)``.

    Args:
        module: The LightningModule.
        forward: How its forward pass must be called under the current strategy.
        reconstruct: ``"forward"``, another method's name, or a function.

    Raises:
        ValueError: There is no such method.
    """
    if callable(reconstruct):
        return lambda images: reconstruct(module, images)
    if reconstruct == "forward":
        return forward
    method = getattr(module, reconstruct, None)
    if not callable(method):
        raise ValueError(
            f"reconstruct={reconstruct!r}: {type(module).__name__} has no such method; name one that returns the "
            "reconstruction, or pass a function (module, images)"
        )
    return method  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ModelCall:
    """How a LightningModule is called as an autoencoder.

    Attributes:
        reconstruct: ``"forward"``, another method's name, or a function ``(module, images)``.
        output: Index, key or attribute of the reconstruction in what is returned, or several, outermost first.
        flatten: Give the model (B, C·H·W).
        normalization: Between images in [0, 1] and what the model sees.

    >>> how = ModelCall(output=0)
    >>> autoencoder = how.autoencoder(lambda images: (images / 2, "code"))
    >>> autoencoder(torch.ones(1, 1, 2, 2)).mean().item()
    0.5
    """

    reconstruct: Reconstruct = "forward"
    output: Key | None = None
    flatten: bool = False
    normalization: Normalization = Normalization()

    def bind(self, module: nn.Module, forward: Callable[[Tensor], Any] | None = None) -> Callable[[Tensor], Any]:
        """The call that reconstructs, see :func:`bind_reconstruct`.

        Raises:
            ValueError: There is no such method.
        """
        return bind_reconstruct(module, forward or module, self.reconstruct)

    def autoencoder(self, call: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
        """Images (B, C, H, W) in [0, 1] to their reconstructions, from the call that :meth:`bind` returns."""
        return HalvingBatches(ModuleAutoencoder(call, self.output, self.flatten, self.normalization))

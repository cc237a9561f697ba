"""Turn any LightningModule into a function from images in [0, 1] to images in [0, 1]."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.conditions import Condition
from lightning_memaudit.callback.keys import Key, imported, key_path, select
from lightning_memaudit.callback.seen import Normalization, Seen

Reconstruct = str | Callable[[Any, Any], Any]
"""``"forward"``, another method's name, the import path of a function, or a function ``(module, images)``.

A function whose second parameter is called ``batch``, or a method whose first one is, gets the run's own batch with the
images put in, such as a model needs that is conditioned on labels.
"""


class HalvingBatches:
    """A function on batches that goes on with half as many images at once when memory runs out, and says so once.

    In evaluation mode the images of a batch do not depend on each other, so the result is the same.

    Args:
        call: From images (B, ...) to the same number of results; perhaps one that must be given a condition.

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
        return self._halving(self.call, images)

    def given(self, condition: Condition) -> Callable[[Tensor], Tensor]:
        """The function for batches that all have this condition, of one that must be given one.

        What was learned of the memory holds for all conditions.
        """
        call: Any = self.call
        return partial(self._halving, call.given(condition))

    def _halving(self, call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if self.most_images is not None and len(images) > self.most_images:
            return torch.cat([self._halving(call, part) for part in torch.split(images, self.most_images)])
        try:
            return call(images)
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
        return self._halving(call, images)


def _out_of_memory(error: Exception) -> bool:
    """Of a device, or of the CPU, for which torch has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class ModuleAutoencoder:
    """Whatever a module does with its input, as an autoencoder on images (B, C, *spatial) in [0, 1].

    Attributes:
        call: From the model's input to whatever it returns. It may work in place, and return its input or a buffer.
        output: Selects the reconstruction from what is returned.
        seen: What the model sees of the images.

    >>> linear = nn.Linear(64, 64)
    >>> autoencoder = ModuleAutoencoder(lambda flat: {"decoded": linear(flat)}, output="decoded", seen=Seen(flat=True))
    >>> autoencoder(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    call: Callable[[Tensor], Any]
    output: Key | None = None
    seen: Seen = field(default_factory=Seen)

    def __call__(self, images: Tensor) -> Tensor:
        """Reconstruct a batch; the result has the images' shape and dtype, and shares no memory with anything.

        Raises:
            ValueError: The model returned no tensor, or one whose values cannot be told to be those of images.
        """
        inputs = self.seen.apply(images)
        result = select(self.call(inputs), self.output, "output")
        if not isinstance(result, Tensor):
            raise ValueError(
                f"the model returned {type(result).__name__}, not a tensor: pass output=<index, key or attribute> "
                f"of the reconstruction{self._suggestion(result, inputs, images)}"
            )
        return self.seen.undo(result, images)

    def _suggestion(self, result: Any, inputs: Tensor, images: Tensor) -> str:
        """``, such as 0``: what has the shape of images, and is not just the model's input."""
        fitting = image_keys(result, self.seen.shapes(images), inputs, self.seen.apply(images))
        if not fitting:
            return ", or reconstruct=<function (module, images)> that returns it"
        outer = [] if self.output is None else list(key_path(self.output))
        return f", such as {' or '.join(repr([*outer, key] if outer else key) for key in fitting)}"


def image_keys(result: Any, shapes: Sequence[Sequence[int]], *inputs: Tensor) -> list[Any]:
    """Where one key more leads to something of the shape of images that is not just the model's input.

    Args:
        result: What a model returned.
        shapes: Of images, as the model gets them.
        inputs: The model's input, before and after the call, which may have worked in place.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> image_keys((images / 2, images, torch.zeros(2, 7)), [images.shape], images)
    [0]
    """
    sizes = {tuple(shape) for shape in shapes}
    return [
        key
        for key, item in _items(result).items()
        if isinstance(item, Tensor) and tuple(item.shape) in sizes and not _same(item, *inputs)
    ]


def _items(result: Any) -> dict[Any, Any]:
    """What one key more could select."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, torch.distributions.Distribution):  # whose parameters may be logits
        return {"mean": result.mean}
    if isinstance(result, tuple | list):
        return dict(enumerate(result))
    if is_dataclass(result):
        return {one.name: getattr(result, one.name) for one in fields(result)}
    return {name: item for name, item in getattr(result, "__dict__", {}).items() if not name.startswith("_")}


def _same(item: Tensor, *inputs: Tensor) -> bool:
    """Whether it is the model's input, before or after the model worked on it in place."""
    return any(torch.equal(item.to(one).reshape(one.shape), one) for one in inputs)


@dataclass(frozen=True)
class ConditionalAutoencoder:
    """A module that needs a whole batch, such as one conditioned on labels: an autoencoder for each condition.

    Attributes:
        call: From a batch like the run's own to whatever the module returns.
        output: Selects the reconstruction from what is returned.
        seen: What the model sees of the images.

    >>> autoencoder = ConditionalAutoencoder(lambda batch: batch["x"] * batch["scale"].view(-1, 1, 1, 1))
    >>> condition = Condition({"x": torch.ones(1, 1, 4, 4), "scale": torch.tensor([0.5])}, ["x"])
    >>> autoencoder.given(condition)(torch.ones(3, 1, 4, 4)).mean().item()
    0.5
    """

    call: Callable[[Any], Any]
    output: Key | None = None
    seen: Seen = field(default_factory=Seen)

    def given(self, condition: Condition) -> ModuleAutoencoder:
        """The autoencoder of images that all have this condition."""
        return ModuleAutoencoder(lambda inputs: self.call(condition.batch_with(inputs)), self.output, self.seen)

    def __call__(self, images: Tensor) -> Tensor:
        """Impossible.

        Raises:
            ValueError: Always: images alone have no condition.
        """
        raise ValueError(
            "reconstruct takes a batch, whose other parts than the images differ from image to image: it can only be "
            "called for images of a known condition"
        )


def takes_batch(function: Callable[..., Any], position: int | None = None) -> bool:
    """Whether a function reconstructs from a whole batch: its parameter at ``position`` is called ``batch``.

    Args:
        function: A function ``(module, batch)``, or a module's method ``(batch)``.
        position: Of the parameter; None is the first for a method of a module, the second for all else.

    >>> takes_batch(lambda module, batch: module(*batch)), takes_batch(lambda module, images: module(images))
    (True, False)
    """
    if position is None:
        position = 0 if inspect.ismethod(function) and isinstance(function.__self__, nn.Module) else 1
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        return False
    names = [one.name for one in parameters.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return names[position : position + 1] == ["batch"]


@dataclass(frozen=True)
class ModelCall:
    """How a LightningModule is called as an autoencoder.

    Attributes:
        reconstruct: See :data:`Reconstruct`.
        output: Selects the reconstruction from what is returned, see :data:`~lightning_memaudit.callback.keys.Key`.
        flatten: Give the model (B, C·H·W).
        normalization: Between images in [0, 1] and what the model sees.
        reference: Models to compare with, which are called alike, see :mod:`lightning_memaudit.callback.reference`.

    >>> how = ModelCall(output=0)
    >>> autoencoder = how.autoencoder(lambda images: (images / 2, "code"))
    >>> autoencoder(torch.ones(1, 1, 2, 2)).mean().item()
    0.5
    """

    reconstruct: Reconstruct = "forward"
    output: Key | None = None
    flatten: bool = False
    normalization: Normalization = field(default_factory=Normalization)
    reference: Any = None

    def bind(self, module: nn.Module, forward: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
        """The call that reconstructs, from the model's input, or from a batch where it takes one.

        Args:
            module: The LightningModule.
            forward: How its forward pass must be called under the current strategy; None calls the module.

        Raises:
            ValueError: There is no such method, and no such import path.
        """
        function = self._function()
        if function is not None:
            return partial(function, module)
        return (forward or module) if self.reconstruct == "forward" else self._method(module)

    def takes_batch(self, module: nn.Module) -> bool:
        """Whether what reconstructs takes a batch; the forward pass gets images, whatever its parameter is called.

        Raises:
            ValueError: There is no such method, and no such import path.
        """
        function = self._function()
        if function is not None:
            return takes_batch(function, position=1)
        return self.reconstruct != "forward" and takes_batch(self._method(module), position=0)

    def autoencoder(
        self, call: Callable[[Any], Any], seen: Seen | None = None, conditional: bool | None = None
    ) -> HalvingBatches:
        """Images (B, C, *spatial) in [0, 1] to their reconstructions.

        Args:
            call: What :meth:`bind` returns, perhaps within another function.
            seen: What the model sees of the images; None is what the settings say.
            conditional: What :meth:`takes_batch` returns: whether ``call`` takes a batch, so that only
                :meth:`HalvingBatches.given` can be called. None asks the function; a method's name is taken for one
                that does not.
        """
        seen = seen or Seen(self.normalization)
        seen = replace(seen, flat=seen.flat or self.flatten)
        if conditional is None:
            function = self._function()
            conditional = function is not None and takes_batch(function, position=1)
        kind = ConditionalAutoencoder if conditional else ModuleAutoencoder
        return HalvingBatches(kind(call, self.output, seen))

    def _function(self) -> Callable[..., Any] | None:
        """The function ``(module, images)``; None where a method is meant."""
        return self.reconstruct if callable(self.reconstruct) else imported(self.reconstruct)

    def _method(self, module: nn.Module) -> Callable[[Any], Any]:
        name, kind = self.reconstruct, type(module).__name__
        method = getattr(module, str(name), None)
        if callable(method):
            return method  # type: ignore[no-any-return]
        if "." in str(name):
            raise ValueError(
                f"reconstruct={name!r}: no function can be imported from there, and {kind} has no such method; pass "
                "<module>.<function (module, images)>, of a module that Python finds"
            )
        raise ValueError(
            f"reconstruct={name!r}: {kind} has no such method; name one that returns the "
            "reconstruction, or pass a function (module, images)"
        )

"""Compares what training really gives the model with what the audit gives it, on the first batch of the training.

The audit sees what the batch holds; what ``training_step`` does with it, such as a normalization of its own, it cannot
see. But the layers can: the same images must reach them with the same values.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_memaudit.callback.reading.affine import Affine, fit_exact
from lightning_memaudit.callback.reading.batch_images import BatchFormat
from lightning_memaudit.callback.reading.items import tensors_in

FAR_OUTSIDE = 0.5
"""How far beyond [0, 1] noise and augmentation may bring images of a training batch."""


class InputWatch:
    """Keeps the first input of each of some modules while it is entered.

    Args:
        module: The model.
        names: Of its submodules; None watches all of them.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    >>> with InputWatch(model) as watch:
    ...     _ = model(torch.ones(2, 1, 2, 2))
    >>> {name: tuple(seen.shape) for name, seen in watch.inputs.items()}
    {'': (2, 1, 2, 2), '0': (2, 1, 2, 2), '1': (2, 4)}
    """

    def __init__(self, module: nn.Module, names: Iterable[str] | None = None) -> None:
        self.module = module
        self.names = None if names is None else set(names)
        self.inputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "InputWatch":
        for name, submodule in self.module.named_modules():
            if self.names is None or name in self.names:
                hook = _Keep(self.inputs, name)
                self._handles.append(submodule.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Keep:
    def __init__(self, inputs: dict[str, Tensor], name: str) -> None:
        self.inputs, self.name = inputs, name

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if self.name in self.inputs:
            return
        for argument in (*arguments, *named.values()):
            if isinstance(argument, Tensor):
                self.inputs[self.name] = argument.detach().clone()  # the model may work in place
                return


def maps_to_layers(watch: InputWatch, images: Tensor) -> dict[str, Affine]:
    """For each watched module whose input is an exact affine map of the images: the map, in the order of the calls."""
    found = {}
    for name, seen in watch.inputs.items():
        mapped = affine_map(images, seen)
        if mapped is not None:
            found[name] = mapped
    return found


def affine_map(images: Tensor, seen: Tensor) -> Affine | None:
    """The exact affine map from images (B, C, H, W) to what a layer got, if there is one in the same layout."""
    if seen.numel() != images.numel() or not seen.ndim or len(seen) != len(images) or not seen.is_floating_point():
        return None
    if seen.ndim == 4 and seen.shape != images.shape:
        return None
    return fit_exact(images.to(seen.device), seen.reshape(images.shape))


def in_other_layout(images: Tensor, seen: Tensor) -> bool:
    """Whether a layer got the images with their channels at another place."""
    if seen.ndim != 4 or seen.numel() != images.numel() or seen.shape == images.shape:
        return False
    moved = (seen.movedim(-1, 1), seen.movedim(1, -1))
    return any(one.shape == images.shape and fit_exact(images.to(seen.device), one) is not None for one in moved)


class FirstBatch:
    """Watches the first training batch; :meth:`begin` before ``training_step``, :meth:`end` after it.

    Args:
        module: The model.
        format: How the members' images stand in the run's batches.
        path: Where the batch of the members' dataloader is within a batch of the run.
        in_audit: See :func:`maps_to_layers`, when the audit calls the model.
        model_input: The map from images in [0, 1] to what the audit gives the model.

    >>> model = nn.Linear(4, 4)
    >>> first = FirstBatch(model, BatchFormat((), (1, 2, 2)), (), {"": Affine()}, Affine())
    >>> batch = torch.rand(8, 1, 2, 2)
    >>> first.begin(batch)
    >>> _ = model(2 * batch.flatten(1) - 1)  # training_step normalizes by itself
    >>> first.end()
    Traceback (most recent call last):
    ValueError: training_step gives the model (image - 0.5) / 0.5 and the audit would give it image: pass \
reconstruct=<a function (module, images) that prepares a batch's images as training_step does, and undoes it on the \
result>
    """

    def __init__(
        self,
        module: nn.Module,
        format: BatchFormat,
        path: tuple[Any, ...],
        in_audit: Mapping[str, Affine],
        model_input: Affine,
    ) -> None:
        self.module, self.format, self.path = module, format, path
        self.in_audit, self.model_input = in_audit, model_input
        self._watch = InputWatch(module, in_audit)
        self._images: Tensor | None = None

    def begin(self, batch: Any) -> None:
        """Look at the batch that ``training_step`` is about to get.

        Raises:
            ValueError: Its images are not in the range of those that are audited.
        """
        images = self._find(batch)
        if images is None:
            return
        low, high = float(images.min()), float(images.max())
        if low < -FAR_OUTSIDE or high > 1 + FAR_OUTSIDE:
            raise ValueError(
                f"members: where the audited images are in [0, 1], those of the training's first batch are in "
                f"[{low:.4g}, {high:.4g}]: pass members=<a data set> that is read as the training reads its own, or "
                "mean and std to undo its normalization"
            )
        if tuple(images.shape[1:]) != self.format.shape:
            rank_zero_warn(
                f"members: images of shape {self.format.shape} are audited, and the training's first batch has images "
                f"of shape {tuple(images.shape[1:])}; pass members=<a data set> of images as they are trained on"
            )
            return
        self._images = images
        self._watch.__enter__()

    def _find(self, batch: Any) -> Tensor | None:
        if self.format.path is None:
            return None
        for path in dict.fromkeys([self.path, ()]):
            with suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
                part = batch
                for key in path:
                    part = part[key]
                return self._undone(self.format.find(part))
        shaped = [tensor for _, tensor in tensors_in(batch) if tuple(tensor.shape[1:]) == self.format.shape]
        return self._undone(shaped[0]) if len(shaped) == 1 else None

    def _undone(self, found: Tensor) -> Tensor:
        with suppress(ValueError):
            return self.format.undo(found.detach())
        other = BatchFormat(
            self.format.path,
            tuple(found.movedim(-1, 1).shape[1:]) if self.format.channels_last else tuple(found.shape[1:]),
            self.format.channels_last,
            normalization=self.format.normalization,
        )
        return other.undo(found.detach())

    def end(self) -> None:
        """Compare what reached the layers.

        Raises:
            ValueError: It is another affine map of the images, or another layout, than in the audit.
        """
        self.close()
        images, self._images = self._images, None
        if images is None:
            return
        for name, expected in self.in_audit.items():
            seen = self._watch.inputs.get(name)
            if seen is None:
                continue
            if in_other_layout(images, seen):
                raise ValueError(
                    f"training_step moves the channels of its images before the model, and the audit would give it "
                    f"{tuple(images.shape[1:])}: {_MEND}"
                )
            found = affine_map(images, seen)
            if found is None:
                continue
            if not found.close_to(expected):
                given = _before(found, expected, self.model_input)
                raise ValueError(
                    f"training_step gives the model {given.words('image')} and the audit would give it "
                    f"{self.model_input.words('image')}: {_MEND}"
                )
            return

    def close(self) -> None:
        """Stop watching."""
        self._watch.__exit__()


_MEND = (
    "pass reconstruct=<a function (module, images) that prepares a batch's images as training_step does, and undoes it "
    "on the result>"
)


def _before(found: Affine, expected: Affine, model_input: Affine) -> Affine:
    """What the model got in training, from what its layer got in training and in the audit.

    The layer gets ``a x + b`` of the model's input x. The audit's input ``s u + t`` of an image u reaches it as
    ``expected``, which gives a and b; the training's reaches it as ``found``.
    """
    count = max(map(len, (found.slope, expected.slope, model_input.slope)))
    slopes, offsets = [], []
    for channel in range(count):
        s, t = _at(model_input, channel)
        expected_slope, expected_offset = _at(expected, channel)
        found_slope, found_offset = _at(found, channel)
        a = expected_slope / s
        b = expected_offset - a * t
        slopes.append(found_slope / a)
        offsets.append((found_offset - b) / a)
    return Affine(tuple(slopes), tuple(offsets))


def _at(one: Affine, channel: int) -> tuple[float, float]:
    place = channel if len(one.slope) > 1 else 0
    return one.slope[place], one.offset[place]


def can_be_watched(module: nn.Module) -> bool:
    """Whether hooks on layers cost nothing and change nothing: not where they are compiled."""
    compiled = any(
        type(one).__name__ == "OptimizedModule" or one.__dict__.get("_compiled_call_impl") is not None
        for one in module.modules()
    )
    return not compiled and getattr(module, "_compiler_ctx", None) is None


Call = Callable[[Tensor], Any]


def watch_audit(module: nn.Module, autoencoder: Call, images: Tensor) -> dict[str, Affine]:
    """The maps from images in [0, 1] to what reaches the layers when the audit calls the model."""
    with InputWatch(module) as watch, torch.no_grad():
        autoencoder(images)
    return maps_to_layers(watch, images)

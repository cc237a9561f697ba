"""What reaches the layers of a model in one step: the same images must do so with the same values in an audit."""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_memaudit.callback.curves import Curve, curve_between
from lightning_memaudit.callback.hooks import OwnHook, is_batched
from lightning_memaudit.callback.reading.affine import Affine, fit_exact
from lightning_memaudit.callback.reading.items import plain, tensors_in

MOST_CALLS = 4
"""Of each layer, within the first step, that are looked at."""

CLOSE = 1e-3
"""Of the largest value, by which two calls that prepare images alike may differ."""


@dataclass(frozen=True)
class Arrival:
    """What reached a layer when it was first called.

    Attributes:
        shape: Of its input, without the batch.
        values: The input, where it has as many values as images; None otherwise.
        beside: Names of the other tensors that it was called with, such as labels; and whether these differ from image
            to image.
        learns: Whether gradients are taken in this call.
        given: Whether its input is neither images nor computed from weights that learn, as that of a layer for labels.
        within: Names of the modules that were being called.
        call: The whole call, of the layers of which it is kept.

    >>> Arrival((4,), torch.ones(2, 4)).shape
    (4,)
    """

    shape: tuple[int, ...]
    values: Tensor | None = None
    beside: frozenset[tuple[str, bool]] = frozenset()
    learns: bool = False
    given: bool = False
    within: tuple[str, ...] = ()
    call: "Call | None" = None


class Call(NamedTuple):
    """What a layer was called with; a copy, as far as it is tensors.

    >>> Call((torch.ones(2, 4),), {"scale": 0.5}).named["scale"]
    0.5
    """

    arguments: tuple[Any, ...]
    named: Mapping[str, Any]

    def copied(self) -> "Call":
        """Another copy: the layer may work in place."""
        arguments, named = tree_map(lambda one: one.detach().clone() if isinstance(one, Tensor) else one, tuple(self))
        return Call(arguments, named)

    def images(self, size: int) -> Tensor | None:
        """The first tensor with so many values a row, as an image has; else the first that has more than one."""
        tensors = [tensor for _, tensor in tensors_in(tuple(self)) if tensor.ndim > 1 and len(tensor)]
        return next((one for one in tensors if one[0].numel() == size), tensors[0] if tensors else None)


class Reached(NamedTuple):
    """What reaches a layer when the model is called on images.

    Attributes:
        shape: Of its first input, without the batch.
        affine: The exact map from the images to it, if there is one.
        beside: Names of the other tensors that it is called with, such as labels, as in :class:`Arrival`.
        curve: From the images to it, where there is no such map: of ``reconstruct``, which prepares them.
        audited: What it becomes of the images of a batch, in their layout, where there is neither.

    >>> Reached((3, 8, 8), Affine()).beside
    frozenset()
    """

    shape: tuple[int, ...]
    affine: Affine | None
    beside: frozenset[tuple[str, bool]] = frozenset()
    curve: Curve | None = None
    audited: Tensor | None = None

    def prepares_alike(self, images: Tensor, calls: Sequence[Tensor]) -> bool:
        """Whether they become the same, or go through the same curve, in one of the training's calls on them."""
        if self.audited is not None:
            return any(_are_close(one, self.audited) for one in calls)
        if self.curve is None:
            return False
        found = (curve_between(images[: len(seen)].to(seen.device), seen) for seen in calls)
        return any(one is not None and self.curve.goes_on(one) for one in found)


def _are_close(one: Tensor, other: Tensor) -> bool:
    size = max(1.0, float(other.abs().max()))
    return one.shape == other.shape and bool((one.float() - other.to(one.device)).abs().max() <= CLOSE * size)


class WentIn(BaseException):
    """A layer has been given what was waited for; no error, which what is called might take care of.

    >>> issubclass(WentIn, Exception)
    False
    """


class InputWatch:
    """Notes the first inputs of each module of a model while it is entered.

    Args:
        module: The model.
        shape: (C, *spatial) of an image; only inputs that may hold one are kept.
        whole: Names of modules whose calls are kept whole, unless one of them is called within another.
        until: A module's name and which of its calls, from 0, raises :class:`WentIn` once it is noted.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    >>> with InputWatch(model, (1, 2, 2)) as watch:
    ...     _ = model(torch.ones(2, 1, 2, 2))
    >>> {name: seen[0].shape for name, seen in watch.arrivals.items()}
    {'': (1, 2, 2), '0': (1, 2, 2), '1': (4,)}
    """

    def __init__(
        self,
        module: nn.Module,
        shape: Sequence[int],
        whole: Collection[str] = (),
        until: tuple[str, int] | None = None,
    ) -> None:
        self.module, self.shape, self.size = module, tuple(shape), torch.Size(shape).numel()
        self.whole, self.until = frozenset(whole), until
        self.arrivals: dict[str, list[Arrival]] = {}
        self.rows: Counter[str] = Counter()  # that are learned from, in all calls
        self.outputs: dict[str, tuple[int, int]] = {}  # rows and their values, of which gradients can be taken
        self.within: list[str] = []
        self.is_batched = False  # whether a call was within torch.func.vmap, and not noted
        self._handles: list[Any] = []

    def __enter__(self) -> "InputWatch":
        self.__exit__()  # a step that was skipped has not ended
        self.arrivals, self.rows, self.outputs, self.within, self.is_batched = {}, Counter(), {}, [], False
        compiled = [one for one in self.module.modules() if is_compiled(one)]
        # A hook within what is compiled would be compiled too: it is watched from outside.
        within = {id(inner) for one in compiled for inner in one.modules() if inner is not one}
        for name, submodule in self.module.named_modules():
            if id(submodule) in within or isinstance(submodule, torch.jit.ScriptModule):  # which takes no hooks
                continue
            note = _Note(self, name)
            if submodule.__dict__.get("_compiled_call_impl") is None:
                self._handles.append(submodule.register_forward_pre_hook(OwnHook(note), with_kwargs=True))
                self._handles.append(submodule.register_forward_hook(OwnHook(note.leave), always_call=True))
            else:
                self._handles.append(_CompiledCall(submodule, note))
        return self

    def size_beside(self, shape: tuple[int, ...]) -> int:
        """Values of an image within an input (channels, *spatial) that has more channels; 0 for other inputs."""
        beside = len(shape) == len(self.shape) and shape[1:] == self.shape[1:] and shape[0] > self.shape[0]
        return self.size if beside else 0

    def reconstructing(self, names: Collection[str], count: int) -> str | None:
        """The layer, the first of these, from which what becomes of so many images comes; rather one of their size."""
        rows = {name: size for name, (number, size) in self.outputs.items() if number == count}
        whole = (name for name in names if rows.get(name) == self.size)
        return next(whole, next((name for name in names if name in rows), None))

    def __exit__(self, *exception: object) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles = []


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled as a whole, so that hooks on the layers within would be compiled too."""
    return type(module).__name__ == "OptimizedModule" or module.__dict__.get("_compiled_call_impl") is not None


class _CompiledCall:
    """In place of what ``module.compile()`` has made of a module's call, until removed: notes, and calls that."""

    def __init__(self, module: nn.Module, note: "_Note") -> None:
        self.module, self.compiled = module, module.__dict__["_compiled_call_impl"]

        def call(*arguments: Any, **named: Any) -> Any:
            note(module, arguments, named)
            try:
                return self.compiled(*arguments, **named)
            finally:
                note.leave()

        module.__dict__["_compiled_call_impl"] = call

    def remove(self) -> None:
        self.module.__dict__["_compiled_call_impl"] = self.compiled


class _Note:
    def __init__(self, watch: InputWatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        within = tuple(self.watch.within)
        self.watch.within.append(self.name)
        with suppress(Exception):
            if any(is_batched(tensor) for _, tensor in tensors_in((arguments, named))):
                self.watch.is_batched = True
                return
        arrivals = self.watch.arrivals.setdefault(self.name, [])
        if torch.is_grad_enabled() and self.name in self.watch.whole:
            with suppress(Exception):
                first = Call(arguments, named).images(self.watch.size)
                self.watch.rows[self.name] += 0 if first is None else len(first)
        if len(arrivals) >= MOST_CALLS:
            return
        # A layer may be given anything, such as sparse tensors: what cannot be looked at must not end the training.
        with suppress(Exception):
            arrival = self._arrival(module, arguments, named)
            if arrival is not None:
                is_whole = self.name in self.watch.whole and not self.watch.whole.intersection(within)
                call = Call(arguments, named).copied() if is_whole else None
                arrivals.append(replace(arrival, within=within, call=call))
        if self.watch.until == (self.name, len(arrivals) - 1):
            raise WentIn

    def leave(self, module: nn.Module | None = None, arguments: Any = (), output: Any = None) -> None:
        """The call has ended."""
        if self.watch.within:
            self.watch.within.pop()
        if module is not None and self.name in self.watch.whole and self.name not in self.watch.outputs:
            with suppress(Exception):
                tensor = next(one for _, one in tensors_in(output) if one.requires_grad and one.ndim > 1)
                self.watch.outputs[self.name] = len(tensor), tensor[:1].numel()

    def _arrival(self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Arrival | None:
        known = names_of_arguments(module)
        tensors: dict[str, Tensor] = {}
        for name, argument in named_arguments(known, arguments, named).items():
            found = [(".".join(map(str, (name, *path))), tensor) for path, tensor in tensors_in(argument)]
            if isinstance(argument, Mapping):  # as a batch, of which the model need not use all
                found = sorted(found, key=lambda one: -one[1].numel())[:1]
            tensors.update(found)
        first = next((name for name, tensor in tensors.items() if tensor.ndim), None)
        if first is None:
            return None
        argument = tensors.pop(first)
        if argument.ndim == 1 and len(argument) == self.watch.size:
            argument = argument[None]  # a flat image by itself, not a batch of numbers
        shape = tuple(argument.shape[1:])
        # As many values as an image, or the image beside channels of another kind; a copy: the model may work in place.
        whole = self.watch.size in (torch.Size(shape).numel(), self.watch.size_beside(shape))
        beside = frozenset(
            (name, bool((other != other[:1]).any())) for name, other in tensors.items() if may_be_label(other, argument)
        )
        values = plain(argument.detach()).clone() if whole else None
        learns = torch.is_grad_enabled()
        return Arrival(shape, values, beside, learns, learns and not whole and not argument.requires_grad)


def may_be_label(one: Tensor, images: Tensor) -> bool:
    """Labels and other conditions are small: no masks, no noise, and not the images again as the target of a loss.

    Nor masks of patches: as many of each image, or their numbers in another order.

    >>> images, mask = torch.rand(2, 1, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    >>> may_be_label(torch.tensor([3, 1]), images), may_be_label(mask, images)
    (True, False)
    """
    if one is images or one.dtype == torch.bool or not 0 < one.ndim <= 3 or _chooses_patches(one):
        return False
    same = one.shape == images.shape and one.device == images.device and bool((one == images).all())
    return not same and 4 * one[:1].numel() <= images[:1].numel()


def _chooses_patches(one: Tensor) -> bool:
    """Whether rows (B, patches) are zeros and as many ones, but not one each; or all numbers of patches."""
    if one.ndim != 2 or one.shape[1] < 4 or one.is_complex():
        return False
    if bool(((one == 0) | (one == 1)).all()):
        counts = one.sum(1)
        return bool((counts == counts[0]).all()) and 1 < int(counts[0]) < one.shape[1]
    numbers = torch.arange(one.shape[1], device=one.device)
    return not one.is_floating_point() and bool((one.sort(1).values == numbers).all())


def names_of_arguments(module: nn.Module) -> dict[str, Any]:
    """Of a module's arguments, with their defaults, so that those given by position and by name are the same."""
    with suppress(TypeError, ValueError):
        written = getattr(module, "_orig_mod", module)  # of a compiled one
        parameters = inspect.signature(written.forward).parameters.values()
        return {one.name: one.default for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    return {}


def named_arguments(
    known: Collection[str], arguments: tuple[Any, ...], named: Mapping[str, Any], others: bool = False
) -> dict[str, Any]:
    """All arguments by name.

    Args:
        known: See :func:`names_of_arguments`.
        arguments: Given by position.
        named: Given by name.
        others: Also what a forward pass takes as ``**kwargs``, which it may as well leave alone.
    """
    by_place = [*known, *(f"argument {place}" for place in range(len(known) + 1, len(arguments) + 1))]
    by_name = {name: argument for name, argument in named.items() if others or name in known or not arguments}
    return dict(zip(by_place, arguments, strict=False)) | by_name


def like_images(images: Tensor, seen: Tensor) -> Tensor | None:
    """What a layer got, in the layout of images (B, C, *spatial); None where it is another one.

    Where it got them beside other channels: those that are an affine map of the images, else the first ones. Of more
    rows, such as several views of each, likewise. Of fewer only those that are an affine map of the first images.
    """
    if not seen.is_floating_point() or not len(seen):
        return None
    is_part, images = len(seen) < len(images), images[: len(seen)].to(seen.device)
    found = [one for rows in _rows_like(images, seen) if (one := _laid_out(images, rows)) is not None]
    exact = (one for one in found if fit_exact(images, one) is not None)
    return next(exact, None if is_part or not found else found[0])


def _rows_like(images: Tensor, seen: Tensor) -> Iterator[Tensor]:
    """As many rows as there are images: one block after the other, or of each image one row."""
    count, times = len(images), len(seen) // len(images)
    yield seen[:count]  # those of other dataloaders may follow
    if len(seen) == count * times:
        yield from (seen[begin : begin + count] for begin in range(count, len(seen), count))
        yield from (seen[begin::times] for begin in range(times if times > 1 else 0))


def _laid_out(images: Tensor, seen: Tensor) -> Tensor | None:
    """Rows that a layer got, in the layout of as many images."""
    if seen.ndim == images.ndim and seen.shape[2:] == images.shape[2:] and seen.shape[1] > images.shape[1]:
        count = images.shape[1]
        parts = [seen[:, begin : begin + count] for begin in range(seen.shape[1] - count + 1)]
        return next((part for part in parts if fit_exact(images, part) is not None), parts[0])
    if seen.numel() != images.numel():
        return None
    if seen.ndim == images.ndim and seen.shape != images.shape:
        moved = seen.movedim(-1, 1)
        return moved if moved.shape == images.shape else None
    return seen.reshape(images.shape)


def reached_layers(watch: InputWatch, images: Tensor) -> dict[str, Reached]:
    """What reached each layer, in call order.

    Args:
        watch: What reached the layers.
        images: (B, C, *spatial), that the model was called on.
    """
    found: dict[str, Reached] = {}
    for name, arrivals in watch.arrivals.items():
        if not arrivals:
            continue
        arrival = arrivals[0]
        seen = None if arrival.values is None else like_images(images, arrival.values)
        affine = None if seen is None else fit_exact(images.to(seen.device), seen)
        curve = curve_between(images, seen) if affine is None and seen is not None else None
        found[name] = Reached(arrival.shape, affine, frozenset().union(*(one.beside for one in arrivals)), curve)
    return found

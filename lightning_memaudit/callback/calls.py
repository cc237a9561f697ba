"""Whether the audit's call of the network makes of the same images what the training's call makes of them.

What is given beside the images may be anything: labels within objects, numbers, attributes that are set before. So both
calls are made once more after the first step, in training mode, on the images of the training's call and with the same
random numbers. Where something else comes out, the arguments tell what may have made the difference.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_memaudit.callback.input_watch import (
    Call,
    first_channel,
    has_channels_beside,
    may_be_label,
    named_arguments,
    names_of_arguments,
)
from lightning_memaudit.callback.reading.items import tensors_in

ALIKE = 1e-4
"""Of the largest value, by which two calls may differ that do the same."""


@dataclass(frozen=True)
class FirstCalls:
    """The training's first calls of the outermost layers that the audit calls too.

    Attributes:
        images: (B, C, *spatial) of the first batch, in [0, 1].
        batch: All tensors of that batch.
        calls: By layer, in the order in which the audit calls them.

    >>> FirstCalls(torch.ones(2, 1, 4, 4), [], {}).calls
    {}
    """

    images: Tensor
    batch: Sequence[Tensor]
    calls: Mapping[str, Call]

    def rows(self, count: int) -> Tensor:
        """So many images, some twice where there are fewer."""
        return self.images[torch.arange(count, device=self.images.device) % len(self.images)]


def compare_calls(
    trainer: Trainer, module: LightningModule, first: FirstCalls, audit: Callable[[Tensor], Any]
) -> str | None:
    """In which way the training calls the network otherwise than the audit, in words; None where it is not known to.

    To be called within what keeps the training undisturbed, but for the modes of the modules.

    Args:
        trainer: Of the run.
        module: The model.
        first: What the training did.
        audit: Calls the model as the audit does, on images in [0, 1].
    """
    modules = dict(module.named_modules())
    for name, call in first.calls.items():
        if call.first is None or not len(call.first):
            continue
        images = first.rows(len(call.first))
        with _Again(modules[name], call, images) as again:
            audit(images)
        if again.result is None:
            continue
        with _training(trainer):
            trained = [again.as_trained() for _ in range(2)]
        # Where the training draws numbers that the audit does not, as for a mask, there is nothing to say either.
        if _differ(again.result, trained[0]) and not _differ(*trained) and again.result.drawn == trained[0].drawn:
            words = _words(again, first)
            if words is not None:
                return words
    return None


@contextmanager
def _training(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    trainer.state.stage = RunningStage.TRAINING
    try:
        yield
    finally:
        trainer.state.stage = stage


@dataclass(frozen=True)
class _Result:
    """What came out of a call, by its place there, and where it left the random generators."""

    outputs: Mapping[Any, Tensor]
    drawn: bytes

    @classmethod
    def of(cls, output: Any) -> "_Result":
        floats = {path: one.detach().clone() for path, one in tensors_in(output) if one.is_floating_point()}
        state = [torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), repr(np.random.get_state())]  # noqa: NPY002
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            state.append(torch.cuda.get_rng_state().numpy().tobytes())
        return cls(floats, repr(state).encode())


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - others draw from the global state
    random.seed(0)


class _Again:
    """Repeats the training's call of a layer, and the audit's on the training's images, while it is entered."""

    def __init__(self, layer: nn.Module, call: Call, images: Tensor) -> None:
        self.layer, self.call, self.images = layer, call, images
        self.beside: Tensor | None = None  # the channels beside the images
        self.given: Call | None = None
        self.result: _Result | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "_Again":
        self._handles = [
            self.layer.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.layer.register_forward_hook(self._end),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Put the training's images in the place of the audit's."""
        if self.given is not None:
            return None
        self.given = given = Call(arguments, named)
        mine, theirs = given.first, self.call.first
        replaced = None if mine is None or theirs is None else self._replaced(mine, theirs)
        if replaced is None:
            self.given = None
            return None
        _seed()
        return tree_map(lambda one: replaced if one is mine else one, (arguments, named))

    def _replaced(self, mine: Tensor, theirs: Tensor) -> Tensor | None:
        """The training's images with the audit's own channels beside them; None where they have another shape."""
        if mine.shape != theirs.shape:
            return None
        replaced = theirs.to(mine, copy=True)
        if has_channels_beside(self.images, mine):
            count, begins = self.images.shape[1], [first_channel(self.images, one) for one in (mine, theirs)]
            replaced, images = mine.clone(), replaced[:, begins[1] : begins[1] + count]
            replaced[:, begins[0] : begins[0] + count] = images
            beside = torch.ones(mine.shape[1], dtype=torch.bool)
            beside[begins[1] : begins[1] + count] = False
            self.beside = theirs[:, beside.to(theirs.device)]
        return replaced

    def _end(self, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self.given is not None and self.result is None:
            self.result = _Result.of(output)

    def as_trained(self) -> _Result:
        call = self.call.copied()
        _seed()
        return _Result.of(self.layer(*call.arguments, **call.named))


def _differ(one: _Result, other: _Result) -> bool:
    pairs = [(value, other.outputs[path]) for path, value in one.outputs.items() if path in other.outputs]
    pairs = [(mine, theirs) for mine, theirs in pairs if mine.shape == theirs.shape and mine.numel()]
    return any(
        bool(theirs.isfinite().all())
        and not bool((mine - theirs).abs().max() <= ALIKE * theirs.abs().max().clamp(min=1e-6))
        for mine, theirs in pairs
    )


def _words(again: _Again, first: FirstCalls) -> str | None:
    """What the training gives the layer and the audit does not; None where that is masks or noise that it draws."""
    assert again.given is not None  # or there was nothing to compare
    kind, defaults, images = type(again.layer).__name__, names_of_arguments(again.layer), again.call.first
    by_audit, by_training = (
        dict(_leaves(named_arguments(defaults, *call, others=True))) for call in (again.given, again.call)
    )
    others = {
        name: value
        for name, value in by_training.items()
        if value is not images and not _same(value, by_audit.get(name, defaults.get(name)))
    }
    if again.beside is not None:
        others["channels beside the images"] = again.beside
    told = {name: value for name, value in others.items() if _counts(value, images, first.batch)}
    if others and not told:
        return None
    shown = [f"{name}={value}" if isinstance(value, Number | str) else name for name, value in told.items()]
    how = f"with {' and '.join(shown)}, which the audit does not give it" if shown else "otherwise than the audit"
    return f"the training calls {kind} {how}: of the same images it then makes something else"


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Everything within arguments, by names that lead there."""
    children = (
        node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else None
    )
    if children is None:
        inner = [] if isinstance(node, Tensor | Number | str) else list(tensors_in(node))
        yield from ((".".join((*path, *map(str, more))), one) for more, one in inner or [((), node)])
        return
    for key, child in children:
        yield from _leaves(child, (*path, str(key)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other.to(one)).all())
    return one is other or (type(one) is type(other) and isinstance(one, Number | str) and one == other)


def _counts(value: Any, images: Tensor | None, batch: Sequence[Tensor]) -> bool:
    """Whether it says something of the images: what is as large is a mask or noise, unless the batch has it."""
    if not isinstance(value, Tensor) or images is None or value.ndim == 0 or may_be_label(value, images):
        return True
    return any(is_made_of(value, one) for one in batch)


def is_made_of(value: Tensor, one: Tensor) -> bool:
    """Whether a map or mask is that of a batch, as it stands there or with a channel for each of its classes.

    >>> labels = torch.tensor([[[0, 2], [1, 1]]])
    >>> is_made_of(nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), labels), is_made_of(labels, labels + 1)
    (True, False)
    """
    one = one.to(value.device)
    if value.numel() == one.numel():
        return bool((value.reshape(-1) == one.reshape(-1)).all())
    if value.ndim < 3 or value.shape[1] < 2:
        return False
    classes = value.argmax(1)
    return classes.numel() == one.numel() and bool((classes.reshape(-1) == one.reshape(-1)).all())

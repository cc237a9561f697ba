"""Whether the audit's call of the network makes of the same images what the training's call makes of them.

What is given beside the images may be anything: labels within objects, numbers, values beside a code. So both calls are
made once more after the first step, in evaluation mode, on the images of the training's call and with the same random
numbers. Where something else comes out of the network, or of a layer within it whose weights may still be zero behind
it, the arguments tell what may have made the difference.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_memaudit.callback.input_watch import (
    Call,
    may_be_label,
    named_arguments,
    names_of_arguments,
)
from lightning_memaudit.callback.isolation import in_stage
from lightning_memaudit.callback.reading.items import tensors_in

MORE_RANDOM = 1.5
"""So many times as much do two calls with other random numbers differ where images are hidden or noisy, and not just
dropped from within as in the other calls too."""

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


class Compared(NamedTuple):
    """What two calls of the same images have shown.

    Attributes:
        words: In which way the training calls the network otherwise than the audit; None where it is not known to.
        alike: Whether both calls were made and nothing in the network differed.

    >>> Compared(None, True).alike
    True
    """

    words: str | None
    alike: bool


def compare_calls(
    trainer: Trainer, module: LightningModule, first: FirstCalls, audit: Callable[[Tensor], Any]
) -> Compared:
    """Make the calls of the training and of the audit, and compare what comes out.

    To be called within what keeps the training undisturbed. Evaluation mode also keeps processes from waiting for each
    other, as they may in training mode: one of them may have nothing to compare.

    Args:
        trainer: Of the run.
        module: The model.
        first: What the training did.
        audit: Calls the model as the audit does, on images in [0, 1].
    """
    modules, alike = dict(module.named_modules()), []
    for name, call in first.calls.items():
        given = call.images(first.images[0].numel())
        if given is None:
            continue
        again = _Again(modules[name], call, given, first.rows(len(given)))
        audited = [one for seed in (0, 1) if (one := again.as_audited(audit, seed)) is not None]
        if len(audited) < 2:
            continue
        with in_stage(trainer, RunningStage.TRAINING):
            trained = [again.as_trained(seed) for seed in (0, 1, 0)]
        differ = _differ(audited[0], trained[0])
        alike.append(not differ)
        # Where the training's call is the more random one, as by a mask that it draws, there is nothing to say either;
        # nor where it draws from generators of its own.
        is_masked = _spread(*trained[:2]) > MORE_RANDOM * _spread(*audited)
        if differ and not is_masked and not _differ(trained[0], trained[2]):
            words = _words(again, first)
            if words is not None:
                return Compared(words, False)
    return Compared(None, bool(alike) and all(alike))


_Results = Mapping[Any, Tensor]
"""What came out of a call, and in short what came out of the layers within it."""


def _results(output: Any, within: Mapping[Any, Tensor]) -> _Results:
    return {path: one.detach().clone() for path, one in tensors_in(output) if one.is_floating_point()} | dict(within)


def seed_all(seed: int) -> None:
    """So that two calls draw the same random numbers."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - others draw from the global state
    random.seed(seed)


def sums_of(output: Any) -> Tensor | None:
    """By which it is known again what came out of a layer; None where that is no numbers."""
    found = [one.detach().flatten().float() for _, one in tensors_in(output) if one.is_floating_point() and one.numel()]
    # Weighted by place; in single precision, whatever the run's own default and autocast are.
    sums = [(one * torch.linspace(0.5, 1, len(one), dtype=one.dtype, device=one.device)).mean() for one in found]
    return torch.stack(sums) if sums else None


class _Again:
    """Repeats the training's call of a layer, and the audit's on the training's images.

    Args:
        layer: The layer.
        call: The training's.
        trained: The images in it.
        images: As many, which the audit may be called on.
    """

    def __init__(self, layer: nn.Module, call: Call, trained: Tensor, images: Tensor) -> None:
        self.layer, self.call, self.trained, self.images = layer, call, trained, images
        self.beside: Tensor | None = None  # the channels beside the images
        self.given: Call | None = None
        self._given_seed = 0
        self._results: _Results | None = None
        self._within: dict[Any, Tensor] = {}

    def as_audited(self, audit: Callable[[Tensor], Any], seed: int) -> _Results | None:
        """What comes of the audit's first call of the layer; None where that cannot be given the training's images."""
        self.given, self._results, self._given_seed = None, None, seed
        with self._noting_within():
            handles = [
                self.layer.register_forward_pre_hook(self._begin, with_kwargs=True),
                self.layer.register_forward_hook(self._end),
            ]
            try:
                audit(self.images)
            finally:
                for handle in handles:
                    handle.remove()
        return self._results

    def as_trained(self, seed: int) -> _Results:
        """What comes of the training's call."""
        call = self.call.copied()
        with self._noting_within():
            seed_all(seed)
            return _results(self.layer(*call.arguments, **call.named), self._within)

    @contextmanager
    def _noting_within(self) -> Iterator[None]:
        """Note what comes out of the layers within, one call after the other."""
        self._within, handles = {}, []

        def noting(name: str) -> Callable[..., None]:
            def note(_: nn.Module, arguments: Any, output: Any) -> None:
                sums = sums_of(output)
                if sums is not None:
                    self._within[name, sum(one[0] == name for one in self._within)] = sums

            return note

        for name, module in self.layer.named_modules():
            if module is not self.layer and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                handles.append(module.register_forward_hook(noting(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Put the training's images in the place of the audit's."""
        if self.given is not None:
            return None
        given = Call(arguments, named)
        mine = given.images(self.images[0].numel())
        replaced = None if mine is None else self._replaced(mine, self.trained)
        parts, structure = tree_flatten((arguments, named))
        if replaced is None or not any(one is mine for one in parts):  # perhaps within an object
            return None
        self.given = given
        self._within.clear()
        seed_all(self._given_seed)
        return tree_unflatten([replaced if one is mine else one for one in parts], structure)

    def _replaced(self, mine: Tensor, theirs: Tensor) -> Tensor | None:
        """What the training gives, but for channels or columns that the audit leaves constant: they are conditions.

        None where both have other shapes.
        """
        if mine.shape != theirs.shape:
            return None
        replaced = theirs.to(mine, copy=True)
        if mine.ndim > 1 and len(mine) > 1:
            own = _varies(mine)
            if bool(own.any()) and not torch.equal(mine[:, ~own], replaced[:, ~own]):
                self.beside = theirs[:, ~own]
                replaced[:, ~own] = mine[:, ~own]
        return replaced

    def _end(self, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self.given is not None and self._results is None:
            self._results = _results(output, self._within)


def _varies(tensor: Tensor) -> Tensor:
    """Which of the channels or columns are not one number throughout."""
    values = tensor.transpose(0, 1).flatten(1)
    return values.amax(1) > values.amin(1)


def _pairs(one: _Results, other: _Results) -> list[tuple[Tensor, Tensor]]:
    """What came out of both, in the same shape."""
    pairs = [(value, other[path]) for path, value in one.items() if path in other]
    return [(mine, theirs) for mine, theirs in pairs if mine.shape == theirs.shape and mine.numel()]


def _differ(one: _Results, other: _Results) -> bool:
    return any(
        bool(theirs.isfinite().all())
        and not bool((mine - theirs).abs().max() <= ALIKE * theirs.abs().max().clamp(min=1e-6))
        for mine, theirs in _pairs(one, other)
    )


def _spread(one: _Results, other: _Results) -> float:
    squares = [float((mine.float() - theirs.float()).square().sum()) for mine, theirs in _pairs(one, other)]
    return sqrt(sum(squares))


def _words(again: _Again, first: FirstCalls) -> str | None:
    """What the training gives the layer and the audit does not; None where that is masks or noise that it draws."""
    assert again.given is not None  # or there was nothing to compare
    kind, defaults, images = type(again.layer).__name__, names_of_arguments(again.layer), again.trained
    by_audit, by_training = (
        dict(_leaves(named_arguments(defaults, *call, others=True))) for call in (again.given, again.call)
    )
    others = {
        name: value
        for name, value in by_training.items()
        if value is not images and not _same(value, by_audit.get(name, defaults.get(name)))
    }
    if again.beside is not None:
        others["values beside those of the images"] = again.beside
    told = {
        name: value
        for name, value in others.items()
        if (value is not again.beside and _says_something(value, images)) or is_made_of_any(value, first.batch)
    }
    if others and not told:
        return None
    shown = [f"{name}={value}" if isinstance(value, Number | str) else name for name, value in told.items()]
    how = f"with {' and '.join(shown)}, which the audit does not give it" if shown else "otherwise than the audit"
    return f"the training calls {kind} {how}: the same images are not treated alike then"


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


def _says_something(value: Any, images: Tensor) -> bool:
    """Whether an argument may say something of the images; what is as large as they are is a mask or noise."""
    return not isinstance(value, Tensor) or value.ndim == 0 or may_be_label(value, images)


def is_made_of_any(value: Any, batch: Sequence[Tensor]) -> bool:
    """Whether a batch holds what an argument is made of, see :func:`is_made_of`."""
    return isinstance(value, Tensor) and any(is_made_of(value, one) for one in batch)


def is_made_of(value: Tensor, one: Tensor) -> bool:
    """Whether a map or mask is that of a batch, as it stands there or with a channel for each of its classes.

    >>> labels = torch.tensor([[[0, 2], [1, 1]]])
    >>> is_made_of(nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), labels), is_made_of(labels, labels + 1)
    (True, False)
    """
    one = one.to(value.device)
    if value.numel() == one.numel():
        return bool((value.reshape(-1) == one.reshape(-1)).all())
    if value.ndim < 2 or value.shape[1] < 2:
        return False
    classes, chosen = value.argmax(1), value == value.amax(1, keepdim=True)
    one_hot = bool((chosen.sum(1) == 1).all()) and bool((value[~chosen] == value.amin()).all())
    return one_hot and classes.numel() == one.numel() and bool((classes.reshape(-1) == one.reshape(-1)).all())

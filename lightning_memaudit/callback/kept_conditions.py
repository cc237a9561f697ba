"""Whether the training keeps a condition on the model, where the network finds it, instead of passing it.

Such an attribute (``self.network.label = batch[1]``) still holds what the last batch left when an audit calls the
model, and nothing in that call tells. So the plain attributes are noted before a step and after it: one that was set,
to something that the batch holds beside its images, and by which the audit's own call of the network differs, is a
condition that the audit does not give.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_memaudit.callback.calls import is_made_of, seed_all, sums_of
from lightning_memaudit.callback.input_watch import is_compiled, like_images
from lightning_memaudit.callback.reading.affine import fit_exact
from lightning_memaudit.callback.reading.items import tensors_in

STEPS = 3
"""That are looked at: a number may by chance be set to what it was."""

MOST_LEAVES = 64
"""Of a list or a dictionary that are looked at."""

MOST_KEPT = 2**18
"""Values of a tensor that is kept during a step, to be put back for a call; it must not be larger."""

EXACT = 1e-6
"""Of the largest value, by which two calls differ that do not do the same."""

_OWN = frozenset(nn.Module().__dict__) | frozenset(LightningModule().__dict__)
_UNKNOWN, _ABSENT = object(), object()


class KeptConditions:
    """Finds the attributes that a step sets from what its batch holds beside the images.

    Args:
        module: The model.

    >>> module = nn.Identity()
    >>> kept = KeptConditions(module)
    >>> kept.begin()
    >>> labels = torch.tensor([3, 1])
    >>> module.label, module.count = labels[0].item(), 1
    >>> [one.name for one in kept.end([labels])]
    ['label']
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._before: dict[str, _Noted] | None = None

    def begin(self) -> None:
        """Note what there is before the step."""
        self._before = {name: _Noted(value) for name, (_, _, value) in _attributes(self.module)}

    def end(self, beside: Sequence[Tensor]) -> list["Kept"]:
        """What was set to something of the batch.

        Args:
            beside: The tensors of the batch, without its images.
        """
        before, self._before = self._before, None
        if before is None or not beside:
            return []
        found = []
        for name, (owner, key, value) in _attributes(self.module):
            noted = before.get(name)
            if (noted is None or not noted.is_still(value)) and _is_of_batch(value, beside):
                found.append(Kept(name, owner, key, value, _ABSENT if noted is None else noted.value))
        return found


@dataclass(frozen=True)
class Kept:
    """An attribute that was set to something of a batch.

    Attributes:
        name: Of the attribute, with that of its module.
        owner: The module.
        key: The attribute's name there.
        value: What it was set to.
        before: What it was.

    >>> Kept("network.label", nn.Identity(), "label", 3).name
    'network.label'
    """

    name: str
    owner: nn.Module
    key: str
    value: Any
    before: Any = _UNKNOWN

    def is_read(self, call: Callable[[], Any], module: nn.Module) -> bool:
        """Whether a call does something else where the attribute is another.

        To be called within what keeps the training undisturbed. A call that sets it by itself does not read it.

        Args:
            call: Calls the model as the audit does.
            module: The model.
        """
        wanted, again = _trace(call, module), _trace(call, module)
        same = max(EXACT, 10 * _difference(wanted, again))
        for other in self._others():
            with self._put(other):
                try:
                    found = _trace(call, module)
                except Exception:  # as of None
                    return True
            if _difference(wanted, found) > same:
                return True
        return False

    def _others(self) -> Iterator[Any]:
        """Other values. Never one that may be no class at all: on a GPU such an index would end the training."""
        yield tree_map(_reversed, self.value)
        yield tree_map(_zeros, self.value)
        if self.before is not _UNKNOWN and not any(_is_negative(one) for one in tree_leaves(self.before)):
            yield self.before

    @contextmanager
    def _put(self, value: Any) -> Iterator[None]:
        attributes = self.owner.__dict__
        if value is _ABSENT:
            attributes.pop(self.key, None)
        else:
            attributes[self.key] = value
        try:
            yield
        finally:
            attributes[self.key] = self.value


class _Noted:
    """What an attribute is before a step; large tensors, and those that hold a graph, are not kept for it."""

    def __init__(self, value: Any) -> None:
        leaves = tree_leaves(value)
        self._marks = [(_reference(one), _version(one)) for one in leaves]
        is_kept = all(not isinstance(one, Tensor) or (_is_plain(one) and one.numel() <= MOST_KEPT) for one in leaves)
        # A copy of the list or dictionary: the step may work in place.
        self.value = (
            tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, value) if is_kept else _UNKNOWN
        )

    def is_still(self, value: Any) -> bool:
        leaves = tree_leaves(value)
        return len(leaves) == len(self._marks) and all(
            reference() is one and version == _version(one)
            for one, (reference, version) in zip(leaves, self._marks, strict=True)
        )


def _reference(one: Any) -> Callable[[], Any]:
    return weakref.ref(one) if isinstance(one, Tensor) else lambda: one


def _version(one: Any) -> int:
    return one._version if isinstance(one, Tensor) and not one.is_inference() else 0


def _is_plain(one: Tensor) -> bool:
    return one.layout == torch.strided and not one.requires_grad and not one.is_complex()


def _attributes(module: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, Any]]]:
    """All that may be a condition, by name: tensors, numbers, and lists and dictionaries of them."""
    for name, owner in module.named_modules():
        if type(owner).__module__.partition(".")[0] == "torchmetrics" or isinstance(owner, torch.jit.ScriptModule):
            continue
        for key, value in list(owner.__dict__.items()):
            if key not in _OWN and _may_be(value):
                yield f"{name}.{key}" if name else key, (owner, key, value)


def _may_be(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        leaves = tree_leaves(value)
        return 0 < len(leaves) <= MOST_LEAVES and any(isinstance(one, Tensor) or _is_number(one) for one in leaves)
    return value is None or _is_number(value) or (isinstance(value, Tensor) and not isinstance(value, nn.Parameter))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_negative(one: Any) -> bool:
    if isinstance(one, Tensor):
        return not one.is_floating_point() and bool((one < 0).any())
    return isinstance(one, int) and one < 0


def _is_of_batch(value: Any, beside: Sequence[Tensor]) -> bool:
    if isinstance(value, list | tuple) and value and all(_is_number(one) for one in value):
        return any(_is_of(torch.tensor(value), one) for one in beside)
    if _is_number(value):
        return any(_is_of(torch.tensor(value), one) for one in beside)
    return any(isinstance(leaf, Tensor) and _is_of(leaf, one) for leaf in tree_leaves(value) for one in beside)


def _is_of(value: Tensor, one: Tensor) -> bool:
    """Whether a tensor is one of a batch, its first row or one of its columns, or a one-hot encoding of these."""
    if not (_is_plain(value) and _is_plain(one) and value.numel() and one.numel()):
        return False
    parts = [one]
    if one.ndim:
        parts.append(one[:1])
    if one.ndim == 2:
        parts += [one[:, column] for column in range(min(one.shape[1], MOST_LEAVES))]
    value = value.detach().to(one.device)
    # A one-hot of one class has no rows: one more dimension makes it the only one.
    return any(
        is_made_of(shaped, part.to(shaped.dtype) if shaped.is_floating_point() else part)
        for part in parts
        for shaped in (value, value[None])
    )


def _reversed(one: Any) -> Any:
    return one.flip(0) if isinstance(one, Tensor) and one.ndim else one


def _zeros(one: Any) -> Any:
    return torch.zeros_like(one) if isinstance(one, Tensor) else type(one)(0) if _is_number(one) else one


def _trace(call: Callable[[], Any], module: nn.Module) -> list[Tensor]:
    """What goes through the layers that have weights, in short, and what comes out."""
    found: list[Tensor] = []

    def note(_: nn.Module, arguments: Any, output: Any) -> None:
        found.extend(one for part in (arguments, output) if (one := sums_of(part)) is not None)

    modules = [] if any(map(is_compiled, module.modules())) else list(module.modules())
    modules = [one for one in modules if not isinstance(one, torch.jit.ScriptModule)]  # which takes no hooks
    layers = [one for one in modules if next(one.parameters(recurse=False), None) is not None]
    handles = [one.register_forward_hook(note) for one in layers]
    try:
        seed_all(0)
        output = call()
    finally:
        for handle in handles:
            handle.remove()
    note(module, (), output)
    return found


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest, of the largest value there; infinite where other layers were called."""
    if [part.shape for part in one] != [part.shape for part in other]:
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(one, other, strict=True):
        scale = float(mine.abs().nan_to_num().max().clamp(min=1e-12))
        largest = max(largest, float((mine - theirs).abs().nan_to_num().max()) / scale)
    return largest


def beside_images(batch: Any, images: Tensor) -> list[Tensor]:
    """The tensors and numbers of a batch, without its images.

    Args:
        batch: As ``training_step`` gets it.
        images: (B, C, *spatial), that are read from it, in any range.

    >>> images = torch.rand(2, 1, 4, 4)
    >>> [one.tolist() for one in beside_images([2 * images - 1, torch.tensor([3, 1])], images)]
    [[3, 1]]
    """
    found = [one for _, one in tensors_in(batch) if not _are(one, images)]
    return found + [torch.tensor(one) for one in tree_leaves(batch) if _is_number(one)]


def _are(one: Tensor, images: Tensor) -> bool:
    if one.numel() != images.numel() or not one.ndim or len(one) != len(images):
        return False
    seen = like_images(images, one.float())
    return seen is not None and fit_exact(images.to(seen.device), seen) is not None

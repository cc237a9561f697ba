"""What to pass as ``reconstruct`` for a module whose forward pass is no autoencoder, but whose layers are."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.model import image_keys
from lightning_memaudit.callback.seen import Seen

MOST_PARTS = 8
"""Of more parts of a module, no pairs are tried."""


@torch.no_grad()
def suggested_call(module: nn.Module, seen: Seen, images: Tensor) -> str | None:
    """The parts of a module that return images where they are given images: one, or two in their order.

    It is a suggestion: what ``training_step`` does with them, only people know.

    Args:
        module: Of which each part with weights is called, perhaps with flat images.
        seen: What it sees of the images.
        images: A few, (B, C, *spatial) in [0, 1].

    Returns:
        A function ``(module, images)`` in Python; None where no parts fit.

    >>> module = nn.ModuleDict({"encoder": nn.Linear(64, 8), "decoder": nn.Linear(8, 64)})
    >>> suggested_call(module, Seen(), torch.rand(2, 1, 8, 8))
    'lambda module, images: module.decoder(module.encoder(images.flatten(1)))'
    """
    inputs = seen.apply(images)
    flat_too = [(inputs, "images")] if seen.flat else [(inputs, "images"), (inputs.flatten(1), "images.flatten(1)")]
    for given, words in flat_too:
        for text, result in _calls(module, given, words):
            keys = [] if isinstance(result, Tensor) else image_keys(result, (inputs.shape, given.shape), given)
            if isinstance(result, Tensor) and _is_new(result, given, seen, images):
                return f"lambda module, images: {text}"
            if len(keys) == 1:
                by_key = isinstance(result, Mapping | tuple | list)
                return f"lambda module, images: {text}{f'[{keys[0]!r}]' if by_key else f'.{keys[0]}'}"
    return None


def _calls(module: nn.Module, given: Tensor, words: str) -> Iterator[tuple[str, Any]]:
    """Every call of one part, then of one on what an earlier one returns: in words, and what it returns."""
    named = {name: part for name, part in module.named_children() if name.isidentifier()}
    parts = {name: part for name, part in named.items() if next(part.parameters(), None) is not None}
    first: dict[str, Any] = {}
    for name, part in parts.items():
        first[name] = _result(part, given)
        yield f"module.{name}({words})", first[name]
    for one, other in combinations(parts, 2) if len(parts) <= MOST_PARTS else ():
        if isinstance(first[one], Tensor):
            yield f"module.{other}(module.{one}({words}))", _result(parts[other], first[one])


def _result(part: nn.Module, given: Tensor) -> Any:
    try:
        return part(given.clone())
    except Exception:  # it takes something else
        return None


def _is_new(result: Tensor, given: Tensor, seen: Seen, images: Tensor) -> bool:
    try:
        returned = seen.undo(result, images)
    except ValueError:
        return False
    return not torch.equal(returned, seen.undo(given, images))

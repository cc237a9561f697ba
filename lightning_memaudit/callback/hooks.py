"""Hooks on the layers and tensors of a training: they leave with the step that they watch, and no copy keeps them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class OwnHook:
    """A hook on a layer that stays behind where the layer is copied or saved within the step, as by a teacher's copy.

    Else the copy would take along all that the hook knows, such as the trainer, which may be impossible to copy.

    Args:
        call: What the hook does.

    >>> import copy
    >>> layer = torch.nn.Linear(2, 2)
    >>> handle = layer.register_forward_hook(OwnHook(lambda *call: print("called")))
    >>> copied = copy.deepcopy(layer)
    >>> _, _ = copied(torch.ones(1, 2)), layer(torch.ones(1, 2))
    called
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As the hook is called."""
        return self.call(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnHook, (_nothing,)


def _nothing(*arguments: Any, **named: Any) -> None:
    pass


def is_batched(tensor: Tensor) -> bool:
    """Whether it is many tensors within ``torch.func.vmap``, whose values may not be taken out of that.

    >>> torch.func.vmap(lambda one: print(is_batched(one)) or one)(torch.zeros(2, 3)).shape
    True
    torch.Size([2, 3])
    """
    inner = torch._C._functorch
    while inner.is_gradtrackingtensor(tensor):
        tensor = inner.get_unwrapped(tensor)
    return bool(inner.is_batchedtensor(tensor))

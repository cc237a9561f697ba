"""What the code of ``training_step`` calls: whether a step that is begun and left again could leave traces.

A step is left in the middle when a batch is given again. What it does in memory is put back. What it takes from an
iterator, writes to a file or sends to other processes is not, and a lock that it holds then stays locked.
"""

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType, MethodType
from typing import Any

from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

_TAKES = "next __next__ send acquire release __enter__ enter_context start"
_WRITES = "open write writelines print save dump imwrite imsave savefig put wandb requests"
_WAITS = "barrier all_gather all_gather_object all_reduce reduce broadcast gather"
LEAVES_TRACES = frozenset(f"{_TAKES} {_WRITES} {_WAITS}".split())
"""Names that show it, of functions and methods alike."""

MOST_FUNCTIONS = 200
"""That are looked at, of the user's own."""


def may_leave_traces(module: nn.Module) -> bool:
    """Whether the code of a module's ``training_step``, or of what the user's own code calls there, has such a name.

    Args:
        module: A LightningModule.

    >>> class Logs(nn.Module):
    ...     def training_step(self, batch):
    ...         return self.own(batch)
    ...     def own(self, batch):
    ...         print(batch)
    >>> class Plain(Logs):
    ...     def own(self, batch):
    ...         return 2 * batch
    >>> may_leave_traces(Logs()), may_leave_traces(Plain())
    (True, False)
    """
    step: Any = getattr(module, "training_step", None)
    waiting: list[Any] = [step]
    seen: set[CodeType] = set()
    while waiting and len(seen) < MOST_FUNCTIONS:
        function = waiting.pop()
        function = function.__func__ if isinstance(function, MethodType) else function
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for code in _codes(function.__code__):
            if not LEAVES_TRACES.isdisjoint(code.co_names):
                return True
            waiting += [one for name in code.co_names if (one := _own(name, function, module)) is not None]
    return bool(waiting)


def takes_iterator(module: nn.Module) -> bool:
    """Whether ``training_step`` is given the iterator of its batches: hooks before it are given the batch before.

    >>> class Takes(nn.Module):
    ...     def training_step(self, dataloader_iter):
    ...         batch, batch_idx, _ = next(dataloader_iter)
    >>> takes_iterator(Takes()), takes_iterator(nn.Identity())
    (True, False)
    """
    step = getattr(module, "training_step", None)
    return step is not None and _is_given_iterator(getattr(step, "__func__", step))


@lru_cache(maxsize=16)
def _is_given_iterator(step: Callable[..., Any]) -> bool:
    # Asked for in every step, where a look at the signature takes longer than all else.
    return is_param_in_hook_signature(step, "dataloader_iter", explicit=True)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Of a function and of those that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _own(name: str, function: FunctionType, module: nn.Module) -> Any:
    """The function or method of this name, where the user wrote it."""
    found = getattr(type(module), name, None) or function.__globals__.get(name)
    origin = (getattr(found, "__module__", None) or "").partition(".")[0]
    is_theirs = origin in ("torch", "torchvision", "lightning", "pytorch_lightning", "numpy", "builtins")
    return None if is_theirs or origin in sys.stdlib_module_names - {"__main__"} else found

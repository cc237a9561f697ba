"""Look at a model in the middle of its training and leave random states, buffers and modes as they were."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SEARCH_DEPTH = 6
_LONGEST_LIST = 100
_NOT_SEARCHED = {"trainer", "_trainer", "_parameters", "_buffers", "_modules"}


@contextmanager
def preserved_random_state(*owners: object) -> Iterator[None]:
    """Restore the random state of python, numpy, torch and every CUDA device, also after an exception.

    Also the states of random generators that ``owners`` (data sets, transforms, modules) keep as attributes, see
    :func:`private_generators`. Lightning's ``isolate_rng`` knows the global ones only, and does not restore them when
    an exception passes.
    """
    python, legacy_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others' global state
    cpu = torch.get_rng_state()
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if initialized else None
    restore_owned = [_restorer(generator) for generator in private_generators(*owners)]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for restore in restore_owned:
            restore()


def private_generators(*owners: object) -> list[Any]:
    """Random generators among the attributes of ``owners``, of what they hold, and so on, a few levels deep."""
    found: list[Any] = []
    seen: set[int] = set()

    def search(value: object, depth: int) -> None:
        leaf = isinstance(value, Tensor | np.ndarray | str | bytes | type | ModuleType)
        if id(value) in seen or depth > _SEARCH_DEPTH or leaf:
            return
        seen.add(id(value))
        if isinstance(value, random.Random | np.random.Generator | np.random.RandomState | torch.Generator):
            found.append(value)
        elif isinstance(value, Mapping):
            if len(value) <= _LONGEST_LIST:
                for item in value.values():
                    search(item, depth + 1)
        elif isinstance(value, list | tuple | set):
            if len(value) <= _LONGEST_LIST:
                for item in value:
                    search(item, depth + 1)
        elif hasattr(value, "__dict__"):
            for name, item in vars(value).items():
                if name not in _NOT_SEARCHED:
                    search(item, depth + 1)
            if isinstance(value, nn.Module):
                for child in value.children():
                    search(child, depth)

    for owner in owners:
        search(owner, 0)
    return found


def _restorer(generator: Any) -> Callable[[], None]:
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    if isinstance(generator, np.random.RandomState):
        legacy = generator.get_state()
        return lambda: generator.set_state(legacy)
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", bits)
    own = generator.get_state()
    return lambda: generator.set_state(own)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, then give each its own flag back (``module.train()`` would not)."""
    flags = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        for submodule, _ in flags:
            # Not .eval(): a module may override train() with side effects.
            submodule.training = False
        yield
    finally:
        for submodule, training in flags:
            submodule.training = training


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Undo what forward passes write into buffers: counters, running statistics, codebooks."""
    copies = [(buffer, buffer._version, buffer.detach().clone()) for buffer in module.buffers()]
    registered = [(submodule, dict(submodule._buffers)) for submodule in module.modules() if submodule._buffers]
    try:
        yield
    finally:
        for submodule, buffers in registered:
            submodule._buffers.update(buffers)  # a buffer may have been replaced, not written to
        with torch.no_grad():
            for buffer, version, copy in copies:
                if buffer._version != version:
                    buffer.copy_(copy)


@contextmanager
def undisturbed(module: nn.Module, *owners: object) -> Iterator[None]:
    """Evaluation mode, no gradients, no recompilation; random states and buffers are preserved.

    Args:
        module: The model.
        owners: See :func:`preserved_random_state`.
    """
    with (
        preserved_random_state(module, *owners),
        preserved_buffers(module),
        evaluation_mode(module),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        yield

"""Look at a model in the middle of its training without leaving a trace."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the random state of python, numpy, torch and every CUDA device, also after an exception.

    (``lightning.fabric.utilities.seed.isolate_rng`` does not restore when an exception passes.)
    """
    python, legacy_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others' global state
    cpu = torch.get_rng_state()
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if initialized else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


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
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no recompilation, and the random state preserved."""
    with (
        preserved_random_state(),
        evaluation_mode(module),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        yield

"""What a model may reach of the run: what it keeps on the trainer, settings of optimizers, values that processes share.

Trainers and optimizers themselves go their own way, also during an audit: a signal may tell the trainer to stop.
"""

# ruff: noqa: D102 - State says what its methods do

import ctypes
import inspect
import multiprocessing
import types
from contextlib import suppress
from functools import cache
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

from lightning_memaudit.callback.state.object_states import Attributes, Held, State, Swap
from lightning_memaudit.callback.state.user_code import is_user_code, module_name

C_VALUE: type = ctypes.c_int.__mro__[-2]
"""What every number, array and structure of ``ctypes`` inherits from."""


class OnTrainer(Attributes):
    """The attributes of a trainer that are not Lightning's; its optimizers and schedulers are held too.

    >>> from lightning.pytorch import Trainer
    >>> trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    >>> state = OnTrainer(trainer)
    >>> trainer.calls, trainer.should_stop = 1, True
    >>> state.restore({})
    >>> hasattr(trainer, "calls"), trainer.should_stop
    (False, True)
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        kind: Any = type(owner)
        self._own: frozenset[str] = _own_names(kind)

    def held(self) -> Held:
        own = self._own
        yield from ((key, value) for key, value in zip(self._keys, self._values, strict=True) if key not in own)
        with suppress(Exception):  # a trainer that is not set up has none
            yield from ((f"optimizers[{place}]", one) for place, one in enumerate(self.owner.optimizers))
            configs = self.owner.lr_scheduler_configs
            yield from ((f"lr_schedulers[{place}]", one.scheduler) for place, one in enumerate(configs))

    def restore(self, swap: Swap) -> str | None:
        own, mapping = self._own, self._target
        saved = {key: value for key, value in zip(self._keys, self._values, strict=True) if key not in own}
        for key in [key for key in mapping if key not in saved and key not in own]:
            del mapping[key]
        mapping.update({key: swap.get(id(value), value) for key, value in saved.items()})
        return None


class Settings(State):
    """The parameter groups of an optimizer: learning rates and whatever else is written there.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> [name for name, _ in Settings(optimizer).held()]
    ['param_groups']
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._groups = owner.param_groups

    def held(self) -> Held:
        return [("param_groups", self._groups)]

    def restore(self, swap: Swap) -> str | None:
        if self.owner.param_groups is not self._groups:
            self.owner.param_groups = self._groups
        return None

    @staticmethod
    def label(key: Any) -> str:
        return f".{key}"


class Value(State):
    """A number, an array or a structure of ``ctypes`` or ``multiprocessing``, by its bytes.

    Where other processes run that may have written to it, as workers do that count what they read, it stays as it is.

    >>> counter = ctypes.c_int(3)
    >>> state = Value(counter)
    >>> counter.value += 1
    >>> state.restore({})
    >>> counter.value
    3
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        is_wrapped = isinstance(owner, SynchronizedBase)
        self._memory: Any = owner._obj if is_wrapped else owner
        self._is_shared = is_wrapped or hasattr(owner, "_wrapper")
        self._before = self._now()

    def _now(self) -> bytes:
        return ctypes.string_at(ctypes.addressof(self._memory), ctypes.sizeof(self._memory))

    def restore(self, swap: Swap) -> str | None:
        if self._now() == self._before:
            return None
        if self._is_shared and multiprocessing.active_children():
            return "shared with other processes"
        ctypes.memmove(ctypes.addressof(self._memory), self._before, len(self._before))
        return None


@cache
def _own_names(kind: type) -> frozenset[str]:
    """Names that the code of a class uses, other than that of the user's own class that inherits from it."""
    functions = [
        inspect.unwrap(value)
        for base in kind.__mro__
        if not is_user_code(module_name(base))
        for value in vars(base).values()
        if isinstance(value, types.FunctionType)
    ]
    return frozenset(name for one in functions for name in one.__code__.co_names)

"""Look at a model in the middle of its training and leave everything as it was: states, buffers, modes."""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn
from torch.distributed.fsdp import FlatParameter
from torch.nn.modules import module as hooks_of_all_modules
from torch.nn.parameter import is_lazy
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torch.utils.weak import WeakIdKeyDictionary

from lightning_memaudit.callback.state.snapshot import Snapshot
from lightning_memaudit.callback.state.tensor_contents import ChangedBefore, TensorContent, tensor_content


class _Memory:
    """What the audits of one model have found so far."""

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.changed = ChangedBefore()


_memories = WeakIdKeyDictionary()


@contextmanager
def preserved_random_state(*owners: object) -> Iterator[None]:
    """Restore the random state of python, numpy, torch and every CUDA device, also after an exception.

    Also the states of random generators that can be reached from ``owners`` (data sets, transforms, modules), see
    :class:`Snapshot`. Lightning's ``isolate_rng`` knows the global ones only, and does not restore them when an
    exception passes.
    """
    python, legacy_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others' global state
    cpu = torch.get_rng_state()
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if initialized else None
    owned = Snapshot(owners, random_only=True) if owners else None
    try:
        yield
    finally:
        if owned is not None:
            owned.restore()
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


class Buffers:
    """The buffers of a model as they are now: counters, running statistics, codebooks.

    Args:
        module: The model.

    >>> model = nn.BatchNorm1d(1)
    >>> buffers = Buffers(model)
    >>> _ = model(torch.rand(4, 1)), buffers.put_back()
    >>> model.num_batches_tracked.item()
    0
    """

    def __init__(self, module: nn.Module) -> None:
        sharded = is_sharded(module)
        contents = [tensor_content(buffer, pooled=False, sharded=sharded) for buffer in module.buffers()]
        self._kept: list[TensorContent] = [content for content in contents if content is not None]
        for content in self._kept:
            content.keep()
        self._registered = [(one, dict(one._buffers.items())) for one in module.modules() if one._buffers]
        self._marks = self._now()

    def put_back(self) -> None:
        """Undo what forward passes have written to them, or put in their places."""
        for submodule, buffers in self._registered:
            if isinstance(submodule, torch.jit.ScriptModule):
                for name, buffer in buffers.items():
                    setattr(submodule, name, buffer)
            else:
                submodule._buffers.update(buffers)
        for content in self._kept:
            content.restore()
        self._marks = self._now()

    def put_back_if_written(self) -> None:
        """The same after a call of the model: what one image does to a buffer must not change what another returns."""
        if self._now() != self._marks:
            self.put_back()

    def _now(self) -> list[tuple[int, int]]:
        """Which tensors they are, and how often each was written to; those of scripted modules do not tell."""
        return [
            (id(buffer), buffer._version)
            for submodule, _ in self._registered
            if not isinstance(submodule, torch.jit.ScriptModule)
            for buffer in submodule._buffers.values()
            if buffer is not None and not buffer.is_inference()
        ]


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[Buffers]:
    """Undo what forward passes write into buffers."""
    buffers = Buffers(module)
    try:
        yield buffers
    finally:
        buffers.put_back()


@contextmanager
def preserved_objects(*owners: object) -> Iterator[None]:
    """Put back all that can be reached from ``owners``, see :class:`Snapshot`, also after an exception.

    Warns of what cannot be put back, once for each name and first owner, and never in place of an exception.

    Args:
        owners: The model first, then data modules or whatever else is called; None is left out.
    """
    owners = tuple(owner for owner in owners if owner is not None)
    first = owners[0] if owners else None
    model = first if isinstance(first, nn.Module) else None
    memory = _Memory()
    if model is not None:
        memory = _memories.get(model, memory)  # type: ignore[no-untyped-call]
        _memories[model] = memory
    buffers = frozenset() if model is None else frozenset(map(id, model.buffers()))
    snapshot = Snapshot(
        [*owners, *_hooks_of_all_modules()],
        ignored=buffers,
        changed=memory.changed,
        sharded=model is not None and is_sharded(model),
    )
    raised = True
    try:
        yield
        raised = False
    finally:
        new = [name for name in dict.fromkeys(snapshot.restore()) if name not in memory.named]
        memory.named.update(new)
        if new:
            _warn(new, raised)


def _warn(names: list[str], raised: bool) -> None:
    try:
        warnings.warn(
            "memorization audit: the model keeps state that could not be restored after an audit: "
            f"{', '.join(names)}: the training may differ from one without audits",
            stacklevel=4,
        )
    except UserWarning:
        if not raised:
            raise


def _hooks_of_all_modules() -> list[Any]:
    return [value for name, value in vars(hooks_of_all_modules).items() if name.startswith("_global_") and value]


@contextmanager
def silent_logging(module: nn.Module) -> Iterator[None]:
    """Let ``self.log`` within a forward pass do nothing: an audit's passes are no part of the training's metrics."""
    lightning = [vars(part) for part in module.modules() if "_current_fx_name" in vars(part)]
    silenced = [(own, name) for own in lightning for name in ("log", "log_dict") if name not in own]
    try:
        for own, name in silenced:
            own[name] = _log_nothing
        yield
    finally:
        for own, name in silenced:
            own.pop(name, None)


def _log_nothing(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def silent_loggers(trainer: Trainer) -> Iterator[None]:
    """Likewise for ``self.logger``: what a forward pass writes there by itself goes nowhere."""
    loggers = trainer.loggers
    try:
        trainer.loggers = [_Silenced(logger) for logger in loggers]  # type: ignore[misc]
        yield
    finally:
        trainer.loggers = loggers


class _Silenced:
    """A logger that can be asked for its name, its folders and all else, and writes nothing."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._logger)  # so that it is taken for what it stands for

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (self._logger,)  # a copy is one of the logger

    def __getattr__(self, name: str) -> Any:
        if name == "_logger":
            raise AttributeError(name)
        if name == "experiment":
            return DummyLogger().experiment
        value = getattr(self._logger, name)
        writes = name.startswith("log_") or name in ("save", "finalize", "after_save_checkpoint", "watch")
        return _log_nothing if writes and callable(value) else value


def _itself(logger: Logger) -> Logger:
    return logger


@contextmanager
def in_stage(trainer: Trainer, stage: RunningStage) -> Iterator[None]:
    """Hooks and models that ask for ``trainer.training`` do as in this stage.

    Audits validate: members and controls are treated alike then.
    """
    before = trainer.state.stage
    trainer.state.stage = stage
    try:
        yield
    finally:
        trainer.state.stage = before


@contextmanager
def preserved_environment() -> Iterator[None]:
    """Put back the environment variables of this process.

    >>> with preserved_environment():
    ...     os.environ["CALLS"] = "1"
    >>> "CALLS" in os.environ
    False
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors are made of this type where nothing else is said: audits work in 32 bits, whatever a run has set.

    >>> with default_dtype(torch.float64):
    ...     torch.zeros(1).dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def undisturbed(module: nn.Module, *owners: object) -> Iterator[Buffers]:
    """Evaluation mode, no gradients, no recompilation; afterwards everything is as it was, or named in one warning.

    Args:
        module: The model, whose buffers are given, to be put back between its calls.
        owners: What else is called meanwhile, such as the data module and its hooks; see :func:`preserved_objects`.
    """
    with (
        preserved_random_state(),
        preserved_environment(),
        preserved_objects(module, *owners),
        preserved_buffers(module) as buffers,
        silent_logging(module),
        evaluation_mode(module),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        yield buffers


class NotPutBack(BaseException):
    """What is called was about to do what cannot be undone; no ``Exception``, which the code that does it may catch.

    >>> issubclass(NotPutBack, Exception)
    False
    """


@contextmanager
def without_lasting_steps(trainer: Trainer) -> Iterator[None]:
    """Let no optimizer step, and no dataloader give a batch; other state is put back by :func:`undisturbed`.

    Raises:
        NotPutBack: One is about to, in what is called within.
    """

    def stop(*_: Any) -> Any:
        raise NotPutBack

    hooks = [one.register_step_pre_hook(stop) for one in trainer.optimizers]
    try:
        with mock.patch.object(_BaseDataLoaderIter, "__next__", stop):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def uninitialized(module: nn.Module) -> list[str]:
    """Names of the parameters and buffers of lazy modules that get their shapes in the first call.

    >>> uninitialized(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
    ['1.weight', '1.bias']
    """
    named: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]


def is_sharded(module: nn.Module) -> bool:
    """Whether the weights are spread over processes, by FSDP, tensor parallelism or DeepSpeed."""
    return any(
        isinstance(parameter, FlatParameter) or hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id")
        for parameter in module.parameters()
    )

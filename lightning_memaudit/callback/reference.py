"""Reference models of a run: from a module, a checkpoint or an import path to what the audit measures beside the model.

A reference never is the run's own module: that is copied, and the copy gets other weights. It lives in every process of
the run whole, so that it is called without the others.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_memaudit.callback.isolation import is_sharded
from lightning_memaudit.callback.keys import imported
from lightning_memaudit.callback.seen import Seen
from lightning_memaudit.measurement.checks import RUN_MENDS
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.processes import AuditInterrupted
from lightning_memaudit.measurement.reference import ReferenceModels, check_reference
from lightning_memaudit.report.checkpoint import foreign_types, read_checkpoint
from lightning_memaudit.results.hashes import tensors_sha256

if TYPE_CHECKING:
    from lightning_memaudit.callback.model import ModelCall

Reference = Any
"""A module; a path of a checkpoint of the run's own class; an import path of a module's class, or of a function, that
is called without arguments and returns a module; or a list of those."""

TRAINED_ON = "trained_on"
"""Key, in the callback's state in a checkpoint, of the hashes of the audited members."""


class LoadedReference(NamedTuple):
    """A reference model, ready to be called as the run's own is.

    Attributes:
        module: In evaluation mode, on the run's device; no one else's.
        source: Where it comes from, for people, with the hash of its weights.
        trained_on: Hashes of images that it is known to be trained on.

    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> model = AutoencoderModule(nn.Conv2d(1, 1, 1))
    >>> torch.save({"state_dict": {name: one + 1 for name, one in model.state_dict().items()}}, "other.ckpt")
    >>> [loaded] = load("other.ckpt", model)
    >>> loaded.source.partition(" (")[0], bool((loaded.module.network.bias == model.network.bias + 1).all())
    ('other.ckpt', True)
    """

    module: nn.Module
    source: str
    trained_on: frozenset[str] = frozenset()


def check_given(reference: Reference) -> None:
    """Check what is given as ``reference``, as far as that is known before anything is loaded.

    Raises:
        ValueError: It is no module, path or list of them, or there is no such file or import path.
    """
    for one in _several(reference):
        if isinstance(one, nn.Module) or (isinstance(one, Path | str) and Path(one).is_file()):
            continue
        if not isinstance(one, Path | str):
            raise ValueError(
                f"reference={one!r}: pass a module, the path of a checkpoint, an import path, or a list of those"
            )
        if isinstance(one, Path) or imported(one) is None:
            raise ValueError(
                f"reference={str(one)!r}: there is no such file, and nothing to call by that import path; pass a "
                "checkpoint, or <module>.<function without arguments that returns a model>"
            )


def load(reference: Reference, pl_module: LightningModule) -> list[LoadedReference]:
    """Load every reference model.

    Args:
        reference: What was given.
        pl_module: The run's own model, whose copy gets the weights of a checkpoint.

    Raises:
        ValueError: One cannot be loaded, or does not fit the run's model.
    """
    loaded = []
    for one in _several(reference):
        if isinstance(one, nn.Module):
            module, known, source = _copied(one), frozenset[str](), type(one).__name__
        elif Path(one).is_file():
            module, known = _of_checkpoint(str(one), pl_module)
            source = str(one)
        else:
            module, known, source = _made(str(one)), frozenset[str](), str(one)
        module = module.to(pl_module.device).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        loaded.append(LoadedReference(module, f"{source} (weights {tensors_sha256(module.state_dict())})", known))
    return loaded


def reference_models(
    how: "ModelCall", pl_module: LightningModule, trainer: Trainer, seen: Seen | None
) -> ReferenceModels | None:
    """The run's reference models as the audit calls them: as the model itself, in the same precision.

    Args:
        how: How the model is called, and which references there are.
        pl_module: The run's own model.
        trainer: Of the run.
        seen: What the model sees.

    Raises:
        ValueError: One cannot be loaded.
    """
    if how.reference is None:
        return None
    loaded = load(how.reference, pl_module)
    autoencoders = [_callable(how, one.module, trainer, seen) for one in loaded]
    known = frozenset().union(*(one.trained_on for one in loaded))
    return ReferenceModels(autoencoders, known, tuple(one.source for one in loaded))


def check_references(models: ReferenceModels | None, autoencoder: Any, groups: Sequence[Group]) -> None:
    """Call every reference with the first images.

    Raises:
        ValueError: One fails, or does what the model does.
    """
    for number, one in enumerate(models.autoencoders if models is not None else ()):
        check_reference(one, autoencoder, groups, f"reference[{number}]", RUN_MENDS)


def _several(reference: Reference) -> Iterator[Any]:
    if isinstance(reference, list | tuple):
        if not reference:
            raise ValueError("reference=[]: name one or more, or leave it out")
        yield from reference
    elif reference is not None:
        yield reference


def _callable(how: "ModelCall", module: nn.Module, trainer: Trainer, seen: Seen | None) -> Any:
    call, precision = how.bind(module), trainer.precision_plugin

    def forward(images: Any) -> Any:
        if trainer.received_sigterm:
            raise AuditInterrupted("SIGTERM")
        with precision.forward_context():
            return call(precision.convert_input(images))

    return how.autoencoder(forward, seen, how.takes_batch(module))


def _copied(module: nn.Module) -> nn.Module:
    """A copy; a LightningModule leaves the trainer that it is attached to behind."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever a module may hold
        raise ValueError(
            f"reference: {type(module).__name__} cannot be copied ({' '.join(str(error).split())}): pass the import "
            "path of a function that makes one"
        ) from error


def _of_checkpoint(path: str, pl_module: LightningModule) -> tuple[nn.Module, frozenset[str]]:
    """A copy of the run's model with the weights of a checkpoint, and the hashes of the images that it remembers."""
    if is_sharded(pl_module):
        raise ValueError(
            f"reference={path!r}: the weights of the run's model are spread over processes, so it cannot be copied; "
            "pass the import path of a function that loads the reference whole"
        )
    foreign = foreign_types(path)
    if foreign:
        raise ValueError(
            f"reference={path!r} holds {', '.join(foreign)}, and unpickling could run code: save the weights alone, "
            "torch.save({'state_dict': model.state_dict()}, path)"
        )
    content = read_checkpoint(path, (), "reference")
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise ValueError(f"reference={path!r} holds no weights: pass a checkpoint of the run's own class")
    module = _copied(pl_module)
    try:
        _refuse_vectors_for_numbers(module, state)
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines()[1:] if line.strip()]
        raise ValueError(
            f"reference={path!r} does not fit the model: {lines[0] if lines else error}; pass a checkpoint of the same "
            "architecture, or the import path of a function that loads another"
        ) from error
    states = content.get("callbacks") if "state_dict" in content else None
    known = [one.get(TRAINED_ON) or () for one in (states or {}).values() if isinstance(one, Mapping)]
    return module, frozenset(str(digest) for one in known for digest in one)


def _refuse_vectors_for_numbers(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Older versions of torch take the first of several numbers where a model has one, and say nothing."""
    for name, own in module.state_dict().items():
        given = state.get(name)
        if isinstance(own, torch.Tensor) and own.ndim == 0 and given is not None and given.numel() != 1:
            raise RuntimeError(f"\nsize mismatch for {name}: {tuple(given.shape)} in the checkpoint, () in the model")


def _made(path: str) -> nn.Module:
    make = imported(path)
    try:
        module = None if make is None else make()
    except Exception as error:  # of code that nobody here wrote
        raise ValueError(
            f"reference={path!r} fails ({type(error).__name__}: {' '.join(str(error).split())}): it is called without "
            "arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"reference={path!r} returns {type(module).__name__}, no module: let it return the model")
    return module

"""Which code and which objects may hold state of the user's: everything but the big libraries' own."""

import itertools
import sys
import sysconfig
import types
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

LIBRARIES = frozenset(
    """
    PIL accelerate albumentations cv2 diffusers h5py hydra imageio joblib jsonargparse kornia lightning
    lightning_fabric lightning_memaudit lightning_utilities matplotlib monai numba numpy omegaconf pandas polars
    pyarrow pydantic pytest _pytest pytorch_lightning rich scipy skimage sklearn sympy tensorboard timm torch
    torchaudio torchmetrics torchvision tqdm transformers triton typing_extensions wandb
    """.split()  # noqa: SIM905 - a list of one word a line is hard to read
)
"""Libraries whose functions and classes keep nothing that a training depends on; an installed package of the user's
own is not among them."""

_CLOSED = frozenset(
    """
    PIL cv2 datasets h5py joblib lightning lightning_fabric lightning_memaudit lightning_utilities lmdb matplotlib
    mlflow numba pandas polars pyarrow pytest _pytest pytorch_lightning ray rich sympy tensorboard tensorflow torch
    torchdata tqdm triton wandb webdataset zarr
    """.split()  # noqa: SIM905
)
"""Libraries whose objects are left alone too: they hold files, locks, connections and pictures."""

_OPEN_PARTS = ("torch.nn", "torch.distributions", "torch.quasirandom", "torch.optim.lr_scheduler")
_OPEN_STANDARD = frozenset({"argparse", "collections", "functools", "queue", "types", "weakref", "_weakrefset"})
_FRAMEWORKS = frozenset({"lightning", "lightning_fabric", "pytorch_lightning", "torch"})
_MACHINERY = frozenset(
    """
    Accelerator Fabric Logger Optimizer Precision Profiler Sampler Strategy Trainer _BaseDataLoaderIter DataLoader
    """.split()  # noqa: SIM905
)
ATOMS = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, range, slice, type(...), type(NotImplemented),
        types.CodeType, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
    }
)  # fmt: skip
"""Types of objects that never change and hold nothing that does."""


def is_atom(kind: type) -> bool:
    """Whether a type is one of :data:`ATOMS`, or one of numpy's scalars."""
    return kind in ATOMS or issubclass(kind, np.generic | np.dtype)


@cache
def is_user_code(module: str | None) -> bool:
    """Whether a module of this name may be the user's: not one of the standard library or of the big libraries."""
    root = (module or "").partition(".")[0]
    if root in LIBRARIES:
        return False
    if root not in sys.stdlib_module_names:
        return True
    # A user's package may be called like one of the standard library, such as `code`.
    found = sys.modules.get(root)
    file = getattr(found, "__file__", None)
    if file is None:
        return hasattr(found, "__path__")
    standard = Path(sysconfig.get_paths()["stdlib"])
    return not Path(file).is_relative_to(standard) or bool({"site-packages", "dist-packages"} & {*Path(file).parts})


def module_name(kind: type) -> str:
    """The name of the module that a class is from; empty where the class does not say."""
    name = kind.__module__
    return name if isinstance(name, str) else ""


def is_user_class(kind: type) -> bool:
    """Whether a class, or one that it inherits from, is the user's."""
    return any(is_user_code(module_name(base)) for base in kind.__mro__)


def is_dataset(kind: type) -> bool:
    """Whether objects of this type are data sets."""
    return issubclass(kind, torch.utils.data.Dataset)


def is_of_framework(kind: type) -> bool:
    """Whether a class is one of torch or Lightning."""
    return module_name(kind).partition(".")[0] in _FRAMEWORKS


def is_a(kind: type, name: str) -> bool:
    """Whether a class is, or inherits from, that of torch or of either package of Lightning that has this name."""
    return any(base.__name__ == name and is_of_framework(base) for base in kind.__mro__)


def is_open(kind: type) -> bool:
    """Whether the attributes of an object of this type are state that an audit puts back.

    Not those of trainers, loggers, optimizers and data loaders, nor of files, locks and threads. Those of callbacks
    only if they are the user's own, whose hooks on layers may count the calls.
    """
    if issubclass(kind, nn.Module):
        # The wrapper sets itself up in its first call, and has to stay so.
        return "FullyShardedDataParallel" not in (base.__name__ for base in kind.__mro__)
    for base in kind.__mro__:
        if base.__name__ in _MACHINERY and is_of_framework(base):
            return False
        if module_name(base).partition(".")[0] == "lightning_memaudit" and base.__name__ == "MemorizationAuditCallback":
            return False  # the audit's own state, also in a class that inherits from it
    name = module_name(kind)
    root = name.partition(".")[0]
    if is_user_code(name):
        return root not in _CLOSED
    if name.startswith(_OPEN_PARTS) or is_dataset(kind):
        return True
    return root in _OPEN_STANDARD or (root in LIBRARIES and root not in _CLOSED) or kind.__name__ == "_local"


def is_iterator(kind: type) -> bool:
    """Whether objects of this type are iterators of the language itself, whose place cannot be seen by attributes."""
    return hasattr(kind, "__next__") and kind.__module__ in ("builtins", itertools.__name__)

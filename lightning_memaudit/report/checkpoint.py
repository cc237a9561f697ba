"""Checkpoints are read without running code that comes with them, and say at once which types would have to be allowed.

torch is imported when a checkpoint is read: whoever only reads results never pays for it.
"""

import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from re import findall
from typing import Any

ALLOW = "--allow_types=[{names}]"
GETATTR = "builtins.getattr"
NUMPY_DTYPE = "numpy.dtype"
MAIN = "__main__."
PLAIN_DICTS = tuple(
    f"{module}.AttributeDict"
    for module in (
        "lightning.fabric.utilities.data",
        "lightning.pytorch.utilities.parsing",
        "lightning_fabric.utilities.data",
        "pytorch_lightning.utilities.parsing",
    )
)
"""Lightning's own dictionary with attributes, in which hyperparameters may be: read as a plain one."""


def read_checkpoint(
    path: str | Path, allow_types: Sequence[str] = (), argument: str = "ckpt_path", mend: str = ALLOW
) -> Any:
    """Read what ``torch.save`` has written: tensors, plain values, and objects of the types that are allowed.

    Args:
        path: The file.
        allow_types: Dotted names of types that may be in it besides. Unpickling them can run code.
        argument: What the file is called in complaints.
        mend: The option that lets it be read all the same, with the names in the place of ``{names}``.

    Raises:
        ValueError: It is no such file, or holds other types, all of which are named.

    >>> import argparse, torch
    >>> torch.save({"state_dict": {"weight": torch.ones(1)}, "options": argparse.Namespace(a=1)}, "a.ckpt")
    >>> read_checkpoint("a.ckpt", ["argparse.Namespace"])["options"].a
    1
    >>> read_checkpoint("a.ckpt")
    Traceback (most recent call last):
    ValueError: ckpt_path='a.ckpt' holds argparse.Namespace, and unpickling could run code; if you trust the file, ...
    """
    import torch

    what = f"{argument}={str(path)!r}"
    foreign = foreign_types(path, allow_types)
    if foreign:
        raise ValueError(_complaint(what, foreign, allow_types, mend))
    try:
        with allowed(allow_types):
            # Mapped, not read: of what may be gigabytes, only what is used.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        one = findall(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
        if one:
            raise ValueError(_complaint(what, one, allow_types, mend)) from error
        reason = findall(r"(?:Can only|Trying to|Unsupported) .+", str(error))
        mend = f" without running its code ({reason[0]}): save it again without such values" if reason else ""
        raise ValueError(f"{what} cannot be read as a checkpoint{mend}") from error
    except (RuntimeError, EOFError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{what} cannot be read as a checkpoint ({' '.join(str(error).split())})") from error


def _complaint(what: str, foreign: Sequence[str], given: Sequence[str], mend: str) -> str:
    """All types that are not allowed, and what to do about them."""
    mine = [name for name in foreign if not name.startswith(MAIN)]
    theirs = [name for name in foreign if name.startswith(MAIN)]
    names = ", ".join(foreign)
    if theirs:
        return (
            f"{what} holds {names}; {', '.join(theirs)} can be found only in the script that saved the checkpoint, and "
            "cannot be allowed here: there, move it into a module of its own, or save the checkpoint again without it"
        )
    return (
        f"{what} holds {names}, and unpickling could run code; if you trust the file, "
        f"add {mend.format(names=','.join([*given, *mine]))}"
    )


@contextmanager
def allowed(names: Sequence[str]) -> Iterator[None]:
    """Let these types be unpickled where only weights are loaded, by the names that :func:`foreign_types` gives them.

    A class within a class is allowed alone, not with the one around it. Not to be nested: at the end of
    the inner one the types of both are forbidden again.

    Args:
        names: Dotted: ``module.Type``, or ``module.Type.Inner``.

    Raises:
        ValueError: There is no such type.
    """
    import torch

    globals_: dict[str, Any] = dict.fromkeys(PLAIN_DICTS, dict)
    within: dict[tuple[Any, str], Any] = {}
    for name in names:
        module, *path = _split(name, names)
        value: Any = import_module(module)
        for attribute in path:
            value = getattr(value, attribute)
        globals_[name] = value
        if name == NUMPY_DTYPE:
            # An array's own type is one of these, and no name in the file tells which.
            dtypes: Any = import_module("numpy.dtypes")
            globals_ |= {f"numpy.dtypes.{one}": getattr(dtypes, one) for one in dtypes.__all__}
    for name in names:
        module, *path = _split(name, names)
        around = ".".join([module, *path[:1]])
        for depth, attribute in enumerate(path[1:], start=2):
            inner = ".".join([module, *path[:depth]])
            owner = globals_.setdefault(around, _Around(around))
            within[owner, attribute] = globals_.setdefault(inner, _Around(inner))
            around = inner
    if within and GETATTR not in names:
        globals_[GETATTR] = _Lookup(within)
    with torch.serialization.safe_globals([(value, name) for name, value in globals_.items()]):
        yield


def _split(name: str, names: Sequence[str]) -> list[str]:
    """The module of a type, then the names that lead to it within the module."""
    if name.startswith(MAIN):
        raise ValueError(
            f"allow_types={list(names)}: {name!r} can be found only in the script that saved the checkpoint; there, "
            "move it into a module of its own, or save the checkpoint again without it"
        )
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            value: Any = import_module(module)
            for attribute in parts[length:]:
                value = getattr(value, attribute)
        except (ImportError, AttributeError, ValueError):
            continue
        return [module, *parts[length:]]
    raise ValueError(f"allow_types={list(names)}: there is no type {name!r}")


class _Around:
    """Stands for a class that is not allowed itself, around one that is."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Lookup:
    """Stands for ``getattr``, by which classes within classes are pickled, and knows only those that are allowed."""

    def __init__(self, within: Mapping[tuple[Any, str], Any]) -> None:
        self.within = within

    def __call__(self, owner: Any, name: str) -> Any:
        try:
            return self.within[owner, name]
        except (KeyError, TypeError):
            raise UnpicklingError(f"Trying to get {name} from {owner}") from None


def foreign_types(path: str | Path, allow_types: Sequence[str] = ()) -> list[str]:
    """Names of all types in a checkpoint that are not allowed, as ``allow_types`` takes them, sorted.

    Nothing of the checkpoint is run, nor is anything imported for it. Empty also for a file that cannot be looked into.

    Args:
        path: The file.
        allow_types: What is allowed besides tensors and plain values.

    >>> import fractions, torch
    >>> torch.save({"share": fractions.Fraction(1, 2), "size": torch.Size([1])}, "a.ckpt")
    >>> foreign_types("a.ckpt")
    ['fractions.Fraction']
    """
    import torch

    try:
        unsafe = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, UnpicklingError, EOFError, RuntimeError, OSError):
        return []
    nested, getattr_itself, steps = _nested_types(path)
    if nested:
        # Of a class within a class the file holds getattr, the outer class, and a name.
        unsafe = (unsafe | nested) - steps - (set() if getattr_itself else {GETATTR})
    if NUMPY_DTYPE in allow_types:
        unsafe = {name for name in unsafe if not name.startswith("numpy.dtypes.")}
    return sorted(unsafe - {*allow_types, *PLAIN_DICTS})


def _nested_types(path: str | Path) -> tuple[set[str], bool, set[str]]:
    """Classes within classes; whether ``getattr`` is called for anything else; outer classes that nothing else uses."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        with archive.open(name) as file:
            scan = _Scan(file)
            try:
                scan.load()
            except Exception:  # whatever a file may do to a reader; then its plain names must do
                return set(), True, set()
    # A class that is only a step on the way to an inner one is never made.
    steps = {name for name in scan.around if not scan.stubs[name].is_made}
    return scan.nested - steps, scan.getattr_itself, steps


class _Scan(Unpickler):
    """Unpickles into stubs: whatever the file names is neither imported nor called."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.stubs: dict[str, type[_Stub]] = {}
        self.nested: set[str] = set()
        self.around: set[str] = set()
        self.getattr_itself = False

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A stub of that name."""
        if (module_name, global_name) in NAME_MAPPING:
            module_name, global_name = NAME_MAPPING[module_name, global_name]
        module_name = IMPORT_MAPPING.get(module_name, module_name)
        name = f"{module_name}.{global_name}"
        return self._lookup if name == GETATTR else self._stub(name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage: nothing."""

    def _lookup(self, owner: Any, name: str) -> Any:
        if not (isinstance(owner, type) and issubclass(owner, _Stub)):
            self.getattr_itself = True
            return self._stub("")
        inner = f"{owner.name}.{name}"
        self.around.add(owner.name)
        self.nested.add(inner)
        return self._stub(inner)

    def _stub(self, name: str) -> "type[_Stub]":
        if name not in self.stubs:
            self.stubs[name] = type("Stub", (_Stub,), {"name": name})
        return self.stubs[name]


class _Stub:
    """In place of whatever a file names: can be called, and filled, to no effect."""

    name = ""
    is_made = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Stub":
        cls.is_made = True
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _ignore(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = __call__ = _ignore

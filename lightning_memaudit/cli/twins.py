"""Lightning is published twice: what imports the one package gets the other, as long as a command runs.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code under two names, and a class of the one is no class of
the other: a module made with the first could be neither trained nor audited by a trainer of the second.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

TWINS = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}
"""Packages by the name that is imported, and the package that is meant."""

ALIASES = str(Path(__file__).parent / "aliases")
"""A folder with a module of each name, for processes that take over the path of this one, but not its imports."""


class TwinFinder(MetaPathFinder):
    """Finds the modules of one package under the name of its twin: they are the very same modules.

    >>> with imported_as_one(), imported_as_one():
    ...     import lightning.pytorch.callbacks
    ...     import pytorch_lightning.callbacks
    ...     pytorch_lightning.callbacks.Callback is lightning.pytorch.callbacks.Callback
    True
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Where a module is; None for all but the twins."""
        real = meant(fullname)
        if real is None:
            return None
        try:
            found = find_spec(real)
        except ModuleNotFoundError:
            return None
        if found is None:
            return None
        return ModuleSpec(fullname, _TwinLoader(real), is_package=found.submodule_search_locations is not None)


class _TwinLoader(Loader):
    """Loads a module under its own name."""

    def __init__(self, real: str) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.real)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # which the import system has just replaced


def meant(name: str) -> str | None:
    """The name that a module of a twin has in the package that is meant; None for all other modules."""
    package, dot, rest = name.partition(".")
    return TWINS[package] + dot + rest if package in TWINS else None


def install() -> TwinFinder:
    """Make the imports of this process those of :class:`TwinFinder`, from now on."""
    finder = TwinFinder()
    sys.meta_path.insert(0, finder)
    return finder


@contextmanager
def imported_as_one() -> Iterator[None]:
    """Within it, whatever imports a twin gets the package that is meant; so do the processes that are started in it.

    Twins that were imported before keep their modules, which come back at the end.
    """
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if meant(name)}
    finder = install()
    sys.path.insert(0, ALIASES)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(ALIASES)
        for name in list(sys.modules):
            if meant(name):
                del sys.modules[name]
        sys.modules.update(before)

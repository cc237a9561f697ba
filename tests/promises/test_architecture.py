"""Imports go one way, from room to room and from file to file; what only reads results needs no torch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lightning_memaudit

PACKAGE = Path(lightning_memaudit.__file__).parent
NAME = "lightning_memaudit"
BELOW = {"recovery", "results", "measurement", "report", "callback", "training"}
ALLOWED = {
    "recovery": {"recovery"},
    "results": {"results"},
    "measurement": {"measurement", "recovery", "results"},
    "training": {"training", "measurement.near_duplicates"},
    "report": {"report", "results"},
    "callback": {"callback", "recovery", "measurement", "results", "report"},
    "bench": {"bench", *BELOW},
    "cli": {"cli", "bench", *BELOW},
}
INSIDE_FUNCTIONS = {
    ("report/verify/arrays.py", name)
    for name in (
        *("measurement.appearance", "measurement.degradations", "measurement.metrics"),
        *("measurement.near_duplicates", "recovery"),
    )
} | {("report/verify/baselines.py", name) for name in ("measurement.baselines", "measurement.degradations", "recovery")}
INSIDE_FUNCTIONS |= {
    ("report/verify/left_out.py", name) for name in ("measurement.degradations", "recovery.methods.registry")
} | {("report/verify/baselines.py", "measurement.metrics")}
INSIDE_FUNCTIONS |= {("results/audit_report.py", "report.inline")}
INSIDE_FUNCTIONS |= {("report/verify/repeated.py", "measurement.near_duplicates")}
INSIDE_FUNCTIONS |= {("report/verify/alike.py", f"measurement.{name}") for name in ("appearance", "preparation")}
"""What an import rule does not allow, but for inside a function: who never calls it never pays for torch."""
EVERYWHERE = {"__version__"}
MODULES = sorted(
    ".".join((NAME, *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)


def file_of(module):
    path = PACKAGE.parent / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module):
    """Modules of the package that a module imports, wherever in the file, and whether inside a function."""
    return list(_imports(module))


def _imports(module):
    tree = ast.parse(file_of(module).read_text())
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == NAME:
                # The class or function that is imported is no module.
                while name not in MODULES and name.rpartition(".")[0] not in (NAME, ""):
                    name = name.rpartition(".")[0]
                yield name.removeprefix(NAME).removeprefix("."), id(node) in inside


def may_import(room, imported):
    return any(f"{imported}.".startswith(f"{one}.") for one in ALLOWED[room] | EVERYWHERE)


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_lies_below_them(room):
    checked = 0
    for file in (PACKAGE / room).rglob("*.py"):
        place = file.relative_to(PACKAGE).as_posix()
        module = ".".join((NAME, *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for imported, inside in imports(module):
            allowed = may_import(room, imported) or (inside and (place, imported) in INSIDE_FUNCTIONS)
            assert allowed, f"{place} imports {imported}"
            checked += 1
    assert checked > 2


def test_the_imports_are_seen_and_what_training_shares_imports_nothing():
    assert sum(len(imports(module)) for module in MODULES) > 300
    assert not imports(f"{NAME}.measurement.near_duplicates")


def test_only_main_imports_the_command_line():
    for module in MODULES:
        if not module.startswith(f"{NAME}.cli") and module != f"{NAME}.__main__":
            assert not any(f"{name}.".startswith("cli.") for name, _ in imports(module)), module


def test_every_room_is_known_and_the_root_is_empty():
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == set(ALLOWED)
    assert {file.name for file in PACKAGE.iterdir() if file.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


def test_no_file_imports_one_that_imports_it():
    """No circle, not even of imports that only the type checker sees, or that are made inside functions."""
    graph = {module: {f"{NAME}.{name}" for name, _ in imports(module)} & set(MODULES) for module in MODULES}
    # A package imports its own modules to offer them; the root does so when asked.
    order = list(TopologicalSorter({module: others - {module} for module, others in graph.items()}).static_order())
    assert len(order) == len(MODULES)


def test_no_python_file_is_long():
    for place in (PACKAGE, Path(__file__).parent.parent):
        for file in place.rglob("*.py"):
            if not any(part.startswith(".") for part in file.relative_to(place).parts):
                assert len(file.read_text().splitlines()) <= 400, file


def test_recovery_needs_no_lightning_and_no_audit():
    code = (
        "import sys, lightning_memaudit.recovery\n"
        "others = ('lightning', 'pytorch_lightning', 'torchmetrics', 'wandb')\n"
        "print([name for name in sys.modules if name.split('.')[0] in others])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_results_and_report_need_no_torch():
    rooms = [module for module in MODULES if module.split(".")[1:2] in (["results"], ["report"])]
    assert len(rooms) > 20
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from lightning_memaudit.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "assert main(['fitt']) == 2\n"
        f"for module in {rooms}:\n"
        "    import_module(module)\n"
        "    assert 'torch' not in sys.modules, module\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

"""Imports go one way: report -> audit -> recovery; training alone; callback and command line on top."""

import ast
import subprocess
import sys
from pathlib import Path

import lightning_memaudit

PACKAGE = Path(lightning_memaudit.__file__).parent
ALLOWED = {
    "training": {"training"},
    "recovery": {"recovery"},
    "audit": {"audit", "recovery"},
    "report": {"report", "audit", "recovery"},
}
SHARED = {"duplicates", "__version__"}  # they import nothing of the package


def imported_rooms(file):
    """Every ``lightning_memaudit.<room>`` that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "lightning_memaudit" and len(parts) > 1:
                yield parts[1]


def test_rooms_import_only_what_lies_below_them():
    checked = 0
    for room, allowed in ALLOWED.items():
        for file in (PACKAGE / room).rglob("*.py"):
            for imported in imported_rooms(file):
                assert imported in allowed | SHARED, f"{file} imports {imported}"
                checked += 1
    assert checked > 20
    assert not list(imported_rooms(PACKAGE / "duplicates.py"))


def test_every_room_is_known():
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert set(ALLOWED) <= rooms <= {*ALLOWED, "bench"}


def test_recovery_needs_no_lightning_and_no_audit():
    code = (
        "import sys, lightning_memaudit.recovery\n"
        "others = ('lightning', 'pytorch_lightning', 'torchmetrics', 'wandb')\n"
        "print([name for name in sys.modules if name.split('.')[0] in others])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_report_need_no_torch():
    code = (
        "import sys\n"
        "from lightning_memaudit.cli import main\n"
        "assert main(['--help']) == 0\n"
        "import lightning_memaudit.report.terminal, lightning_memaudit.report.figures\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

"""What the READMEs show passes a strict type checker, as the code of whoever copies it would have to."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[2]
READMES = ("README.md", "configs/README.md")


@pytest.fixture
def snippets(tmp_path):
    """Every snippet in a file, and one file that asks what is inferred of the package's own types."""
    for readme in READMES:
        text = (ROOT / readme).read_text(encoding="utf-8")
        place = readme.partition("/")[0].partition(".")[0]
        for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            (tmp_path / f"{place}_{number}.py").write_text(snippet, encoding="utf-8")
    (tmp_path / "inferred.py").write_text(
        "import torch\n"
        "from typing_extensions import assert_type\n"
        "from lightning_memaudit import AuditReport, MemorizationAuditCallback, audit\n"
        "report = audit(lambda images: images, torch.rand(2, 1, 8, 8), patterns=['half'])\n"
        "assert_type(report, AuditReport)\n"
        "assert_type(report.rate('blind', 'half'), float)\n"
        "assert_type(MemorizationAuditCallback(every_n_epochs=3).last_report, AuditReport | None)\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.slow
def test_the_snippets_pass_mypy_strict(snippets):
    # MONAI's packages import names without exporting them, as strict checkers want it: it is taken for untyped.
    (snippets / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n[mypy-monai.*]\nfollow_imports = skip\n")
    options = ["--strict", "--config-file", str(snippets / "mypy.ini")]
    command = [sys.executable, "-m", "mypy", *options, *map(str, snippets.glob("*.py"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pyright"), reason="needs pyright")
def test_the_snippets_pass_pyright(snippets):
    settings = {"typeCheckingMode": "strict", "reportPrivateImportUsage": False}  # the latter for MONAI, as above
    (snippets / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["pyright", "--pythonpath", sys.executable, "--project", str(snippets)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

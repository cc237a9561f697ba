"""The notebook runs as it is written, says what it found, and warns of nothing."""

import json
import warnings

import pytest

from lightning_memaudit.cli.main import shipped_configs

NOTEBOOK = json.loads((shipped_configs() / "quickstart.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(**changes):
    """Run the cells one after the other, with other settings; what IPython alone knows becomes an empty block."""
    names = {}
    for cell in CELLS:
        text = cell.replace("%pip", "pass  # %pip")
        for given, other in changes.items():
            assert any(given in one for one in CELLS), given
            text = text.replace(given, other)
        exec(compile(text, "quickstart.ipynb", "exec"), names)
    names["figure"].clear()
    return names["report"]


def test_it_holds_no_outputs():
    assert all(not cell.get("outputs") for cell in NOTEBOOK["cells"]), "they would be training images"
    assert NOTEBOOK["nbformat"] == 4
    for cell in CELLS:
        compile(cell.replace("%pip", "pass  # %pip"), "quickstart.ipynb", "exec")


@pytest.mark.slow
def test_it_runs_without_a_storm_of_warnings(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        report = run(**{"max_epochs=4000": "max_epochs=2", '"blind", "known_mask", ': '"known_mask", '})
    assert "AuditReport: " in repr(report)
    assert "data:image/png" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    ours = [str(one.message) for one in caught if "lightning_memaudit" in one.filename or "audit" in str(one.message)]
    assert len(ours) <= 1, ours


@pytest.mark.slow
def test_it_finds_what_was_memorized():
    assert run().verdict.outcome == "memorized"

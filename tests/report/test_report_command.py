"""``report``: it makes anew what was lost, without torch, and says what is wrong in one line."""

import subprocess
import sys

import pytest

from lightning_memaudit.cli.main import main


def test_report_command_rebuilds_what_was_lost(run, capsys):
    for name in ("report.json", "report.html"):
        (run.path / name).unlink()
    assert main(["report", str(run.path.parent)]) == 0
    assert (run.path / "report.json").is_file()
    assert (run.path / "report.html").is_file()
    assert (run.path / "figures" / "recovery-against-loss.png").is_file()
    out = capsys.readouterr().out
    assert "Memorized:" in out
    assert "random-0.5" in out


@pytest.mark.slow
def test_report_needs_no_torch(run):
    code = (
        "import sys\nfrom lightning_memaudit.cli.main import main\n"
        f"assert main(['report', {str(run.path)!r}]) == 0\n"
        "assert not {'torch', 'lightning', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_report_refuses_a_run_twice_and_typos(run, capsys):
    assert main(["report", str(run.path), str(run.path.parent)]) == 2
    assert main(["report", str(run.path), "--no_picture"]) == 2
    assert main(["report"]) == 2
    errors = capsys.readouterr().err
    assert "a run is named twice" in errors
    assert "did you mean '--no_pictures'?" in errors
    assert len(errors.strip().splitlines()) == 3

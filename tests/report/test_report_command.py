"""``report``: it makes anew what was lost, without torch, and says what is wrong in one line."""

import shutil
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


def test_a_run_is_not_compared_with_its_copy(run, tmp_path, capsys):
    copy = tmp_path / "second" / "memaudit"
    shutil.copytree(run.path, copy)
    (copy / "audits.jsonl").write_text((copy / "audits.jsonl").read_text() + "\n")  # other bytes
    assert main(["report", str(run.path), str(copy)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {copy} ends with the audit of {run.path}, as a copy does: name one of them\n"
    )


def test_of_two_runs_one_without_audits_is_named(run, tmp_path, capsys):
    empty = tmp_path / "second" / "memaudit"
    shutil.copytree(run.path, empty)
    (empty / "audits.jsonl").write_text("")
    assert main(["report", str(run.path), str(empty)]) == 2
    assert f"error: {empty / 'audits.jsonl'} holds no complete audit" in capsys.readouterr().err


def test_verify_of_a_page_says_what_to_pass(run, tmp_path, capsys):
    page = tmp_path / "elsewhere" / "ab.html"
    page.parent.mkdir()
    page.write_text("<p>two runs</p>")
    assert main(["verify", str(page)]) == main(["verify", str(run.path / "run.json")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: {page} is no folder: pass that of a run; of a page on several, each one"
    assert second == f"error: {run.path / 'run.json'} is no folder: pass {run.path}"


def test_report_refuses_a_run_twice_and_typos(run, capsys):
    assert main(["report", str(run.path), str(run.path.parent)]) == 2
    assert main(["report", str(run.path), "--no_picture"]) == 2
    assert main(["report"]) == 2
    errors = capsys.readouterr().err
    assert "a run is named twice" in errors
    assert "did you mean '--no_pictures'?" in errors
    assert len(errors.strip().splitlines()) == 3

"""A results folder from elsewhere is read as what it says, and reaches nothing outside of it."""

import json
import os
import unicodedata

import pytest
from forgery import change_rows, change_run

from lightning_memaudit.cli.main import main
from lightning_memaudit.results.run_folder import RunFolder

FILES = (
    "run.json", "audits.jsonl", "images.jsonl", "report.json", "report.html", "report.sha256", "largest_missing.json",
    "figures", "recoveries", "figures/recovery-against-loss.png", "recoveries/audit-0002.npz",
)  # fmt: skip


def outside(tmp_path):
    return {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and "copy/memaudit" not in str(path)
    }


@pytest.mark.parametrize("key", ["pattern", "method", "group"])
@pytest.mark.parametrize("name", ["../../x", "a\x1b[2Jb", "", None, ["x"]])
def test_a_name_that_is_none_is_refused_and_reaches_neither_files_nor_terminal(run, tmp_path, capsys, key, name):
    for file in ("audits.jsonl", "images.jsonl"):
        change_rows(run.path / file, lambda row: row.update({key: name}))
    before = outside(tmp_path)
    for command in ("report", "verify"):
        assert main([command, str(run.path)]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert not any(unicodedata.category(char) == "Cc" for char in error.rstrip("\n"))
    assert outside(tmp_path) == before


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize("name", FILES)
def test_links_are_not_followed(run_with_figures, tmp_path, capsys, name):
    run = run_with_figures
    (run.path / "largest_missing.json").write_text(json.dumps({"images": [{"group": "members", "image": 0}]}))
    elsewhere = tmp_path / "elsewhere"
    (run.path / name).rename(elsewhere)
    (run.path / name).symlink_to(elsewhere)
    before = outside(tmp_path)
    capsys.readouterr()
    assert main(["report", str(run.path)]) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert main(["verify", str(run.path)]) in (1, 2)
    assert outside(tmp_path) == before


def test_a_config_that_is_a_link_is_not_shown(run, tmp_path):
    (tmp_path / "secret").write_text("password: 1234")
    (run.path / "run_config.yaml").unlink()
    (run.path / "run_config.yaml").symlink_to(tmp_path / "secret")
    assert main(["report", str(run.path), "--no_figures"]) == 0
    assert "1234" not in (run.path / "report.html").read_text()


def test_results_that_are_a_link_within_a_run_are_not_those_of_the_run(run, tmp_path, capsys):
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "memaudit").symlink_to(run.path)
    assert main(["report", str(tmp_path / "another")]) == 2
    assert "pass the folder that it stands for" in capsys.readouterr().err
    assert RunFolder.find(tmp_path / "another" / "memaudit").audits(), "who names a link means what it stands for"


def test_a_pipe_is_not_waited_for(run, capsys):
    (run.path / "images.jsonl").unlink()
    os.mkfifo(run.path / "images.jsonl")
    assert main(["report", str(run.path)]) == 2
    assert "is no regular file" in capsys.readouterr().err


def test_a_run_does_not_write_through_links(run, tmp_path):
    (run.path / "images.jsonl").rename(tmp_path / "elsewhere")
    (run.path / "images.jsonl").symlink_to(tmp_path / "elsewhere")
    before = outside(tmp_path)
    with pytest.raises(ValueError, match="is a symbolic link"):
        RunFolder(run.path).lock()
    assert outside(tmp_path) == before


def test_control_characters_do_not_reach_the_terminal(run, capsys):
    """Everything that is free text in the results: triggers, reasons, names, and what verify repeats of them."""
    evil = "\x1b[2J\x07\u202e"
    for file in ("audits.jsonl", "images.jsonl"):
        change_rows(run.path / file, lambda row: row.update(name=f"n{evil}", trigger=f"t{evil}", mask_accuracy=2.0))
    certification = {"threshold": None, "reason": evil}
    change_rows(run.path / "audits.jsonl", lambda row: row.update(certification=certification, time=evil))
    change_run(run, lambda content: content["settings"].update(patterns=[evil]))
    assert main(["report", str(run.path), "--no_figures"]) == 0
    assert main(["verify", str(run.path)]) == 1
    (run.path / "run.json").write_text(f"{{{evil}")
    assert main(["verify", str(run.path)]) in (1, 2)
    said = capsys.readouterr()
    text = (said.out + said.err).replace("\n", "")
    assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cf")}


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "figure"])
def test_output_refuses_what_is_no_regular_file(run, tmp_path, capsys, kind):
    place = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        place = "/dev/null"
    else:
        (tmp_path / "out-missing-fraction.png").mkdir()
    assert main(["report", str(run.path), "--output", str(place)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --output {place}: ")
    assert "is no regular file" in error
    assert main(["report", str(run.path), "--no_figures", "--output", str(tmp_path / "new.html")]) == 0

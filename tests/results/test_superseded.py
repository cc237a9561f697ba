"""An earlier run in a results folder is kept whole, whenever the run that replaces it is killed."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lightning_memaudit.results.run_folder import RunFolder

EVERYTHING = [
    "audits.jsonl", "figures/a.png", "images.jsonl", "largest_missing.json", "proximal.json",
    "recoveries/audit-0002.npz", "report.html", "report.json", "run.json", "run_config.yaml",
]  # fmt: skip


def finished(path, run_id="first", num_audits=3):
    """A run with every file that there may be."""
    folder = RunFolder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "config.yaml").write_text(f"of: {run_id}")
    folder.begin(run_id=run_id)
    folder.write_run({"run_id": run_id, "seed": 1})
    for audit in range(num_audits):
        rows = [{"audit": audit, "step": audit, "run": run_id}]
        folder.append_audit(rows, [{"audit": audit, "image": 0}], {"members/truth": np.full((1, 1, 2, 2), audit)})
    (path / "figures").mkdir(exist_ok=True)
    for name in ("report.json", "report.html", "figures/a.png", "proximal.json", "largest_missing.json"):
        (path / name).write_text(run_id)
    return folder


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_run_finds_the_folder_empty_and_the_old_one_whole(tmp_path):
    path = tmp_path / "memaudit"
    old = contents(finished(path).path)
    assert sorted(old) == EVERYTHING
    (path / "notes.txt").write_text("of the user")
    (path / "superseded-by-hand").mkdir()
    (tmp_path / "config.yaml").write_text("of: second")  # as Lightning does before anything of the audit runs
    RunFolder(path).begin(run_id="second")
    assert contents(path / "superseded-1") == old
    left = contents(path)
    assert {name for name in left if not name.startswith("superseded-1/")} == {
        "run.json",
        "run_config.yaml",
        "notes.txt",
    }
    assert left["run_config.yaml"] == b"of: second"
    with pytest.raises(FileNotFoundError, match=r"holds no audits\.jsonl"):
        RunFolder.find(tmp_path)
    assert sorted(contents(finished(path, "third").path / "superseded-1")) == EVERYTHING
    assert not (path / "superseded-2").exists(), "the second run had not audited anything"
    assert RunFolder.find(tmp_path).audits()[0]["run"] == "third"


def test_a_resumed_run_keeps_the_audits_before_its_number(tmp_path):
    old = contents(finished(tmp_path / "memaudit").path)
    folder = RunFolder(tmp_path / "memaudit")
    folder.begin(num_audits=3, run_id="first")
    assert not list(folder.path.glob("superseded-*")), "nothing is replaced"
    folder.begin(num_audits=2, run_id="first")
    assert contents(folder.path / "superseded-1") == old
    assert [row["audit"] for row in folder.audits()] == [0, 1]
    assert [row["audit"] for row in folder.images()] == [0, 1]
    left = {name for name in contents(folder.path) if not name.startswith("superseded")}
    assert left == {"audits.jsonl", "images.jsonl", "run.json", "run_config.yaml"}


def test_audits_of_another_run_are_never_taken_for_those_before_the_checkpoint(tmp_path):
    """Train, train anew into the same folder, then resume the first: its audits are not the second's."""
    finished(tmp_path / "memaudit", "first")
    second = contents(finished(tmp_path / "memaudit", "second").path)
    folder = RunFolder(tmp_path / "memaudit")
    assert folder.belongs_to("second")
    assert not folder.belongs_to("first")
    assert folder.belongs_to(None), "a checkpoint of an older version does not say"
    folder.begin(num_audits=3, run_id="first")
    assert not (folder.path / "audits.jsonl").exists()
    aside = contents(folder.path / "superseded-2")
    assert aside == {name: text for name, text in second.items() if not name.startswith("superseded")}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("num_audits", [0, 2])
def test_killed_at_any_moment_the_old_run_is_whole_in_one_place_and_the_next_run_sets_it_aside_once(
    tmp_path, monkeypatch, num_audits
):
    template = finished(tmp_path / "template" / "memaudit").path
    old = contents(template)
    left = [10**6]  # operations until the kill

    def counted(function):
        def call(*arguments, **named):
            left[0] -= 1
            if not left[0]:
                raise Killed
            return function(*arguments, **named)

        return call

    operations = {
        shutil: ("copy2", "copytree", "rmtree"), Path: ("rename", "replace", "unlink", "mkdir"), os: ("fsync",)
    }  # fmt: skip
    for owner, names in operations.items():
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))

    def begin(path, kill_at=10**6):
        left[0] = kill_at
        try:
            RunFolder(path).begin(num_audits, "first" if num_audits else "second")
        finally:
            left[0] = 10**6

    places = set()
    for kill_at in itertools.count(1):
        path = tmp_path / f"run-{kill_at}" / "memaudit"
        shutil.copytree(template.parent, path.parent)
        try:
            begin(path, kill_at)
            break
        except Killed:
            pass
        aside = path / "superseded-1"
        if aside.exists():
            assert contents(aside) == old
        else:
            kept = {name: text for name, text in contents(path).items() if not name.startswith(".superseding")}
            assert kept == old
        places.add(aside.exists())
        for folder in (RunFolder(path), RunFolder(aside)):
            if (folder.path / "audits.jsonl").is_file():
                assert [row["audit"] for row in folder.audits()] in ([0, 1, 2], list(range(num_audits)))
        begin(path)
        assert contents(path / "superseded-1") == old
        assert {one.name for one in path.glob("*supersed*")} == {"superseded-1"}
    assert places == {True, False}
    assert kill_at > 20


def test_a_full_disk_is_said_in_one_line_and_changes_nothing(tmp_path, monkeypatch):
    path = finished(tmp_path / "memaudit").path
    old = contents(path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match=r"cannot be set aside \(No space left on device\): make room, or pass another"):
        RunFolder(path).begin(run_id="second")
    assert contents(path) == old

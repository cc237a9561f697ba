"""The results files: what is written comes back, and a kill at any byte loses at most one audit."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lightning_memaudit.results.run_folder import RunFolder


def rows(audit, count=3):
    return [{"audit": audit, "method": f"m{i}", "num_images": 2} for i in range(count)]


def images(audit, count=5):
    return [{"audit": audit, "image": i, "psnr": 30.0 + i} for i in range(count)]


def fill(path, num_audits=3):
    folder = RunFolder(path)
    for audit in range(num_audits):
        folder.append_audit(rows(audit), images(audit), {"members/truth": np.full((2, 1, 3, 3), audit, np.float32)})
    return folder


def committed(path):
    return sorted({row["audit"] for row in RunFolder(path).audits()})


def test_round_trip(tmp_path):
    folder = fill(tmp_path / "memaudit")
    folder.write_run({"created": "now", "notes": ["a", "b"]})
    again = RunFolder(tmp_path / "memaudit")
    assert again.run() == {"schema_version": 1, "created": "now", "notes": ["a", "b"]}
    assert again.audits() == [{**row, "num_rows": 3} for audit in range(3) for row in rows(audit)]
    assert again.images() == [row for audit in range(3) for row in images(audit)]
    assert again.images(1) == images(1)
    recoveries = again.newest_recoveries().arrays
    assert list(recoveries) == ["members/truth"]
    np.testing.assert_array_equal(recoveries["members/truth"], np.full((2, 1, 3, 3), 2, np.float32))
    assert [path.name for path in (again.path / "recoveries").iterdir()] == ["audit-0002.npz"]


def test_nan_infinity_and_numpy_become_plain_json(tmp_path):
    folder = RunFolder(tmp_path)
    row = {
        "audit": np.int64(0),
        "a": float("nan"),
        "b": np.float32("inf"),
        "c": np.float32(0.5),
        "d": {"x": np.nan},
    }
    folder.append_audit([row], [{"audit": 0, "recovered": np.True_}], {})
    lines = (tmp_path / "audits.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [{key: value for key, value in row.items() if key != "chain"} for row in rows] == [
        {"audit": 0, "a": None, "b": None, "c": 0.5, "d": {"x": None}, "num_rows": 1}
    ]
    assert folder.images() == [{"audit": 0, "recovered": True}]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["audits.jsonl", "images.jsonl"])
def test_a_file_cut_at_any_byte_keeps_every_complete_audit(tmp_path, name):
    """Cut as by a kill during the third audit: the first two survive, the third wholly or not at all."""
    fill(tmp_path, 2)
    safe = {n: (tmp_path / n).stat().st_size for n in ("audits.jsonl", "images.jsonl")}
    RunFolder(tmp_path).append_audit(rows(2), images(2), {})
    whole = {n: (tmp_path / n).read_bytes() for n in safe}
    for size in range(safe[name], len(whole[name]) + 1):
        (tmp_path / "images.jsonl").write_bytes(whole["images.jsonl"][: size if name == "images.jsonl" else None])
        # images.jsonl is complete before audits.jsonl is touched.
        (tmp_path / "audits.jsonl").write_bytes(
            whole["audits.jsonl"][: size if name == "audits.jsonl" else safe["audits.jsonl"]]
        )
        complete = name == "audits.jsonl" and size >= len(whole[name]) - 1  # a lacking newline loses nothing
        expected = [0, 1, 2] if complete else [0, 1]
        assert committed(tmp_path) == expected
        assert RunFolder(tmp_path).images() == [row for audit in expected for row in images(audit)]
        RunFolder(tmp_path).append_audit(rows(len(expected)), images(len(expected)), {})
        assert committed(tmp_path) == [*expected, len(expected)]
        assert RunFolder(tmp_path).images() == [row for audit in [*expected, len(expected)] for row in images(audit)]
        text = (tmp_path / "images.jsonl").read_text()
        assert len(text.splitlines()) == 5 * (len(expected) + 1), "rows of the lost audit stayed in the file"


WRITER = """
import sys, numpy as np
from lightning_memaudit.results.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
resuming = (folder.path / "audits.jsonl").exists()
start = 1 + max((row["audit"] for row in folder.audits()), default=-1) if resuming else 0
for audit in range(start, 10**6):
    rows = [{"audit": audit, "method": str(i), "text": "x" * 200} for i in range(20)]
    images = ({"audit": audit, "image": i, "text": "y" * 100} for i in range(300))
    folder.append_audit(rows, images, {"a": np.full((50, 50), audit)})
    print(audit, flush=True)
"""


def test_killed_writers_lose_nothing_they_reported(tmp_path):
    done = -1
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(3):
                done = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
        audits = committed(tmp_path)
        assert audits[: done + 1] == list(range(done + 1))
        assert len(audits) <= done + 50
        assert len(RunFolder(tmp_path).images()) == 300 * len(audits)
        assert int(RunFolder(tmp_path).newest_recoveries().arrays["a"][0, 0]) in (audits[-1], audits[-1] - 1)


def test_what_a_kill_left_is_removed_before_the_next_audit(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "run.json.tmp").write_text("{")
    (tmp_path / "recoveries" / "audit-0007.npz").write_bytes(b"of an audit that was not completed")
    (tmp_path / "recoveries" / "audit-0007.npz.tmp").write_bytes(b"torn")
    assert int(RunFolder(tmp_path).newest_recoveries().arrays["members/truth"].max()) == 1
    RunFolder(tmp_path).prepare()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"audits.jsonl", "images.jsonl", "recoveries/audit-0001.npz"}


def test_an_audit_without_recoveries_keeps_the_older_ones(tmp_path):
    folder = fill(tmp_path, 1)
    folder.append_audit(rows(1), images(1), {})
    assert folder.newest_recoveries().path == tmp_path / "recoveries" / "audit-0000.npz"


def test_a_number_taken_again_sets_the_old_history_aside(tmp_path):
    """A run resumed from a checkpoint after its first audit, and then one started anew."""
    fill(tmp_path, 3)
    old = RunFolder(tmp_path).audits()
    resumed = RunFolder(tmp_path)
    resumed.append_audit([{"audit": 1, "method": "resumed"}], [{"audit": 1, "image": 9}], {})
    assert [(row["audit"], row["method"]) for row in resumed.audits()][-1] == (1, "resumed")
    assert committed(tmp_path) == [0, 1]
    assert resumed.images(1) == [{"audit": 1, "image": 9}]
    assert resumed.newest_recoveries() is None
    assert RunFolder(tmp_path / "superseded-1").audits() == old
    assert int(RunFolder(tmp_path / "superseded-1").newest_recoveries().arrays["members/truth"].max()) == 2
    fill(tmp_path, 1)
    assert committed(tmp_path) == [0]
    assert committed(tmp_path / "superseded-2") == [0, 1]


def test_run_json_is_replaced_in_one_step(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_run({"created": "first"})
    monkeypatch.setattr("json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.write_run({"created": "second"})
    monkeypatch.undo()
    assert folder.run()["created"] == "first"


def test_errors_are_one_line(tmp_path):
    def message(kind, call):
        with pytest.raises(kind) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        return text

    nowhere = tmp_path / "nowhere"
    missing = RunFolder(nowhere)
    assert "nowhere does not exist" in message(FileNotFoundError, missing.audits)
    assert "nowhere does not exist" in message(FileNotFoundError, missing.run)
    assert "nowhere does not exist" in message(FileNotFoundError, lambda: RunFolder.find(tmp_path / "nowhere"))
    assert "holds no audits.jsonl" in message(FileNotFoundError, lambda: RunFolder.find(tmp_path))
    assert "no audit was completed" in message(FileNotFoundError, RunFolder(tmp_path).audits)
    folder = fill(tmp_path / "memaudit")
    assert RunFolder.find(tmp_path).path == RunFolder.find(tmp_path / "memaudit").path == folder.path
    fill(tmp_path / "another")
    assert RunFolder.find(tmp_path).path == folder.path, "the default name is meant"
    assert "run.json does not exist" in message(FileNotFoundError, folder.run)
    (folder.path / "run.json").write_text("[]")
    assert "holds a list" in message(ValueError, folder.run)
    (folder.path / "run.json").write_text("{")
    assert "is not JSON" in message(ValueError, folder.run)
    lines = (folder.path / "audits.jsonl").read_text().splitlines(keepends=True)
    (folder.path / "audits.jsonl").write_text("".join([*lines[:3], "{broken\n", *lines[3:]]))
    assert "corrupt at line 4" in message(ValueError, folder.audits)
    assert "audits [0, 1]" in message(ValueError, lambda: folder.append_audit(rows(0) + rows(1), [], {}))
    assert "audits []" in message(ValueError, lambda: folder.append_audit([], [], {}))
    (tmp_path / "file").write_text("")
    assert "file is in its way" in message(NotADirectoryError, RunFolder(tmp_path / "file").prepare)
    assert "file is in its way" in message(NotADirectoryError, RunFolder(tmp_path / "file" / "below").prepare)


def test_imports_no_torch():
    code = "import sys, lightning_memaudit.results.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_results_of_any_name_are_found(tmp_path):
    folder = fill(tmp_path / "first")
    assert RunFolder.find(tmp_path).path == folder.path
    other = fill(tmp_path / "second")
    with pytest.raises(ValueError, match="several results") as caught:
        RunFolder.find(tmp_path)
    assert str(folder.path) in str(caught.value)
    assert str(other.path) in str(caught.value)


def test_a_folder_above_the_runs_is_answered_with_their_names(tmp_path):
    fill(tmp_path / "runs" / "first" / "memaudit")
    with pytest.raises(FileNotFoundError, match=r"pass \S+/runs/first/memaudit$"):
        RunFolder.find(tmp_path)
    fill(tmp_path / "runs" / "second" / "memaudit")
    for above in (tmp_path, tmp_path / "runs"):
        with pytest.raises(FileNotFoundError, match=r"pass one of \S+/first/memaudit, \S+/second/memaudit$"):
            RunFolder.find(above)


def test_arrays_that_would_be_pickled_are_refused(tmp_path):
    """On every NumPy: those before 2.3 take the argument that forbids it for one more array."""
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="members/truth holds objects"):
        folder.append_audit(rows(0), images(0), {"members/truth": np.array([object()])})
    fill(tmp_path / "other", 1)
    assert set(RunFolder(tmp_path / "other").newest_recoveries().arrays) == {"members/truth"}

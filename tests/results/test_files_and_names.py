"""Values that JSON can hold, files that are whole or not there, names and nearest names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_memaudit.results.files import plain, replacing, write_json
from lightning_memaudit.results.names import check_name, did_you_mean


def test_plain_values_go_through_json_unchanged():
    value = {
        "a": (1, 2.5),
        3: [np.int64(4), np.float32(0.5), np.bool_(True)],
        "p": Path("x/y"),
        "bad": [np.nan, -np.inf],
    }
    assert plain(value) == {"a": [1, 2.5], "3": [4, 0.5, True], "p": "x/y", "bad": [None, None]}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_what_json_does_not_know_is_refused_unless_told_what_becomes_of_it(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", plain({"value": object()}))
    assert plain({"value": {1}}, otherwise=repr) == {"value": "{1}"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", ["writing", "syncing"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, fails):
    path = tmp_path / "numbers.json"
    write_json(path, [1])
    if fails == "syncing":
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))

    def write():
        with replacing(path) as file:
            file.write(b"half of ")
            if fails == "writing":
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_a_stream_is_written_to(tmp_path):
    (tmp_path / "real.json").write_text("[0]")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == [1]
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", [2])
    assert json.loads(os.read(reader, 100)) == [2]
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_text_that_is_no_unicode_is_escaped(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"path": "caf\udce9"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "ends.", "ü"])
def test_names_that_could_leave_their_place_are_refused(name):
    with pytest.raises(ValueError, match="pass letters, digits"):
        check_name(name, f"name={name!r}")
    check_name("mem.audit-2_b+c", "name")


def test_the_nearest_name_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("monitor", ["monitor", "monitors"]) == ""
    assert did_you_mean("randon", ["random", "half"], quoted=False) == "did you mean random?"
    assert did_you_mean("xyz", ["random", "half"]) == ""

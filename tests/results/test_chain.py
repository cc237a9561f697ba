"""The chain of hashes from audit to audit, and the seal of run.json."""

import json

import numpy as np
import pytest
from forgery import change_rows, read_rows, write_rows

from lightning_memaudit.report.verify.described import same_chain, same_run
from lightning_memaudit.results.run_folder import RunFolder


def filled(path, audits=range(4)):
    folder = RunFolder(path)
    if not (path / "run.json").exists():
        folder.write_run({"created": "now", "odd": "half a character \udcff"})
    for audit in audits:
        rows = [{"audit": audit, "step": audit, "method": name, "share": 0.1 * audit} for name in ("a", "b")]
        images = [{"audit": audit, "image": image, "psnr": 30.0 + image} for image in range(3)]
        folder.append_audit(rows, images, {"members/truth": np.full((1, 1, 2, 2), audit)})
    return folder


def holds(folder):
    return same_chain("chain", folder).passed


def test_what_was_written_holds_and_readers_see_no_chain(tmp_path):
    folder = filled(tmp_path)
    assert holds(folder) is True
    assert same_run("run", folder).passed is True
    assert not any("chain" in row for row in folder.audits())
    assert folder.run() == {"schema_version": 1, "created": "now", "odd": "half a character \udcff"}
    folder.write_run({"created": "later"})
    assert holds(folder) is True, "run.json written again names the newest audit"
    filled(tmp_path, [4])
    filled(tmp_path, [2, 3])
    assert holds(folder) is True, "another history of the same run"
    assert holds(RunFolder(tmp_path / "superseded-1")) is True


@pytest.mark.parametrize("audit", range(4))
@pytest.mark.parametrize("file", ["audits.jsonl", "images.jsonl"])
def test_an_audit_edited_dropped_or_doubled_shows(tmp_path, file, audit):
    folder = filled(tmp_path)
    whole = (tmp_path / file).read_bytes()
    rows = read_rows(tmp_path / file)
    mine = [row for row in rows if row["audit"] == audit]
    others = [row for row in rows if row["audit"] != audit]
    for changed in (others, [*rows, *mine], [*mine, *others] if audit else [*others, *mine]):
        write_rows(tmp_path / file, changed)
        assert holds(folder) is False
    write_rows(tmp_path / file, rows)
    assert holds(folder) is True
    change_rows(tmp_path / file, lambda row: row.update(extra=1) if row["audit"] == audit else None)
    assert holds(folder) is False
    (tmp_path / file).write_bytes(whole)
    assert holds(folder) is True


def test_dropped_with_all_that_belongs_to_it_the_newest_audit_is_missed(tmp_path):
    folder = filled(tmp_path)
    for name in ("audits.jsonl", "images.jsonl"):
        change_rows(tmp_path / name, lambda row: row["audit"] < 3)
    (tmp_path / "recoveries" / "audit-0003.npz").unlink()
    check = same_chain("chain", folder)
    assert check.passed is False
    # Without the seal nobody would miss it; but the seal is missed itself.
    run = json.loads((tmp_path / "run.json").read_text())
    del run["seal"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert holds(folder) is False


def test_recoveries_are_those_of_the_audit(tmp_path):
    folder = filled(tmp_path)
    np.savez(tmp_path / "recoveries" / "audit-0003.npz", **{"members/truth": np.ones((1, 1, 2, 2))})
    assert holds(folder) is False
    (tmp_path / "recoveries" / "audit-0003.npz").unlink()
    assert holds(folder) is False


def test_an_older_run_without_chain_goes_on_with_one(tmp_path):
    folder = filled(tmp_path)
    change_rows(tmp_path / "audits.jsonl", lambda row: row.pop("chain") and None)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["seal"]
    for version, passed in (("0.1.0", None), ("0.2.0", False)):
        (tmp_path / "run.json").write_text(json.dumps(run | {"versions": {"lightning_memaudit": version}}))
        assert holds(folder) is passed
        assert same_run("run", folder).passed is passed
    filled(tmp_path, [4, 5])
    assert holds(folder) is True
    change_rows(tmp_path / "audits.jsonl", lambda row: row.update(share=1) if row["audit"] == 3 else None)
    assert holds(folder) is False, "the first link is to what was there before"


def test_a_kill_before_the_seal_is_no_lie(tmp_path):
    filled(tmp_path, range(3))
    run = (tmp_path / "run.json").read_bytes()
    folder = filled(tmp_path, [3])
    (tmp_path / "run.json").write_bytes(run)
    assert holds(folder) is True


def test_run_json_edited_shows(tmp_path):
    folder = filled(tmp_path)
    for change in ({"created": "before"}, {"more": 1}, {"seal": {}}):
        content = json.loads((tmp_path / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps(content | change))
        assert same_run("run", folder).passed is False
        (tmp_path / "run.json").write_text(json.dumps(content))
        assert same_run("run", folder).passed is True

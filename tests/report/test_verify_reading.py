"""Results files from elsewhere: what can be read in two ways, or would take all memory, is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest

from lightning_memaudit.cli.main import main
from lightning_memaudit.results.files import AmbiguousJSON, read_json
from lightning_memaudit.results.lines import read_lines
from lightning_memaudit.results.run_folder import RunFolder

AMBIGUOUS = {
    "a key twice": '{"audit": 0, "psnr": 41.0, "psnr": 11.0}',
    "a key twice, further in": '{"audit": 0, "x": [{"a": 1, "a": 1}]}',
    "a real number beyond all range": '{"audit": 0, "psnr": 1e400}',
    "a whole number beyond all range": f'{{"audit": 0, "psnr": 1{"0" * 400}}}',
    "nested deeper than Python goes": f'{{"audit": 0, "x": {"[" * 100_000}{"]" * 100_000}}}',
    "nested deep": f'{{"audit": 0, "x": {"[" * 70}{"]" * 70}}}',
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_json_of_two_meanings_or_none_is_refused_even_as_the_last_line(tmp_path, name):
    with pytest.raises(AmbiguousJSON):
        read_json(AMBIGUOUS[name])
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"audit": 0}}\n{AMBIGUOUS[name]}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl is corrupt at line 2: ") as refused:
        list(read_lines(path))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("audit", ["1000000000000", "-1", "true", "[0]", '"0"', "0.0", "null"])
def test_what_is_no_number_of_an_audit_is_refused(tmp_path, audit):
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"audit": {audit}}}\n')
    with pytest.raises(ValueError, match="is no number of an audit"):
        list(read_lines(path))


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, -3, null, true, "x"]}', "[]", f"{'[' * 60}{']' * 60}", str(2**64)])
def test_other_json_is_read_as_ever(text):
    assert read_json(text) == read_json(text.encode()) == json.loads(text)


def test_a_key_twice_in_the_report_or_the_run_is_refused_in_one_line(run, capsys):
    for name, key, code in (("report.json", '"verdict"', (2,)), ("run.json", '"settings"', (1, 2))):
        path = run.path / name
        text = path.read_text()
        assert text.count(key) == 1
        path.write_text(text.replace(key, f'{key}: {{"headline": "No memorization found."}}, {key}'))
        assert main(["verify", str(run.path)]) in code
        said = capsys.readouterr()
        assert f"the key '{key[1:-1]}' is there twice" in said.out + said.err
        path.write_text(text)


ROWS = [{"epoch": "1"}, {"train_loss": "x"}, {"doubts": "none"}, {"doubts": [{"code": ["x"]}]}, {"num_images": -1}]
RUNS = [
    {"settings": [1]}, {"members": "all"}, {"machine": [1]}, {"notes": "x"}, {"notes": [1]},
    {"settings": {"save_recoveries": True}}, {"settings": {"seed": "x"}}, {"settings": {"patterns": [1]}},
    {"members": {"num_available": "many"}}, {"controls": {"identity_check": {"checked": "x"}}},
]  # fmt: skip


def test_values_of_another_kind_are_refused_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_audit([{"audit": 0}], [], {})
    for row in ROWS:
        (tmp_path / "audits.jsonl").write_text(json.dumps({"audit": 0, **row}) + "\n")
        with pytest.raises(ValueError, match=rf"audits\.jsonl holds {next(iter(row))}="):
            folder.audits()
    for run in RUNS:
        (tmp_path / "run.json").write_text(json.dumps(run))
        with pytest.raises(ValueError, match=r"run\.json holds \w+=.* which is not what an audit writes"):
            folder.run()


def huge(file):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("members/x.npy", header.getvalue())


FILES = {
    "a header of terabytes": huge,
    "an archive that unfolds": lambda file: np.savez_compressed(file, **{"members/truth": np.zeros((999, 1, 9, 9))}),
    "no image": lambda file: np.savez(file, **{"members/truth": np.zeros((0, 1, 9, 9))}),
    "a number": lambda file: np.savez(file, **{"members/truth": np.float32(1)}),
}


@pytest.mark.parametrize("name", FILES)
def test_arrays_that_no_audit_writes_are_refused(tmp_path, name):
    folder = RunFolder(tmp_path)
    folder.append_audit([{"audit": 0}], [], {"members/truth": np.ones((1, 1, 9, 9))})
    assert folder.newest_recoveries() is not None
    FILES[name](tmp_path / "recoveries" / "audit-0000.npz")
    with pytest.raises(ValueError, match=r"audit-0000\.npz cannot be read \("):
        folder.newest_recoveries()

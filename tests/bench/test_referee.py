"""``bench referee``: the verdict's rules on simulated images."""

import json

import numpy as np

from lightning_memaudit.bench.referee import simulated_columns
from lightning_memaudit.cli.main import main
from lightning_memaudit.results.judgement import judge

QUICK = ["--num_trials=5", "--num_controls=[30]", "--num_patterns=[1]", "--shares=[0.2]"]


def test_the_table_is_of_the_rules_themselves(tmp_path, capsys):
    assert main(["bench", "referee", *QUICK]) == 0
    none, some = json.loads((tmp_path / "bench-referee.json").read_text())["rows"]
    assert (none["share_memorized"], none["memorized"]) == (0, 0)
    assert (some["share_memorized"], some["memorized"]) == (0.2, 1)
    assert "100 members, 5 audits each" in capsys.readouterr().out


def test_bad_numbers_are_refused(capsys):
    for bad in ("--num_trials=0", "--by_chance=1", "--shares=[0]"):
        assert main(["bench", "referee", bad]) != 0
        assert bad.strip("-").partition("=")[0] in capsys.readouterr().err


def test_simulated_images_came_back_where_their_gain_says_so():
    gains = np.array([[7.0, 5.9, -1.0], [0.0, 0.0, 9.0]])
    columns = simulated_columns({"members": gains, "controls": gains[:, 1:2]})
    overall = judge([{"audit": 0, "threshold_db": 30.0}], columns).overall
    assert (overall.members.memorized.count, overall.controls.memorized.count) == (2, 0)

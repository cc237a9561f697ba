"""``bench estimate``: told beside taken for every audit; and the table that tells it, as Python."""

import json

from lightning_memaudit.bench import estimate as bench
from lightning_memaudit.cli.main import main

SMALL = ["--num_members=6", "--width=16", "--network=FC-2", "--train_losses=[0.05]", "--max_steps=50"]


def test_every_audit_is_told_and_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "AUDITS", ((6, ("half",), ("known_mask", "biharmonic")),))
    output = tmp_path / "estimate.json"
    assert main(["bench", "estimate", *SMALL, f"--output={output}"]) == 0
    content = json.loads(output.read_text())
    assert content["rows"][0]["state"] == "untrained"
    assert len(content["rows"]) == 2
    for row in content["rows"]:
        assert row["num_images"] == 12
        assert row["seconds"] > 0
        assert row["estimated_num_evaluations"] > 0
    assert 0 <= content["within"] <= 1
    assert "within a factor of 1.5" in capsys.readouterr().out


def test_the_table_is_python_that_can_replace_the_old_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "TABLE_PATTERNS", ("random-0.5", "block-0.5"))
    monkeypatch.setattr(bench, "TABLE_METHODS", ("blind", "autoencoder_iterations"))
    options = ["--table=true", *SMALL, f"--output={tmp_path / 'rows.json'}"]
    assert main(["bench", "estimate", *options]) == 0
    printed = capsys.readouterr().out
    values = {}
    exec(printed[printed.index("MEASURED") :].replace("MEASURED: Measured", "MEASURED"), values)
    measured = values["MEASURED"]
    assert measured.keys() == {"search", "autoencoder_iterations"}
    for kind in measured.values():
        assert kind.keys() == {"apart", "together"}
        for rows in (*kind["apart"].values(), *kind["together"].values()):
            assert all(len(row) == 5 and row[1] > 0 for row in rows)
    assert main(["bench", "estimate", *options]) == 0  # rows of both runs
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 2 * 2 * 2 * 2 * 2

"""W&B: an offline run holds what was measured, on the right axes; the workspace is the one that was looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from lightning_memaudit import audit
from lightning_memaudit.cli.main import main, shipped_configs
from lightning_memaudit.report.loggers import IMAGE_COLUMNS, log_audit

SNAPSHOT = Path(__file__).parent / "dashboard.json"


@pytest.fixture
def report():
    members, controls = torch.rand(4, 1, 12, 12), torch.rand(3, 1, 12, 12)

    def remembers(images):
        return members[torch.cdist(images.flatten(1), members.flatten(1)).argmin(1)]

    return audit(remembers, members, controls, ["random-0.5"], ["blind", "biharmonic"])


def records(folder):
    """Every record of the offline run in a folder, as ``wandb leet inspect`` reads it."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def log_offline(tmp_path, report, num_images):
    logger = WandbLogger(project="memaudit", save_dir=tmp_path, offline=True)
    log_audit(logger, report, "memaudit", num_images)
    logger.experiment.finish()
    return records(tmp_path)


def test_offline_run_holds_the_audit(tmp_path, report):
    found = log_offline(tmp_path, report, num_images=0)
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    (row,) = (item for item in history if "memaudit/recovery_rate" in item)
    assert row["memaudit/recovery_rate"] == report.headline["recovery_rate"] == 1.0
    assert row["memaudit/train_loss"] == report.headline["train_loss"] == 0.0
    assert row["memaudit/control_recovery_rate"] == 0.0
    assert row["memaudit/random-0.5/blind/recovery_rate"] == 1.0
    assert row["memaudit/random-0.5/biharmonic/recovery_rate"] == report.rate("biharmonic", "random-0.5")
    axes = {
        record["metric"].get("glob_name"): record["metric"].get("step_metric")
        for record in found
        if record["type"] == "metric"
    }
    assert axes["memaudit/*"] == "memaudit/train_loss"
    keys = {key for item in history for key in item}
    assert {"memaudit/rates", "memaudit/image_table"} <= {key.split(".")[0] for key in keys}
    assert not any(key.startswith("memaudit/images/") for key in keys)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/memaudit/image_table*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == list(IMAGE_COLUMNS)
    assert len(content["data"]) == 7  # images, as the audited method recovered them


def test_images_are_logged_only_when_asked(tmp_path, report):
    found = log_offline(tmp_path, report, num_images=2)
    keys = {key for record in found if record["type"] == "history" for key in record["history"]["item"]}
    assert any(key.startswith("memaudit/images/members/random-0.5/blind/image") for key in keys)
    paths = tmp_path.glob("wandb/offline-run-*/files/media/images/memaudit/images/members/truth*.png")
    pictures = sorted(np.asarray(Image.open(path)).tolist() for path in paths)
    assert pictures == sorted((255 * truth[0]).round().tolist() for truth in report.recoveries["members/truth"][:2])


def test_other_loggers_get_the_numbers(tmp_path, report):
    logger = CSVLogger(tmp_path)
    log_audit(logger, report, "memaudit", num_images=2)
    logger.save()
    header, row = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    numbers = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(numbers["memaudit/recovery_rate"]) == 1.0


def test_workspace_is_the_one_that_was_looked_at(capsys):
    """To renew it after a change: python -m lightning_memaudit dashboard --entity e --project p --dry_run"""
    pytest.importorskip("wandb_workspaces")
    assert main(["dashboard", "--entity", "e", "--project", "p", "--dry_run"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SNAPSHOT.read_text())


def test_workspace_shows_metrics_that_are_logged(report):
    """No chart of a metric that an audit never logs; all but the certified rate, which takes a calibrated method."""
    text = SNAPSHOT.read_text()
    logged = {f"memaudit/{name}" for name in report.headline} | {"memaudit/certified_rate"}
    for panel in json.loads(text)["section"]["panelBankConfig"]["sections"][0]["panels"]:
        assert set(panel["config"].get("metrics") or []) <= logged, panel["config"]["chartTitle"]


def test_dashboard_without_its_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert main(["dashboard", "--entity", "e", "--project", "p", "--dry_run"]) == 2
    assert "lightning-memaudit[dashboard]" in capsys.readouterr().err
    assert main(["dashboard", "--entity", "e"]) == 2
    assert "--project" in capsys.readouterr().err


def test_overlay_adds_an_offline_logger(tmp_path, capsys):
    configs = [f"--config={shipped_configs() / name}" for name in ("quickstart.yaml", "wandb.yaml")]
    assert main(["fit", *configs, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["logger"]["init_args"]["offline"] is True
    assert config["memaudit"]["at_epochs"] == [0]
    assert config["memaudit"]["log_images"] == 0


def test_sweep_sets_options_that_exist(capsys):
    """Every parameter of the sweep, with each of its values, is an option of ``fit`` over the overlays it names."""
    sweep = yaml.safe_load((shipped_configs() / "sweep.yaml").read_text())
    command = sweep["command"]
    assert command[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    fixed = [part.replace("configs/", f"{shipped_configs()}/") for part in command[4:-1]]
    for name, parameter in sweep["parameters"].items():
        for value in (parameter["values"][0], parameter["values"][-1]):
            assert main([*fixed, f"--{name}={value}", "--print_config"]) == 0, name
            assert str(value) in capsys.readouterr().out

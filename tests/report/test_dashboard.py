"""W&B's workspace is the one that was looked at, and shows what is logged."""

import json
import sys
from pathlib import Path

import pytest

from lightning_memaudit.cli.main import main

SNAPSHOT = Path(__file__).parent / "dashboard.json"


def test_workspace_is_the_one_that_was_looked_at(capsys):
    """To renew it after a change: python -m lightning_memaudit dashboard --entity e --project p --dry_run"""
    pytest.importorskip("wandb_workspaces")
    assert main(["dashboard", "--entity", "e", "--project", "p", "--dry_run"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SNAPSHOT.read_text())


def test_a_callback_of_another_name_has_the_same_workspace(capsys):
    pytest.importorskip("wandb_workspaces")
    assert main(["dashboard", "--entity", "e", "--project", "p", "--dry_run", "--prefix", "twin.b"]) == 0
    # Once as it is, and once within a regular expression.
    expected = SNAPSHOT.read_text().replace("memaudit/[", r"twin\\.b/[").replace("memaudit/", "twin.b/")
    assert json.loads(capsys.readouterr().out) == json.loads(expected)
    assert main(["dashboard", "--entity", "e", "--project", "p", "--dry_run", "--prefix", "a/b"]) == 2
    assert "prefix='a/b'" in capsys.readouterr().err


def test_no_chart_stops_at_ten_runs():
    text = SNAPSHOT.read_text()
    panels = [
        panel
        for section in json.loads(text)["section"]["panelBankConfig"]["sections"]
        for panel in section["panels"]
        if panel["viewType"] in ("Run History Line Plot", "Bar Chart")
    ]
    assert len(panels) == 9
    assert {panel["config"]["limit"] for panel in panels} == {100}


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

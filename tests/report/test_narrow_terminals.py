"""The table of an audit in a terminal of few columns: every number is there, and no line is too long."""

import io
import sys

import pytest
import torch
from rich.console import Console

from lightning_memaudit import audit
from lightning_memaudit.cli.main import main
from lightning_memaudit.report.terminal import NARROW, print_audit


@pytest.mark.parametrize("width", [40, 60, NARROW, 80, 120])
def test_nothing_is_cut(width):
    members, controls = torch.rand(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    methods = ["paper_blind", "autoencoder_iterations", "biharmonic"]
    report = audit(lambda x: x * 0.9, members, controls, patterns=["random-0.5"], methods=methods)
    out = io.StringIO()
    print_audit(report.rows, Console(file=out, width=width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    together = "".join("".join(lines).split())
    for row in report.rows:
        assert f"{row['num_recovered']}/{row['num_images']}" in together
        if row["group"] == "members":
            assert f"{row['hidden_psnr_mean']:.1f}" in together
            assert f"{row['ci_low']:.2f}-{row['ci_high']:.2f}" in together
    assert together.endswith("nottraining_step'sloss")


def test_a_name_is_broken_between_its_words():
    """At 80 columns the numbers of a hundred images leave no room for the longest name."""
    members, controls = torch.rand(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    methods = ["paper_blind", "autoencoder_iterations", "biharmonic"]
    rows = audit(lambda x: x * 0.9, members, controls, patterns=["random-0.5"], methods=methods).rows
    counts = {"num_images": 100, "num_recovered": 100}
    counts |= dict.fromkeys(("num_certified", "num_certified_true", "num_certified_recovered"), 100)
    out = io.StringIO()
    print_audit([row | counts for row in rows], Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert any("100:100:100" in line for line in lines)
    broken = next(number for number, line in enumerate(lines) if line.strip().startswith("autoencoder_"))
    assert lines[broken + 1].strip() == "iterations"
    assert max(map(len, lines)) <= 80


def test_the_legend_is_said_once_and_what_was_found_always():
    members, controls = torch.rand(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    report = audit(lambda x: x * 0.9, members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"])
    told = []
    for legend in (True, False):
        out = io.StringIO()
        print_audit([row | {"num_failed": 7} for row in report.rows], Console(file=out, width=200), legend=legend)
        told.append(" ".join(out.getvalue().split()))
    for words, always in (
        ("members, controls: recovered, that is PSNR >= 30 dB", False),
        ("certified: claimed recovered", False),
        ("mean squared error of the autoencoder's own output", False),
        ("median dB over the best filling without the autoencoder", True),
        ("28 recoveries failed", True),
    ):
        assert [words in one for one in told] == [True, always], words


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_verify_says_is_broken_between_words_in_a_terminal_alone(run, capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert main(["verify", str(run.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (max(map(len, lines)) < 60) == is_terminal
    words = "which images were trained on: members and controls are as the run named them"
    assert words in " ".join(" ".join(lines).split()), "no word is broken"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_an_error_says_is_broken_between_words_in_a_terminal_alone(capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert main(["verify", "no/such/folder", "--ckpt_path", "of any name"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (max(map(len, lines)) < 60) == (len(lines) > 1) == is_terminal
    assert "no/such/folder" in " ".join(lines)

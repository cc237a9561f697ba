"""The table of an audit in a terminal of few columns: every number is there, and no line is too long."""

import io

import pytest
import torch
from rich.console import Console

from lightning_memaudit import audit
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

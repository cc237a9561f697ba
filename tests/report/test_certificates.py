"""Certificates in terminal and page: one story, with what is in force and the counts that let a reader check it."""

import io

import pytest
import torch
from autoencoders import memory
from rich.console import Console

from lightning_memaudit import audit
from lightning_memaudit.report.certificates import certificate_rows, certificate_sentence
from lightning_memaudit.report.terminal import print_audit

FEW = {"threshold": None, "reason": "20 controls cannot show it: it takes 99, so nothing is certified"}


def shown(report, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    print_audit(report.rows, console)
    return " ".join(console.export_text().split())


@pytest.mark.parametrize(("num_controls", "scale"), [(20, 1.0), (120, 1.0), (120, 0.3), (0, 1.0)])
def test_the_table_never_certifies_above_a_caption_that_says_nothing_is(num_controls, scale):
    members = torch.rand(20, 1, 12, 12) * 0.8 + 0.1
    controls = (torch.rand(num_controls, 1, 12, 12) * 0.8 + 0.1) * scale if num_controls else None
    report = audit(memory(members), members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"])
    text = shown(report)
    certified = report.rows[0]["num_certified"]
    assert (certified == 0) == ("nothing is certified" in text)
    assert f" {certified}:{certified}:{certified} " in text
    assert ("by the controls and turned copies" in text) == (num_controls == 20)
    assert ("by turned copies" in text) == (num_controls == 0)
    assert ("differ in" in text) == (scale < 1)
    if certified:
        assert "1.0%" in text or "0.8%" in text, "the rate of what is in force"


def test_the_table_fits_80_columns_with_a_hundred_certificates():
    certified = {"num_certified": 100, "num_certified_true": 100, "num_certified_recovered": 100, "num_images": 100}
    report = audit(
        lambda images: images, torch.rand(3, 1, 8, 8), None, patterns=["random-0.5"], methods=["blind", "biharmonic"]
    )
    rows = [row | certified | {"num_recovered": 100} for row in report.rows]
    console = Console(width=80, record=True, file=io.StringIO())
    print_audit(rows, console)
    lines = console.export_text().splitlines()
    assert "100:100:100" in " ".join(lines), lines
    assert max(map(len, lines)) <= 80


def test_rows_of_an_old_version_are_read_as_they_were_meant():
    assert certificate_sentence(FEW).startswith("nothing is certified: 20 controls cannot show it")
    old = {"threshold": 0.1, "reason": "", "num_control_scores": 120, "false_rate": 0.008, "false_rate_high": 0.03}
    assert "none of 120 controls, 95% interval up to 3.0%" in certificate_sentence(old)
    row = {"group": "members", "pattern": "half", "method": "blind", "num_certified": 3, "certification": old}
    assert certificate_rows([row])[0]["members"]["num_certified_true"] is None
    assert not certificate_rows([row | {"certification": None}, row | {"num_certified": None}])

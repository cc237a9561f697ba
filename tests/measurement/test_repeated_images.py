"""The same picture twice is no second piece of evidence, for memory or against it."""

import pytest
import torch
from autoencoders import memory

from lightning_memaudit import audit
from lightning_memaudit.measurement.near_duplicates import REPEAT_PSNR, near_duplicates, repeats

PATTERNS, METHODS = ["random-0.5"], ["blind", "biharmonic"]


def images(number, seed=0):
    return torch.rand(number, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block_size", [1, 3, 1024])
def test_repeats_are_those_of_a_comparison_of_all_pairs(block_size):
    generator = torch.Generator().manual_seed(1)
    some = images(4)[torch.randint(4, (20,), generator=generator)]
    some = some + 0.02 * torch.rand(20, 1, 1, 1, generator=generator)  # up to 34 dB off: partly alike
    error = (some[:, None] - some[None]).square().flatten(2).mean(2)
    alike = error <= 10 ** (-REPEAT_PSNR / 10)
    expected = [bool(alike[i, :i].any()) for i in range(20)]
    assert any(expected)
    assert near_duplicates(some, block_size=block_size, psnr_db=REPEAT_PSNR, earlier=True).tolist() == expected


def test_controls_that_show_members_say_nothing_against_memory():
    members, controls = images(40), images(40, 1)
    close = (members[:15] + 1 / 255).clamp(max=1)
    report = audit(memory(members), members, torch.cat([close, controls]), patterns=PATTERNS, methods=METHODS)
    assert report.verdict.outcome == "memorized"
    assert report.judgement.overall.controls.memorized.count == 0
    assert report.judgement.overall.controls.memorized.num == 40
    assert any(caution.startswith("15 controls show a member") for caution in report.verdict.cautions)
    assert sum(row["repeated"] for row in report.images) == 15 * 2


def test_one_picture_ten_times_is_one():
    stored, others = images(1), images(50, 1)
    report = audit(
        memory(stored),
        torch.cat([stored.repeat(10, 1, 1, 1), others]),
        images(40, 2),
        patterns=PATTERNS,
        methods=METHODS,
    )
    assert report.num_memorized == 1
    assert report.verdict.outcome != "memorized"
    assert any(caution.startswith("9 audited members show another") for caution in report.verdict.cautions)


def test_five_controls_eight_times_are_five():
    members = images(40)
    report = audit(memory(members), members, images(5, 1).repeat(8, 1, 1, 1), patterns=PATTERNS, methods=METHODS)
    assert report.verdict.reasons[0] == "too_few_controls"
    assert "too few controls (5)" in report.verdict.headline


def test_certificates_count_different_controls():
    members = images(10)
    report = audit(memory(members), members, images(60, 1).repeat(2, 1, 1, 1), patterns=PATTERNS, methods=METHODS)
    [row] = [row for row in report.rows if row["group"] == "members" and row["method"] == "blind"]
    assert row["certification"]["num_control_scores"] == 60
    assert row["certification"]["threshold"] is None


def test_repeats_by_group():
    assert repeats(images(3), None) == {"members": []}

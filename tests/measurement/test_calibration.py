"""Certificates from controls: rates and intervals that hold in each pattern, refused where the groups differ."""

import numpy as np
import pytest
import torch
from autoencoders import associative, memory
from observations import smooth_images

from lightning_memaudit import audit
from lightning_memaudit.measurement.calibration import NEEDED, certify_from_controls, without_own_certificates
from lightning_memaudit.measurement.engine import now, run_audit
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import BlindRecovery, Calibration
from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.rows import CERTIFIED_DB, Occasion

PATTERNS = ["random-0.5", "random-0.9", "block-0.25", "block-0.5"]


def cell(group, pattern, scores):
    count = len(scores)
    columns = {"score": scores, "claims": np.ones(count, bool), "certified": np.zeros(count, bool)}
    columns |= {"expected_error": np.zeros(count), "gain": np.zeros(count), "position": np.arange(count)}
    return Cell(group, pattern, "blind", columns, 0.0)


def test_rate_and_interval_hold_in_every_pattern_though_the_scores_of_an_image_depend_on_each_other():
    """Scores of one image differ little between patterns, and one pattern has the lowest scores of all."""
    rng = np.random.default_rng(0)
    plan = Plan.of(PATTERNS, ["blind"])
    offsets = np.array([0.0, 0.0, 0.0, -1.5])

    def scores(count):
        return np.exp(rng.normal(size=(count, 1)) + 0.3 * rng.normal(size=(count, 4)) + offsets).T

    strangers = np.sort(scores(40_000), axis=1)
    rates, exceeded = [], []
    for _ in range(600):
        cells = [cell("controls", *one) for one in zip(PATTERNS, scores(NEEDED), strict=True)]
        described = certify_from_controls(cells, plan)
        thresholds = [described[pattern, "blind"]["threshold"] for pattern in PATTERNS]
        pairs = zip(strangers, thresholds, strict=True)
        rates.append([np.searchsorted(one, threshold) / strangers.shape[1] for one, threshold in pairs])
        exceeded.append([rate > described[PATTERNS[0], "blind"]["false_rate_high"] for rate in rates[-1]])
        assert {described[pattern, "blind"]["num_control_scores"] for pattern in PATTERNS} == {NEEDED}
    # The mean of a geometric-like rate over 600 splits has a standard error of 0.0004.
    assert np.mean(rates, 0) == pytest.approx([1 / (NEEDED + 1)] * 4, abs=0.0015)
    assert np.max(np.mean(exceeded, 0)) < 0.045, "2.5% is expected, with a standard error of 0.6%"


@pytest.mark.parametrize("num_controls", [NEEDED - 1, NEEDED])
def test_only_control_images_count(num_controls):
    """Four patterns times 25 images are no 100 controls."""
    members = torch.rand(4, 1, 12, 12) * 0.8 + 0.1
    controls = torch.rand(num_controls, 1, 12, 12) * 0.8 + 0.1
    report = audit(memory(members), members, controls, patterns=["half", "random-0.5"], methods=["blind"])
    for row in report.rows:
        claim = row["certification"]
        assert claim["num_control_scores"] == num_controls
        assert claim["source"] == ("controls" if num_controls == NEEDED else "turned copies")
        assert claim["false_rate"] == pytest.approx(0.01)
    certified = {row["group"]: row["num_certified"] for row in report.rows}
    assert certified == {"members": 4, "controls": 0}


@pytest.mark.parametrize("number", [40, NEEDED])
def test_controls_of_another_source_certify_nothing(number):
    """A smooth memory that has stored none of the images: what is certified by controls of noise is false."""
    stored, strangers = smooth_images(40, channels=1), smooth_images(40, channels=1, seed=31)
    noise = torch.rand(number, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    report = audit(associative(stored), strangers, noise, patterns=["random-0.5"], methods=["blind"])
    row = report.rows[0]
    assert row["num_certified"] == 0
    assert (row["certification"]["source"], row["certification"]["threshold"]) == ("none", None)
    assert "members and controls differ in" in row["certification"]["reason"]
    assert "so nothing is certified" in row["certification"]["reason"]
    alike = audit(
        associative(stored),
        stored,
        smooth_images(NEEDED, channels=1, seed=32),
        patterns=["random-0.5"],
        methods=["blind"],
    )
    assert alike.rows[0]["certification"]["source"] == "controls"
    assert alike.rows[0]["num_certified"] == 40


def test_a_few_controls_that_show_members_do_not_spoil_the_certificates():
    """They score as low as members do, and are left out: the others and turned copies set the threshold."""
    members, others = torch.rand(6, 1, 12, 12) * 0.8 + 0.1, torch.rand(5, 1, 12, 12) * 0.8 + 0.1
    shown = members[:2] + 0.002
    # It has stored the images as the controls show them: no member scores lower than these.
    stored, controls = torch.cat([shown, members[2:]]), torch.cat([others, shown])
    report = audit(memory(stored), members, controls, patterns=["random-0.5"], methods=["blind"])
    claim = report.rows[0]["certification"]
    assert (claim["source"], claim["num_control_scores"]) == ("turned copies", 5)
    assert report.rows[0]["num_certified"] == 6


def test_controls_that_show_what_was_counted_before_leave_too_few_and_copies_make_up_for_them():
    """A hundred controls, of which forty are different: the certificates do not go with the copies."""
    members, others = torch.rand(6, 1, 12, 12) * 0.8 + 0.1, torch.rand(40, 1, 12, 12) * 0.8 + 0.1
    controls = torch.cat([others, others[:30], others[:30] + 0.001])
    report = audit(memory(members), members, controls, patterns=["random-0.5"], methods=["blind"])
    claim = report.rows[0]["certification"]
    assert (claim["source"], claim["num_control_scores"]) == ("turned copies", 40)
    assert report.rows[0]["num_certified"] == 6


@pytest.mark.parametrize("how", ["together", "block by block", "condition by condition"])
def test_nothing_is_certified_that_scores_no_lower_than_a_control_however_images_are_searched(how):
    """The autoencoder has stored the last control too, so that one scores as low as the members."""
    members, controls = torch.rand(6, 1, 12, 12) * 0.8 + 0.1, torch.rand(40, 1, 12, 12) * 0.8 + 0.1
    stored = memory(torch.cat([members, controls[39:]]))

    class Given:
        def given(self, condition):
            return stored

    labels = {"members": [0] * 6, "controls": [1] * 40}
    groups = [
        Group.whole(name, images, conditions=labels[name] if how.startswith("condition") else None)
        for name, images in (("members", members), ("controls", controls))
    ]
    plan = Plan.of(["random-0.5"], ["blind"], block_size=5 if how.startswith("block") else 512)
    report = run_audit(
        Given() if how.startswith("condition") else stored, groups, plan, Occasion(0, "audit", None, None, now())
    )
    score = {cell.group: cell.columns["score"] for cell in report.cells}
    certified = {cell.group: cell.columns["certified"] for cell in report.cells}
    assert not certified["controls"].any()
    assert not certified["members"][score["members"] >= score["controls"].min()].any()
    assert score["members"].max() >= score["controls"].min()
    assert report.rows[0]["certification"]["num_control_scores"] == 40


@pytest.mark.parametrize(("again", "left_out"), [(0, True), (1, False)])
def test_copies_are_left_out_only_where_there_are_enough_different_controls(again, left_out):
    group = Group("controls", torch.zeros(NEEDED, 1, 8, 8), range(NEEDED), range(NEEDED), repeated=range(again))
    plan = without_own_certificates(Plan.of(["half"], ["blind"]), [group])
    assert (plan.methods["blind"].certification is None) is left_out


def test_controls_without_a_score_are_not_said_to_count():
    scores = np.array([0.1, np.nan, np.nan])
    members = cell("members", "half", np.full(3, 0.01))
    members.columns["certified"][:] = True
    described = certify_from_controls([members, cell("controls", "half", scores)], Plan.of(["half"], ["blind"]))
    assert described["half", "blind"]["num_control_scores"] == 1
    assert members.columns["certified"].all()


def test_without_any_certificate_where_controls_fail_after_the_copies_were_left_out():
    scores = np.full(NEEDED, 0.1)
    scores[0] = np.nan  # the method failed on this control
    members = cell("members", "half", np.full(3, 0.01))
    members.columns["certified"][:] = True
    described = certify_from_controls([members, cell("controls", "half", scores)], Plan.of(["half"], ["blind"]))
    assert described["half", "blind"]["source"] == "none"
    assert f"{NEEDED - 1} controls with a score" in described["half", "blind"]["reason"]
    assert not members.columns["certified"].any()


def test_a_given_calibration_stays_in_force_and_is_said():
    given = Calibration(0.05, "", 500, 1 / 501, (0.0, 0.007))
    images = torch.rand(3, 1, 12, 12)
    report = audit(
        memory(images), images, None, patterns=["half"], methods={"mine": BlindRecovery(certification=given)}
    )
    claim = report.rows[0]["certification"]
    assert (claim["source"], claim["threshold"], claim["num_control_scores"]) == ("given", 0.05, 500)
    assert report.rows[0]["num_certified"] == 3


@pytest.mark.parametrize(
    ("positions", "left_out"), [(range(0, 98, 2), False), (range(1, 98, 2), False), (range(0, 99, 2), True)]
)
def test_copies_are_left_out_only_where_there_are_controls_enough_in_all_processes(positions, left_out):
    group = Group("controls", torch.zeros(len(positions), 1, 8, 8), list(positions), list(positions))
    plan = without_own_certificates(Plan.of(["half"], ["blind"]), [group])
    assert (plan.methods["blind"].certification is None) is left_out


def test_certificates_are_counted_by_what_they_claim():
    """Of three certified images one is at 40, one at 27 and one at 20 dB."""
    members = torch.rand(3, 1, 12, 12) * 0.5 + 0.1
    errors = torch.tensor([0.01, 10 ** (-27 / 20), 0.1]).view(-1, 1, 1, 1)

    def certain(autoencoder, observed):
        found = BlindRecovery()(memory(members), observed)
        return found._replace(image=members + errors, certified=torch.ones(3, dtype=torch.bool))

    certain.claims = True
    row = audit(memory(members), members, None, patterns=["half"], methods={"certain": certain}).rows[0]
    counts = [row[f"num_certified{which}"] for which in ("", "_true", "_recovered")]
    assert (counts, CERTIFIED_DB) == ([3, 2, 1], 25.0)
    assert row["certification"]["source"] == "the method itself"

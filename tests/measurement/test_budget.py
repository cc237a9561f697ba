"""What an audit will cost is told from sizes, paces and own errors alone; what is too much is cut in a fixed order."""

import warnings

import numpy as np
import pytest
import torch

from lightning_memaudit import audit
from lightning_memaudit.measurement import budget
from lightning_memaudit.measurement.budget import (
    FEWEST_EVALUATIONS,
    FEWEST_IMAGES,
    bounded_plan,
    bounds_for,
)
from lightning_memaudit.measurement.choice import choose_indices
from lightning_memaudit.measurement.costs import Costs
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.estimate import Estimate, Experience
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.measured_work import LEAST_ANSWERING_DB, MEASURED
from lightning_memaudit.measurement.pace import Line, Pace, measure_pace
from lightning_memaudit.measurement.plan import DEFAULT_METHODS, Plan
from lightning_memaudit.measurement.workload import Work, work_of
from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.results.cost import Bounds, Cut

SIZES = {"members": 100, "controls": 100}


def pace(seconds=1e-3, own=55.0, gradient=None, inpainting=0.0, call=0.0):
    inpainted = {(name, "biharmonic"): inpainting for name in ("random-0.5", "block-0.25", "half")}
    own = {"members": own, "controls": own}
    return Pace(Line(call, seconds), gradient, Line(0.0, 0.0), inpainted, own, image_bytes=3072)


def per_evaluation(plan, sizes):
    """A second for every 100 evaluations that methods may spend, and for 10 starts of an extraction."""
    spent = sum(getattr(method, "max_evaluations", None) or 700 for method in plan.methods.values())
    return Estimate(sum(sizes.values()) * spent / 100 + plan.extraction / 10, 0, 0, 0, {}, {})


def test_seconds_are_those_of_the_evaluations_and_of_the_inpainter():
    plan = Plan.of(["random-0.5"], ["known_mask", "biharmonic"])
    found = Costs(pace(1e-3, own=60.0, inpainting=0.02)).estimate(plan, {"members": 40})
    assert found.cells["members", "random-0.5", "known_mask"] == pytest.approx(40 * 29e-3)  # recovered with one penalty
    assert found.cells["members", "random-0.5", "biharmonic"] == pytest.approx(40 * 0.02)
    assert found.num_evaluations == pytest.approx(40 * 29)
    assert found.seconds == pytest.approx(40 * (0.029 + 0.02 + 0.004))


def test_processes_share_the_images_but_not_the_calls():
    plan = Plan.of(["random-0.5"], ["known_mask"])
    for kind, share in (({"seconds": 1e-3}, 0.5), ({"seconds": 0.0, "call": 0.01}, 1.0)):
        one, two = (Costs(pace(**kind), num_shares=n).estimate(plan, {"members": 40}).seconds for n in (1, 2))
        assert two == pytest.approx(share * one)


def test_images_of_many_conditions_take_a_call_each():
    plan, slow_calls = Plan.of(["random-0.5"], ["known_mask"]), pace(seconds=0.0, call=0.01)
    together, apart = (
        Costs(slow_calls, num_conditions={"members": n}).estimate(plan, {"members": 40}).seconds for n in (1, 40)
    )
    assert apart == pytest.approx(40 * together)


def test_the_next_audit_is_told_by_what_the_last_one_took():
    plan, costs = Plan.of(["half"], ["known_mask", "biharmonic"]), Costs(pace(1e-3, inpainting=0.5))
    raw = costs.estimate(plan, {"members": 10})
    cells = [cell("members", "half", "known_mask", 3 * raw.cells["members", "half", "known_mask"], 10 * [200])]
    known = Experience()
    known.learn(raw, cells, seconds=cells[0].seconds + 1.0, num_shares=1)
    found = costs.estimate(plan, {"members": 10}, known)
    assert found.cells["members", "half", "known_mask"] == pytest.approx(cells[0].seconds)
    assert found.num_evaluations == pytest.approx(2000)
    assert found.cells["members", "half", "biharmonic"] == 0.0, "it is kept for the next audit of the same images"
    assert found.seconds < raw.seconds


def cell(group, pattern, method, seconds, evaluations):
    from lightning_memaudit.results.cells import Cell

    return Cell(group, pattern, method, {"num_evaluations": np.array(evaluations)}, seconds)


def test_the_table_is_read_between_what_was_measured():
    rows = MEASURED["search"]["apart"]
    low, high = rows[0.75], rows[0.9]
    method = BlindRecovery()
    for share, expected in ((0.75, low), (0.9, high)):
        for own, *work in expected:
            # One that reproduces nothing may answer all the same, or be given up: as those in the table were.
            answers = own >= LEAST_ANSWERING_DB
            found = work_of(method, parse_degradation(f"random-{share}"), own, gradients=True, answers=answers)
            assert found == pytest.approx(Work(*work))
        assert work_of(method, parse_degradation(f"random-{share}"), 6.0, True, answers=True).evaluations > 80
    between = work_of(method, parse_degradation("random-0.8"), 18.2, gradients=True).evaluations
    ends = [work_of(method, parse_degradation(f"random-{share}"), 18.2, True).evaluations for share in (0.75, 0.9)]
    assert between == pytest.approx(ends[0] + (ends[1] - ends[0]) / 3)


@pytest.mark.parametrize("pattern", ["random-0.9+noise-0.05", "random-0.9+fill-noise"])
def test_a_blind_search_without_a_mask_to_rely_on_takes_no_gradients(pattern):
    degradation = parse_degradation(pattern)
    assert work_of(BlindRecovery(), degradation, 15.0, gradients=True).gradients == 0
    assert work_of(KnownMaskRecovery(), degradation, 15.0, gradients=True).gradients > 0


def test_every_kind_of_work_is_told_within_a_factor_of_what_it_is():
    """Of an autoencoder that remembers, and of one that returns noise: counts, no times."""
    stored = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    others = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(1))

    def memory(x):
        return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]

    cost = audit(memory, stored, others, patterns=["random-0.5"], methods=["blind", "known_mask", "biharmonic"]).cost
    assert 1 / 2 < cost["estimated_num_evaluations"] / cost["num_evaluations"] < 2
    assert cost["seconds"] > 0
    assert cost["estimated_seconds"] > 0
    assert cost["cuts"] == []


def test_the_pace_is_that_of_the_autoencoder(monkeypatch):
    """By a clock that counts images: ten ticks for a call and one for every image in it."""
    ticks = [0.0]

    def f(images):
        if not torch.is_grad_enabled():
            ticks[0] += 10 + len(images)
        return images * 0.5

    monkeypatch.setattr("lightning_memaudit.measurement.pace.time.perf_counter", lambda: ticks[0])
    monkeypatch.setattr("lightning_memaudit.measurement.pace.PATIENCE", 1e9)
    found = measure_pace(f, [Group.whole("members", torch.rand(5, 1, 8, 8))], Plan.of(["half"], ["known_mask"]))
    assert found.forward == pytest.approx(Line(10.0, 1.0))
    assert found.own_psnr["members"] < 20


def test_an_autoencoder_that_fails_has_no_pace():
    def broken(images):
        raise RuntimeError("no")

    assert measure_pace(broken, [Group.whole("members", torch.rand(5, 1, 8, 8))], Plan.of()) is None


# What is cut


def test_images_go_first_then_evaluations_then_starts():
    plan = Plan.of(["half"], ["blind", "biharmonic"], extraction=1000, max_seconds=500)

    def cuts(seconds):
        bounds = bounds_for(
            Plan.of(["half"], ["blind"], extraction=1000, max_seconds=seconds), SIZES, per_evaluation, 32
        )
        return {cut.argument: cut.used for cut in bounds.cuts}

    assert cuts(2000) == {}
    assert cuts(800) == {"num_members": 50, "num_controls": 50}
    assert cuts(260) == {"num_members": 20, "num_controls": 20, "max_evaluations": 400}
    last = cuts(50)
    assert last == {"num_members": 20, "num_controls": 20, "max_evaluations": FEWEST_EVALUATIONS, "extraction": 260}
    assert bounded_plan(plan, Bounds((Cut("extraction", 1000, 260),))).extraction == 260


def test_the_smallest_audit_runs_and_says_so():
    plan = Plan.of(["half"], ["blind"], max_seconds=1)
    bounds = bounds_for(plan, SIZES, per_evaluation, 32)
    assert {cut.argument: cut.used for cut in bounds.cuts} == {
        "num_members": FEWEST_IMAGES,
        "num_controls": FEWEST_IMAGES,
        "max_evaluations": FEWEST_EVALUATIONS,
    }
    assert not bounds.is_kept
    assert "above max_seconds=1" in bounds.sentence


def test_groups_that_are_small_are_not_cut_and_equal_numbers_are_kept():
    plan = Plan.of(["half"], ["blind"], max_seconds=400)
    bounds = bounds_for(plan, {"members": 100, "controls": 12}, per_evaluation, 32)
    assert {cut.argument: cut.used for cut in bounds.cuts} == {"num_members": 45}
    assert not bounds_for(Plan.of(["half"], ["blind"]), SIZES, per_evaluation, 32).cuts


@pytest.mark.parametrize(
    ("side", "methods", "seconds", "used"),
    [
        (128, None, 601.0, ("blind", "biharmonic")),
        (127, None, 601.0, None),
        (256, None, 599.0, None),
        (256, list(DEFAULT_METHODS), 601.0, None),
    ],
)
def test_large_images_get_cheaper_methods_unless_the_user_has_chosen(side, methods, seconds, used):
    plan = Plan.of(["half"], methods)
    bounds = bounds_for(plan, SIZES, lambda plan, sizes: Estimate(seconds, 0, 0, 0, {}, {}), side)
    assert [cut.used for cut in bounds.cuts] == ([] if used is None else [used])
    assert list(bounded_plan(plan, bounds).methods) == list(used or methods or DEFAULT_METHODS)
    blurred = Plan.of(["half", "blur-1"], methods)
    assert not bounds_for(blurred, SIZES, lambda plan, sizes: Estimate(seconds, 0, 0, 0, {}, {}), side).cuts


@pytest.mark.parametrize("value", [0, -5, 0.5, float("nan"), float("inf"), True, "60"])
def test_what_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(ValueError, match=r"max_seconds=.*: must be at least 1"):
        Plan.of(max_seconds=value)


def test_an_audit_that_would_take_too_long_is_that_of_fewer_images(monkeypatch):
    members, controls = torch.rand(2, 40, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def f(images):
        return images * 0.5

    plan = {"patterns": ["half"], "methods": ["known_mask", "biharmonic"], "seed": 3}
    whole = audit(f, members, controls, **plan)
    assert whole.cost["cuts"] == []
    monkeypatch.setattr(budget, "measure_pace", lambda *_: pace(seconds=0.01, own=6.0))
    with pytest.warns(UserWarning, match="Cut before it began"):
        report = audit(f, members, controls, max_seconds=1, **plan)
    used = {cut["argument"]: cut["used"] for cut in report.cost["cuts"]}
    assert used == {"num_members": 20, "num_controls": 20, "max_evaluations": FEWEST_EVALUATIONS}
    rows = choose_indices(40, 20, seed=3)
    assert [row["image"] for row in report.images if row["group"] == "members"] == rows * 2
    assert [row["position"] for row in report.images][:20] == list(range(20))
    assert {row["num_images"] for row in report.rows} == {20}
    assert report.cost["sentence"] in report.verdict.cautions
    assert report.cost["estimated_seconds"] > 1
    bounded = {"known_mask": KnownMaskRecovery(max_evaluations=FEWEST_EVALUATIONS), "biharmonic": "biharmonic"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = audit(f, members[rows], controls[rows], **plan | {"methods": bounded})
    assert [row["recovery_rate"] for row in same.rows] == [row["recovery_rate"] for row in report.rows]
    assert [row["psnr"] for row in same.images] == [row["psnr"] for row in report.images]

"""The cost of an audit where no table knows it: told from the first plain iterations, and from a few images."""

from dataclasses import replace

import pytest
import torch
from observations import uniform
from torch import nn

from lightning_memaudit import audit
from lightning_memaudit.measurement import costs
from lightning_memaudit.measurement.costs import Costs
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.pace import Line, Pace
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.probe import Probe, plain_iterations, probe
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.measurement.workload import Work
from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.recovery.methods.registry import recover

SIZES = {"members": 100, "controls": 100}


def group(number=12, side=8):
    return Group.whole("members", uniform((number, 3, side, side)))


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1)).eval()


def slow(per_image=0.05, call=0.0):
    return Pace(Line(call, per_image), None, Line(0.0, 0.0), {}, {"members": 20.0, "controls": 15.0}, image_bytes=3072)


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.8, 0.95, -0.9, 1.0])
def test_plain_iterations_are_told_from_the_first_ones(factor):
    """Towards a fixed point by a constant factor; with a factor of 1 nothing moves."""
    images, method = group(), AutoencoderIterations()

    def f(x):
        return 0.5 + factor * (x - 0.5)

    told = plain_iterations(f, [images], Plan.of(["half"], ["autoencoder_iterations"]))["members"].forwards
    taken = float(method(f, images.images[:8]).num_evaluations.double().mean())
    assert told == pytest.approx(taken, abs=method.check_every)


def test_what_never_settles_takes_all_iterations_or_what_it_takes_to_see_that_it_wanders():
    going, endless = AutoencoderIterations(), AutoencoderIterations(wandering=0)
    turn, without, exact = (
        plain_iterations(lambda x: x.flip(-1), [group()], Plan.of(["half"], {"iterations": method}))
        for method in (going, endless, AutoencoderIterations(tolerance=0.0))  # without a tolerance nothing stops early
    )
    assert without == exact == {"members": Work(200.0, 200.0)}
    assert turn == {"members": Work(75.0, 75.0)}
    taken = going(lambda x: x.flip(-1), group().images).num_evaluations
    assert (taken >= 50).all()
    assert (taken <= 75).all()
    assert plain_iterations(torch.clone, [group()], Plan.of(["half"], ["known_mask"])) == {}


@pytest.mark.parametrize("error", [ValueError, AuditStopped])
@pytest.mark.parametrize("look", [plain_iterations, lambda *arguments: probe(*arguments, 2)])
def test_only_the_end_of_the_processes_is_an_error(error, look):
    def fails(x):
        raise error("no")

    plan = Plan.of(["half"], ["known_mask", "autoencoder_iterations"])
    if error is ValueError:
        assert look(fails, [group()], plan) in ({}, Probe(2))
    else:
        with pytest.raises(AuditStopped):
            look(fails, [group()], plan)


def test_a_probe_tells_what_the_recoveries_of_these_images_take():
    images, network = group(), convolutional()
    plan = Plan.of(["random-0.5", "block-0.5"], ["blind", "paper_blind", "known_mask", "biharmonic"])
    told = probe(network, [images], plan, number=3).evaluations
    assert len(told) == 6, "the inpainter calls no autoencoder"
    for (_, pattern, name), evaluations in told.items():
        degradation = next(one for one in plan.patterns if one.name == pattern)
        degraded = degradation(images.images[:3], range(3), plan.seed)
        method = plan.methods[name]
        if name == "blind":
            method = replace(method, certification=None)
        taken = recover(method, network, degraded.observed, degraded.mask).num_evaluations
        assert evaluations == pytest.approx(float(taken.double().mean()))


def test_a_long_audit_is_probed_where_that_costs_little_beside_it():
    plan = Plan.of(["random-0.5", "block-0.25"], ["blind"])
    assert Costs(slow()).num_probed(plan, SIZES) == 4  # of 100
    assert Costs(slow()).num_probed(plan, {"members": 12, "controls": 12}) == 1
    assert Costs(slow()).num_probed(plan, {"members": 8, "controls": 8}) == 0, "one is more than a tenth"
    assert Costs(slow(0.0, call=1.0)).num_probed(plan, SIZES) == 0, "calls for few images cost as much as for all"
    assert Costs(slow(1e-5)).num_probed(plan, SIZES) == 0, "it takes no ten seconds"


def many(evaluations, certifiable=None):
    """As shown by so many images that what they show is all that counts."""
    return Probe(10**9, evaluations, certifiable or {})


def test_what_a_probe_has_shown_counts_up_to_the_most_that_a_method_may_take():
    plan, costs = Plan.of(["half"], ["blind", "paper_blind"]), Costs(slow())
    before = costs.estimate(plan, {"members": 10}).evaluations
    key, other = ("members", "half", "blind"), ("members", "half", "paper_blind")
    twice = costs.with_probe(plan, many({key: 2 * before[key] / 10})).estimate(plan, {"members": 10})
    assert twice.evaluations[key] == pytest.approx(min(2 * before[key], 10 * 700))
    assert twice.evaluations[other] == pytest.approx(before[other])
    most = costs.with_probe(plan, many({key: 1e6, other: 1e6})).estimate(plan, {"members": 10}).evaluations
    assert most == {key: pytest.approx(7000), other: pytest.approx(2020)}
    again = replace(costs.with_probe(plan, many({key: 1.0})), costliest=True)
    assert again.estimate(plan, {"members": 10}) == replace(costs, costliest=True).estimate(plan, {"members": 10})


def test_few_images_show_less_of_one_pattern_than_of_all_together():
    """By hand: of two ratios of 4 and 1, one image leaves a third of each, and half of their mean in what is left."""
    plan, costs = Plan.of(["half", "block-0.5"], ["paper_blind"]), Costs(slow())
    keys = [("members", name, "paper_blind") for name in ("half", "block-0.5")]
    before = costs.estimate(plan, {"members": 1}).evaluations
    shown = {keys[0]: 4 * before[keys[0]], keys[1]: before[keys[1]]}
    after = costs.with_probe(plan, Probe(1, shown)).estimate(plan, {"members": 1}).evaluations
    assert [after[key] / before[key] for key in keys] == pytest.approx([4 ** (1 / 3) * 2 ** (1 / 3), 2 ** (1 / 3)])


def test_turned_copies_are_counted_on_where_a_few_images_may_be_certified():
    plan, sizes, name = Plan.of(["half"], ["blind"]), {"members": 20, "controls": 20}, ("half", "blind")
    costs = Costs(replace(slow(), own_psnr={"members": 30.0, "controls": 15.0}))
    evaluations = {("members", *name): 100.0}
    none, unknown, some = (
        costs.with_probe(plan, many(evaluations, shown)).estimate(plan, sizes).seconds
        for shown in ({name: False}, {}, {name: True})
    )
    assert none < unknown < some
    untrained = Costs(replace(slow(), own_psnr={"members": 5.0, "controls": 5.0}))
    without, with_none = untrained, untrained.with_probe(plan, Probe(4, {}, {name: False}))
    assert with_none.estimate(plan, sizes) == without.estimate(plan, sizes)


@pytest.mark.parametrize("stored", [True, False])
def test_a_probe_tells_whether_members_may_be_certified(stored):
    """A memory of the members certifies them, one that gives grey for everything nothing."""
    members = uniform((6, 1, 8, 8))
    groups = [Group.whole("members", members), Group.whole("controls", uniform((6, 1, 8, 8), 1))]

    def f(x):
        nearest = torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)
        return members[nearest] if stored else torch.full_like(x, 0.5)

    shown = probe(f, groups, Plan.of(["half"], ["blind", "known_mask"]), 3).certifiable
    assert shown == {("half", "blind"): stored}


def test_a_probed_audit_finds_the_same_and_tells_more_truly(monkeypatch):
    members, controls = uniform((12, 3, 16, 16)), uniform((12, 3, 16, 16), 1)
    how = {"patterns": ["random-0.5"], "methods": ["blind", "autoencoder_iterations"], "save_recoveries": 0}
    without = audit(convolutional(), members, controls, **how)
    monkeypatch.setattr(costs, "WORTH_PROBING", 0.0)
    monkeypatch.setattr(costs, "LEAST_PROBING_SHARE", 1e9)
    probed = audit(convolutional(), members, controls, **how)
    assert [row["num_evaluations"] for row in probed.rows] == [row["num_evaluations"] for row in without.rows]
    assert [row["psnr_mean"] for row in probed.rows] == [row["psnr_mean"] for row in without.rows]
    made = probed.cost["num_evaluations"]
    assert probed.cost["estimated_num_evaluations"] == pytest.approx(made, rel=0.25)

"""Several patterns in one batch, and nothing searched twice: what is found is the same."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from autoencoders import associative, memory

from lightning_memaudit.measurement import beside
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.inpainting_cache import InpaintingCache
from lightning_memaudit.measurement.measure import measure, measure_groups
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.together import Observations, recover_together
from lightning_memaudit.recovery import AutoencoderIterations, BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting
from lightning_memaudit.recovery.methods.registry import METHODS


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def degrade(images, name):
    return parse_degradation(name)(images, range(len(images)), 0)


FIELDS = ("image", "mask", "score", "num_evaluations", "expected_error", "gain", "certified")


def assert_same(found, expected, fields=FIELDS):
    for name in fields:
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["blind", "paper_blind", "known_mask", "autoencoder_iterations"])
def test_patterns_together_are_found_as_one_by_one(images, name):
    """In double precision: in single it depends on the processor's rounding where a recovery that wanders stops."""
    images = images.double()
    method, autoencoder = METHODS[name](), associative(images[:6])
    degraded = [degrade(images, one) for one in ("random-0.5", "block-0.25", "random-0.9")]
    controls = torch.zeros(len(images), dtype=torch.bool)
    together = recover_together(
        method, autoencoder, [Observations(str(number), one, controls) for number, one in enumerate(degraded)]
    )
    for one, part in zip(together, degraded, strict=True):
        alone = method(autoencoder, part.observed, part.mask) if name == "known_mask" else method(autoencoder, part[0])
        spent, expected = one.recovery.num_evaluations, alone.num_evaluations
        assert_same(one.recovery, alone, set(FIELDS) - {"num_evaluations"})
        assert torch.equal(spent[:6], expected[:6])
        # Of images that were not stored the best is soon found, and rounding says when nothing better comes.
        assert ((spent <= 2 * expected) & (expected <= 2 * spent)).all()
        calibrations = [recovery.calibration for recovery in (one.recovery, alone) if recovery.calibration]
        thresholds = [calibration.threshold for calibration in calibrations]
        assert len(thresholds) in (0, 2)
        assert thresholds == pytest.approx(thresholds[::-1], rel=1e-9)
        assert len({replace(calibration, threshold=None) for calibration in calibrations}) <= 1


def test_the_inpainter_fills_all_sets_at_once_and_the_time_is_shared_by_images(images):
    method = BiharmonicInpainting()
    parts = [degrade(images[:6], "random-0.5"), degrade(images[6:], "random-0.5"), degrade(images[:6], "block-0.25")]
    sets = [Observations("any", part, torch.zeros(len(part.observed), dtype=torch.bool)) for part in parts]
    found = recover_together(method, torch.clone, sets)
    for part, one in zip(parts, found, strict=True):
        torch.testing.assert_close(one.recovery.image, method(torch.clone, *part[:2]).image, atol=1e-6, rtol=0)
    numbers = [len(part.observed) for part in parts]
    each = [one.seconds / number for one, number in zip(found, numbers, strict=True)]
    assert each[0] > 0
    assert each == pytest.approx(each[:1] * 3)


def test_the_controls_of_a_pattern_count_towards_its_threshold(images):
    """Of two controls one is as good as stored: no member scores lower than it, under the patterns where it counts."""
    stored, controls = images[:6], torch.cat([images[:1], images[6:7]])
    counting = {"random-0.5": [True, True], "block-0.25": [False, True]}
    sets = [
        Observations(pattern, degrade(part, pattern), torch.tensor(which))
        for pattern, counted in counting.items()
        for part, which in ((stored, [False] * 6), (controls, counted))
    ]
    members, _, others, _ = recover_together(BlindRecovery(), memory(stored), sets)
    assert int(members.recovery.certified.sum()) <= 1, "at most the one that scores even lower"
    assert others.recovery.certified.all()
    assert others.recovery.calibration.num_controls == 99


def test_the_known_mask_takes_over_what_blind_searched_alike_and_finds_the_rest_itself(images):
    images = images.clone()
    images[3, :, 5, 5] = 0  # taken for missing too
    images[7] = 0.6  # one colour: more than one value may be the fill
    degraded, calls = degrade(images, "random-0.5"), []

    def counted(batch):
        calls.append(len(batch))
        return memory(images[:6])(batch)

    for one in (degraded, degraded._replace(observed=degraded.observed.clone())):
        blind = BlindRecovery()(counted, one.observed)
        calls.clear()
        found = KnownMaskRecovery().after([(BlindRecovery(), blind)], counted, *one[:2])
        spent_after = sum(calls)
        calls.clear()
        expected = KnownMaskRecovery()(counted, one.observed, one.mask)
        assert_same(found, expected)
        assert torch.equal(found.image, expected.image)
        assert spent_after < 0.4 * sum(calls)
        assert not found.certified.any()
        assert found.calibration is None


@pytest.mark.parametrize(
    "blind",
    [
        BlindRecovery(max_evaluations=100),
        BlindRecovery(gradients="never"),
        BlindRecovery(noise=0.1),
        BlindRecovery("posterior"),
        BlindRecovery("least_squares", penalties=(0.1,)),
        AutoencoderIterations(),
    ],
)
def test_what_was_searched_otherwise_is_not_taken_over(images, blind):
    degraded = degrade(images, "random-0.5")
    before = blind(associative(images[:6]), degraded.observed)
    expected = KnownMaskRecovery()(associative(images[:6]), degraded.observed, degraded.mask)
    changed = before._replace(image=torch.zeros_like(before.image))
    found = KnownMaskRecovery().after([(blind, changed)], associative(images[:6]), degraded.observed, degraded.mask)
    assert torch.equal(found.image, expected.image)


def test_a_mask_per_channel_in_the_batch_changes_nothing_for_the_others(images):
    shared, own = degrade(images, "random-0.5"), torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    observed = torch.cat([shared.observed, images[:1] * (own > 0.5)])
    alone, among = (BlindRecovery(certification=None)(memory(images[:6]), one) for one in (shared.observed, observed))
    assert (among.mask.shape[1], alone.mask.shape[1]) == (3, 1)
    assert torch.equal(among.image[:-1], alone.image)
    assert torch.equal(among.score[:-1], alone.score)
    mask = torch.cat([shared.mask, torch.ones_like(shared.mask[:1])])
    found = KnownMaskRecovery().after([(BlindRecovery(certification=None), among)], memory(images[:6]), observed, mask)
    assert_same(found, KnownMaskRecovery()(memory(images[:6]), observed, mask))


def test_a_method_that_fails_on_one_pattern_is_measured_on_the_others(images, monkeypatch):
    call = AutoencoderIterations.__call__

    def breaks_where_much_is_missing(method, autoencoder, observed):
        if bool(((observed == 0).flatten(1).float().mean(1) > 0.8).any()):
            raise RuntimeError("too much is missing")
        return call(method, autoencoder, observed)

    monkeypatch.setattr(AutoencoderIterations, "__call__", breaks_where_much_is_missing)
    names = ["random-0.5", "random-0.9"]
    plan = Plan.of(names, ["autoencoder_iterations", "biharmonic"], raise_errors=False)
    with pytest.warns(UserWarning, match=r"autoencoder_iterations failed on members, random-0\.9: .*too much"):
        cells = measure(memory(images), Group.whole("members", images), plan).cells
    failed = {(cell.pattern, cell.method): bool(cell.columns["failed"].all()) for cell in cells}
    assert failed == {
        (name, method): (name, method) == ("random-0.9", "autoencoder_iterations")
        for name in names
        for method in plan.methods
    }


@pytest.mark.parametrize("processors", [1, 2])
def test_the_inpainter_beside_the_others_finds_what_it_finds_alone(monkeypatch, processors):
    monkeypatch.setattr(beside, "_num_processors", lambda: processors)
    images = torch.rand(3, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    threads, inpainter = set(), METHODS["biharmonic"]()

    class Watched(type(inpainter)):
        def __call__(self, autoencoder, observed, mask):
            threads.add(threading.current_thread().name)
            return super().__call__(autoencoder, observed, mask)

    plan = Plan.of(["block-0.25", "random-0.5"], {"autoencoder_iterations": "autoencoder_iterations"})
    plan = replace(plan, methods={**plan.methods, "biharmonic": Watched()})
    cache = InpaintingCache()
    measured = measure(memory(images), Group.whole("members", images), plan, cache)
    assert threads == ({"MainThread"} if processors == 1 else {"inpainting_0"})
    for pattern in plan.patterns:
        degraded = degrade(images, pattern.name)
        expected = inpainter(torch.clone, *degraded[:2])
        image = measured.recoveries[f"members/{pattern.name}/biharmonic/image"]
        assert torch.equal(torch.from_numpy(image), expected.image)
    threads.clear()
    measure(memory(images), Group.whole("members", images), plan, cache)
    assert not threads


def test_an_error_of_the_inpainter_beside_is_its_own(monkeypatch):
    monkeypatch.setattr(beside, "_num_processors", lambda: 2)

    def breaks(inpainter, autoencoder, observed, mask):
        raise FloatingPointError("singular")

    monkeypatch.setattr(BiharmonicInpainting, "__call__", breaks)
    images = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    plan = Plan.of(["block-0.25"], ["autoencoder_iterations", "biharmonic"])
    with pytest.raises(FloatingPointError, match="singular"):
        measure(memory(images), Group.whole("members", images), plan)
    assert not any("inpainting" in thread.name for thread in threading.enumerate())


def test_another_method_of_the_inpainters_name_is_left_alone(monkeypatch):
    monkeypatch.setattr(beside, "_num_processors", lambda: 2)
    methods = {"biharmonic": KnownMaskRecovery()}
    images = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    with beside.inpainting_beside(methods, [degrade(images, "block-0.25")]) as given:
        assert given is methods


def columns_of(measured):
    return {(cell.group, cell.pattern, cell.method): cell.columns for cell in measured.cells}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_members_and_controls_together_are_measured_as_one_by_one(images, conditional, number):
    calls = []

    class Given:
        def given(self, condition):
            return memory(images[:6] * condition)

    def counted(batch):
        calls.append(len(batch))
        return memory(images[:6])(batch)

    autoencoder = Given() if conditional else counted
    groups = [
        Group.whole(name, part, conditions=[0.5 + row % 2 / 2 for row in range(len(part))] if conditional else None)
        for name, part in (("members", images[:6]), ("controls", images[6 : 6 + number]))
    ]
    plan = Plan.of(["random-0.5", "block-0.25"], ["blind", "known_mask", "autoencoder_iterations", "biharmonic"])
    plan = replace(plan, block_size=4)
    told = []
    together = measure_groups(autoencoder, groups, plan, progress=lambda *what: told.append(what))
    calls_together = len(calls)
    one_by_one = [measure(autoencoder, group, plan) for group in groups]
    for mine, alone in zip(together, one_by_one, strict=True):
        assert columns_of(mine).keys() == columns_of(alone).keys()
        for key, columns in columns_of(alone).items():
            for name, values in columns.items():
                found = columns_of(mine)[key][name]
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(found, values, atol=1e-4, rtol=1e-3, err_msg=f"{key} {name}")
                else:
                    assert (found == values).all(), (key, name)
        assert mine.recoveries.keys() == alone.recoveries.keys()
        assert (mine.num_images, mine.error_sum) == (alone.num_images, pytest.approx(alone.error_sum))
    assert sum(count for _, count in told) == (6 + number) * len(plan.patterns) * len(plan.methods)
    assert conditional or number == 0 or calls_together < len(calls) - calls_together


def test_a_method_that_fails_on_the_controls_is_measured_on_the_members(images, monkeypatch):
    call = AutoencoderIterations.__call__
    controls = images[6:].clone()
    controls[0] += 10

    def breaks_on_bright_images(method, autoencoder, observed):
        if bool((observed > 5).any()):
            raise RuntimeError("too bright")
        return call(method, autoencoder, observed)

    monkeypatch.setattr(AutoencoderIterations, "__call__", breaks_on_bright_images)
    plan = Plan.of(["random-0.5"], ["autoencoder_iterations"], raise_errors=False)
    groups = [Group.whole("members", images[:6]), Group.whole("controls", controls)]
    with pytest.warns(UserWarning, match=r"failed on controls, random-0\.5: .*too bright"):
        members, others = measure_groups(memory(images[:6]), groups, plan)
    assert not members.cells[0].columns["failed"].any()
    assert others.cells[0].columns["failed"].all()
    with pytest.raises(RuntimeError, match="too bright"):
        measure_groups(memory(images[:6]), groups, replace(plan, raise_errors=True))


def test_the_audited_method_with_the_identity_costs_one_evaluation(images):
    degraded, calls = degrade(images, "random-0.5"), []

    def identity(batch):
        calls.append(len(batch))
        return batch.clone()

    found = KnownMaskRecovery(gradients="never")(identity, degraded.observed, degraded.mask)
    assert found.num_evaluations.tolist() == [3] * len(images)  # and two for the gain
    assert sum(calls) == 3 * len(images)
    torch.testing.assert_close(found.image, interpolate(degraded.observed, degraded.mask))
    assert (found.score == 0).all()

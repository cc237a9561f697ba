"""Certificates: the false rate that a calibration claims holds, and copying earns none."""

from dataclasses import replace

import pytest
import torch
from autoencoders import associative, linear
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    BlindRecovery,
    calibrate,
    certify,
    turned_copies,
)
from lightning_memaudit.recovery import copies as copies_of_sets
from lightning_memaudit.recovery.certification import is_certified, noise_gain
from lightning_memaudit.recovery.copies import Uncertified


@pytest.fixture
def searched(monkeypatch):
    """The number of images of every search that :class:`BlindRecovery` has begun."""
    sizes = []
    call = BlindRecovery.__call__

    def counted(method, autoencoder, images):
        sizes.append(len(images))
        return call(method, autoencoder, images)

    monkeypatch.setattr(BlindRecovery, "__call__", counted)
    return sizes


def test_a_calibration_is_refused_where_too_few_controls_could_claim_the_rate():
    scores = torch.linspace(0.01, 0.1, 98)
    refused = calibrate(scores)
    assert refused.threshold is None
    assert "99" in refused.reason
    granted = calibrate([*scores.tolist(), float("inf")])
    assert granted.threshold == pytest.approx(0.01)
    assert granted.false_rate <= 0.01
    low, high = granted.interval
    # Clopper and Pearson: the largest rate at which none of 99 has at least a chance of 2.5%.
    assert (low, (1 - high) ** 99) == pytest.approx((0.0, 0.025))
    assert calibrate([]).threshold is None


def test_the_threshold_holds_its_rate_on_exchangeable_scores():
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(20_000, 100, generator=generator) ** 3
    false = scores[:, 99] < scores[:, :99].min(1).values
    assert float(false.double().mean()) == pytest.approx(calibrate(scores[0, :99]).false_rate, abs=0.003)


def test_certificates_are_for_stored_images_only():
    stored, strangers = smooth_images(20), smooth_images(20, seed=20)
    observed, _ = hide(torch.cat([stored, strangers]))
    recovery = BlindRecovery()(associative(stored), observed)
    assert recovery.calibration.num_controls == 99
    assert recovery.certified.tolist() == [True] * 20 + [False] * 20
    controls = BlindRecovery(certification=None)(associative(stored), hide(smooth_images(120, seed=21))[0])
    assert certify(recovery, calibrate(controls.score)).certified.tolist() == [True] * 20 + [False] * 20
    assert not certify(recovery, calibrate(controls.score[:50])).certified.any()


def test_a_certificate_takes_more_where_the_autoencoder_may_be_copying():
    score = torch.tensor([0.02, 0.02, 0.0005, 0.02, 0.2])
    error = torch.tensor([0.001, 0.001, 0.001, 0.01, 0.001])
    gain = torch.tensor([0.1, 0.9, 0.9, 0.1, 0.1])
    calibration = calibrate([0.1] * 99)
    assert is_certified(score, error, gain, calibration).tolist() == [True, False, True, False, False]


def test_no_copy_is_searched_where_a_control_scores_as_low_as_what_might_be_certified():
    stored = smooth_images(4)
    observed, _ = hide(stored)
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    calls = []

    def counted(images):
        calls.append(len(images))
        return associative(stored)(images)

    for lowest, certified in ((float(recovery.score.min()), 0), (1.0, 4)):
        found = BlindRecovery().certify(counted, observed, recovery, torch.tensor([lowest, 1.0]))
        assert int(found.certified.sum()) == certified
        assert bool(calls) == bool(certified)


@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_an_autoencoder_that_copies_certifies_nothing(factor):
    observed, _ = hide(smooth_images(20), 0.3)
    recovery = BlindRecovery()(lambda images: factor * images, observed)
    assert not recovery.certified.any()


def test_the_noise_gain_of_a_linear_map_is_its_mean_squared_singular_value():
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) / 8
    gain = noise_gain(linear(matrix), torch.zeros(1, 1, 8, 8))
    assert float(gain) == pytest.approx(float(torch.linalg.svdvals(matrix).square().mean()), rel=0.4)


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
def test_turned_copies_hold_the_same_pixels_in_other_places(size):
    observed = uniform((3, 2, *size))
    copies = turned_copies(observed, 40)
    assert copies.shape == (40, 2, *size)
    for index, copy in enumerate(copies):
        original = observed[index % 3]
        assert not torch.equal(copy, original)
        torch.testing.assert_close(copy.flatten(1).sort(1).values, original.flatten(1).sort(1).values)


@pytest.mark.parametrize(("lowest", "copies"), [(0.5, 59), (0.0, 0)])
def test_turned_copies_make_up_for_the_controls_that_are_missing(monkeypatch, lowest, copies):
    stored, observed = smooth_images(6), hide(smooth_images(6))[0]
    autoencoder, method = associative(stored), BlindRecovery(max_evaluations=60)
    recovery = replace(method, certification=None)(autoencoder, observed)
    searched = []
    call = BlindRecovery.__call__

    def counted(method, autoencoder, images):
        found = call(method, autoencoder, images)
        searched.extend(found.score.tolist())
        return found

    monkeypatch.setattr(BlindRecovery, "__call__", counted)
    controls = torch.linspace(lowest, 1.0, 40)
    certified = method.certify(autoencoder, observed, recovery, torch.cat([controls, torch.tensor([torch.nan])]))
    assert len(searched) == copies
    assert certified.certified.tolist() == [copies > 0] * 6
    if copies:
        assert certified.calibration.threshold == pytest.approx(min(lowest, min(searched) / 2))
        assert (certified.calibration.num_controls, certified.calibration.false_rate) == (99, 0.01)
    else:
        assert "40 controls and turned copies, so nothing is certified" in certified.calibration.reason


@pytest.mark.parametrize(("score", "longest"), [(0.0, 500), (0.4, 29)])
def test_turned_copies_are_searched_no_longer_than_what_the_controls_leave_to_certify(monkeypatch, score, longest):
    observed = hide(smooth_images(6))[0]
    autoencoder, method = associative(smooth_images(6)), BlindRecovery()
    recovery = replace(method, certification=None)(autoencoder, observed)
    assert recovery.num_evaluations.tolist() == [29] * 6
    recovery.num_evaluations[0], recovery.score[0] = 500, score
    allowed = []
    call = BlindRecovery.__call__

    def watched(method, autoencoder, images):
        allowed.append(method.max_evaluations)
        return call(replace(method, max_evaluations=29), autoencoder, images)

    monkeypatch.setattr(BlindRecovery, "__call__", watched)
    controls = torch.linspace(0.3, 1.0, 90)
    certified = method.certify(autoencoder, observed, recovery, controls)
    assert allowed == [longest]
    assert certified.certified.tolist() == [score < 0.3] + [True] * 5


@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_a_few_turned_copies_tell_whether_the_others_can_matter(monkeypatch, searched, deviation):
    stored, observed = smooth_images(6), hide(smooth_images(6))[0]
    autoencoder = associative(stored)
    method = BlindRecovery(max_evaluations=60)
    recovery = method(autoencoder, observed)
    if deviation:  # scores that no threshold from copies would pass
        recovery = recovery._replace(score=recovery.score + deviation)
        searched.clear()
        recovery = method.certify(autoencoder, observed, recovery)
    first = [24, 75] if not deviation else [24]
    assert searched[-len(first) :] == first
    assert recovery.certified.tolist() == [not deviation] * 6
    assert recovery.calibration.num_controls == sum(first)
    if deviation:
        assert recovery.calibration.threshold is None
        assert "24 turned copies, so nothing is certified" in recovery.calibration.reason
        monkeypatch.setattr(copies_of_sets, "FIRST_COPIES", 99)
        assert not method.certify(autoencoder, observed, recovery).certified.any()


def test_copies_of_two_sets_are_searched_at_once_and_each_set_is_certified_by_its_own(searched):
    stored = smooth_images(6)
    autoencoder, method = associative(stored), BlindRecovery()
    alone = replace(method, certification=None)
    sets = []
    for share, lowest in ((0.5, 0.5), (0.7, 0.3), (0.5, 0.0)):  # the last has a control below all that was found
        observed, _ = hide(stored, share)
        sets.append(Uncertified(observed, alone(autoencoder, observed), torch.linspace(lowest, 1.0, 40)))
    expected = [method.certify(autoencoder, *one) for one in sets]
    searched.clear()
    together = method.certify_all(autoencoder, sets)
    assert searched == [2 * 59]
    for one, other in zip(together, expected, strict=True):
        assert torch.equal(one.certified, other.certified)
        assert one.calibration.source == other.calibration.source
        if other.calibration.threshold is None:
            assert one.calibration.threshold is None
        else:
            assert one.calibration.threshold == pytest.approx(other.calibration.threshold, rel=1e-3)
    assert [int(one.certified.sum()) for one in together] == [6, 6, 0]

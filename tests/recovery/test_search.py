"""The self-tuned search: its evaluations are bounded and counted, and go to the images that need them."""

import pytest
import torch
from autoencoders import associative
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    BlindRecovery,
    KnownMaskRecovery,
    Round,
    SelfTuning,
)
from lightning_memaudit.recovery.attempts import attempt_round
from lightning_memaudit.recovery.candidates import refine
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.mask_rules import known_mask
from lightning_memaudit.recovery.types import Problem


def test_no_image_depends_on_the_others_in_its_batch():
    strangers, mask = hide(smooth_images(6, seed=20), 0.7)
    strangers[3:] += ((1 - mask) * uniform(strangers.shape))[3:]
    autoencoder = associative(smooth_images(4))
    method = BlindRecovery(certification=None, tuning=SelfTuning(patience=9))
    together = method(autoencoder, strangers)
    alone = [method(autoencoder, strangers[row : row + 1]) for row in range(6)]
    torch.testing.assert_close(together.image, torch.cat([recovery.image for recovery in alone]), atol=1e-4, rtol=0)
    assert together.num_evaluations.tolist() == [int(recovery.num_evaluations) for recovery in alone]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfTuning(spread=1.5), "spread=1.5"),
        (lambda: SelfTuning(rounds=()), "rounds"),
        (lambda: SelfTuning(shares=(0.5, 1.0)), "shares"),
        (lambda: SelfTuning(refinements=0), "refinements=0"),
        (lambda: SelfTuning(starts=("interp",)), "interp"),
        (lambda: SelfTuning(max_gradients=0), "max_gradients=0"),
        (lambda: Round((), "random", 3), "penalties"),
        (lambda: Round((0.1,), "interp", 3), "start='interp'"),
        (lambda: Round((0.1,), "random", 0), "num_iterations=0"),
    ],
)
def test_a_tuning_that_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("max_evaluations", [5, 10, 17, 40])
def test_few_evaluations_are_not_divided_between_two_fills(max_evaluations):
    stored = smooth_images(3)
    stored[..., :8] = 1.0
    mask = (uniform((3, 1, 16, 16)) > 0.3).float()
    recovery = BlindRecovery(max_evaluations=max_evaluations)(lambda images: images, mask * stored)
    assert (recovery.num_evaluations <= max_evaluations).all()
    alone = BlindRecovery(max_evaluations=max_evaluations, certification=None)(lambda images: images, stored)
    assert (recovery.num_evaluations >= alone.num_evaluations.min()).all()


@pytest.mark.parametrize("budget", [5, 40, 150, 400])
@pytest.mark.parametrize("fill", [0.0, "noise"])
def test_evaluations_are_bounded_and_counted(budget, fill):
    stored, rows = smooth_images(4), []

    def autoencoder(images):
        rows.append(len(images))
        return associative(stored)(images)

    strangers, mask = hide(smooth_images(5, seed=20))
    if fill == "noise":
        strangers = strangers + (1 - mask) * uniform(strangers.shape)
    method = BlindRecovery(max_evaluations=budget, certification=None, gradients="never")
    recovery = method(autoencoder, strangers)
    assert recovery.num_evaluations.sum() == sum(rows)
    assert (recovery.num_evaluations <= budget).all()
    assert recovery.image.isfinite().all()


def test_images_that_are_recovered_leave_and_the_budget_goes_to_the_others():
    stored = smooth_images(4)
    observed, _ = hide(torch.cat([stored, smooth_images(4, seed=20)]))
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert recovery.num_evaluations[:4].max() < recovery.num_evaluations[4:].min()


def test_more_rounds_never_worsen_the_score():
    stored = smooth_images(6)
    observed, mask = hide(stored, 0.9)
    rounds = (Round((0.3,), "interpolated", 3), Round((0.1, 1.0), "random", 10))
    scores = [
        KnownMaskRecovery(tuning=SelfTuning(rounds=rounds, patience=9), max_evaluations=budget)(
            associative(stored), observed, mask
        ).score
        for budget in (12, 60, 200)
    ]
    assert (scores[0] >= scores[1]).all()
    assert (scores[1] >= scores[2]).all()


@pytest.mark.parametrize("gradients", [True, False])
def test_the_worse_an_image_stands_the_sooner_it_is_given_up(gradients):
    mask = torch.ones(4, 1, 16, 16)
    mask[..., :12] = 0  # three quarters are hidden, most of them far from what is observed
    patience = SelfTuning().patience_with(mask, gradients)
    rounds = patience.at(torch.tensor([1e-4, 0.005, 0.012, 10.0]), torch.arange(4)).tolist()
    assert rounds == ([6, 6, 5, 4] if gradients else [2, 2, 2, 2])
    random = torch.tensor([1.0, 0]).repeat(2, 1, 16, 8)  # no pixel is far from an observed one
    assert SelfTuning().patience_with(random, gradients).at(torch.tensor([1e-4, 1.0]), torch.arange(2)).tolist() == (
        [2, 1] if gradients else [2, 2]
    )


def test_what_is_hopeless_costs_less_and_what_comes_back_costs_the_same():
    stored, others = smooth_images(4), 1 - smooth_images(4, seed=9)
    observed, mask = hide(torch.cat([stored, others]), 0.9)
    patient = SelfTuning(doubtful_error=1e8, hopeless_error=1e9)
    methods = [KnownMaskRecovery(tuning=one) for one in (SelfTuning(), patient)]
    found, before = (method(associative(stored, 200.0), observed, mask) for method in methods)
    fewer = found.num_evaluations < before.num_evaluations
    assert fewer[4:].any()
    assert not fewer[:4].any()
    torch.testing.assert_close(found.image[:4], before.image[:4])


def test_errors_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"doubtful_error=0\.1: must be above 0 and below hopeless_error=0\.03"):
        SelfTuning(doubtful_error=0.1)


def found_with(first_alone, autoencoder, observed, mask, **settings):
    rounds = (Round((0.1, 0.3), "interpolated", 20), Round((0.03, 1.0), "autoencoder", 10))
    tuning = SelfTuning(rounds=rounds, first_penalty_alone=first_alone, hopeless_error=1e9)
    return KnownMaskRecovery(tuning=tuning, **settings)(autoencoder, observed, mask)


@pytest.mark.parametrize("gradients", ["auto", "never"])
def test_an_image_that_is_good_with_the_first_penalty_is_not_tried_with_the_others(gradients):
    stored = smooth_images(4)
    observed, mask = hide(torch.cat([stored, 1 - smooth_images(4, seed=9)]))
    alone, all_at_once = (
        found_with(first, associative(stored), observed, mask, gradients=gradients) for first in (True, False)
    )
    # 1 scores the start, 2 measure the gain; a penalty takes 20 iterations and 6 refinements.
    assert (alone.num_evaluations[:4] == 1 + 20 + 6 + 2).all()
    assert (all_at_once.num_evaluations[:4] == 1 + 2 * (20 + 6) + 2).all()
    assert (alone.expected_error[:4] < SelfTuning().good_error).all()
    torch.testing.assert_close(alone.image[:4], stored, atol=0.01, rtol=0)
    # The others are found as if all penalties had been tried at once.
    assert torch.equal(alone.num_evaluations[4:], all_at_once.num_evaluations[4:])
    torch.testing.assert_close(alone.image[4:], all_at_once.image[4:], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("max_evaluations", "used"), [(29, 29), (35, 29), (37, 37), (20, 20), (9, 3)])
def test_the_first_penalty_has_its_iterations_before_the_others_have_any(max_evaluations, used):
    """Of an image that does not come back; with 37 the second penalty has 2 iterations and 6 refinements."""
    observed, mask = hide(1 - smooth_images(1, seed=9))
    settings = {"max_evaluations": max_evaluations, "gradients": "never"}
    found = found_with(True, associative(smooth_images(4)), observed, mask, **settings)
    assert found.num_evaluations.tolist() == [used]


@pytest.mark.parametrize(("hopeless", "others"), [(torch.inf, [0, 1, 2, 3, 4, 5]), (0.03, [0, 1, 2, 5])])
def test_with_gradients_a_hopeless_image_is_not_tried_with_the_other_penalties(hopeless, others):
    """Three images are answered with a tenth more than they show, two with what has nothing to do with them.

    What the last is answered with is no number: with another penalty it might be.
    """
    shown, mask = hide(torch.cat([smooth_images(3), smooth_images(3, seed=20)]))
    sizes = []

    def autoencoder(images):
        sizes.append(len(images))
        answers = images + 0.1
        answers[3:5] = 1 - answers[3:5]
        answers[-1] = torch.nan
        return answers

    problem, tuning = Problem.whole(shown, mask, torch.zeros(6)), SelfTuning()
    start = refine(autoencoder, shown, mask, interpolate(shown, mask), problem.noise)
    sizes.clear()
    found, spent = attempt_round(
        autoencoder, problem, known_mask, tuning.rounds[0], 100, 0, tuning, start, hopeless, first_alone=True
    )
    assert sizes == [6] * 26 + [len(others)] * 26
    assert spent.tolist() == [52 if row in others else 26 for row in range(6)]
    assert (found.expected_error[3:] > 0.03).all()
    assert (found.expected_error[:3] < 0.03).all()

"""Fills that no value, spread or shape reveals: images that explain a part of the observation, told by two scales."""

import pytest
import torch
from autoencoders import associative, linear
from observations import hide, smooth_images, uniform
from scipy import optimize, stats

from lightning_memaudit.recovery import BlindRecovery, trimmed
from lightning_memaudit.recovery.candidates import Candidate
from lightning_memaudit.recovery.methods import blind
from lightning_memaudit.recovery.trimmed import Trimmed, doubt, iterate_trimmed, trials_for
from lightning_memaudit.recovery.two_scales import LEAST_SPEAKING, ONE_SCALE_POWERS, fit_two_scales

NUMBER = 8


def gaps_and_noise(images):
    """Half of the pixels black, and a quarter of the image noise."""
    observed = hide(images)[0].clone()
    observed[..., 8:, 8:] = uniform(images.shape)[..., 8:, 8:]
    return observed


def noise_by_channel(images):
    """In four of five values noise, each channel for itself."""
    return torch.where(uniform(images.shape, 3) > 0.8, images, uniform(images.shape, 4))


def recovered(found, images):
    return (found.image - images).square().flatten(1).mean(1) <= 1e-3


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_evidence_is_the_difference_of_two_largest_likelihoods(share):
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(1, 1, 20, 20, generator=draw) < share
    residual = torch.randn(1, 1, 20, 20, generator=draw, dtype=torch.float64) * torch.where(small, 0.01, 0.3)
    values = residual.flatten().numpy()

    def one_scale(power):
        return optimize.minimize_scalar(
            lambda log: -stats.gennorm(power, scale=2.718281828**log).logpdf(values).sum(), (-4, 0)
        ).fun

    def two_scales(parameters):
        weight, first, second = parameters
        normal = [stats.norm(scale=scale).pdf(values) for scale in (first, second)]
        return -sum(torch.tensor(weight * normal[0] + (1 - weight) * normal[1]).log())

    one = min(one_scale(power) for power in ONE_SCALE_POWERS)
    two = optimize.minimize(two_scales, (0.3, 0.02, 0.2), bounds=[(0.01, 0.99), (1e-3, 1), (1e-3, 1)]).fun
    fit = fit_two_scales(residual, torch.ones_like(residual), shared=True)
    assert float(fit.evidence) == pytest.approx(float(one - two) / 400, abs=5e-3)
    assert float(fit.likelihood) == pytest.approx(float(-min(one, two)) / 400, abs=5e-3)
    assert ((fit.mask > 0.5) == small).double().mean() > 0.95


def test_one_scale_over_three_channels_is_told_from_two():
    """In normal residuals two scales are found to be no likelier than one; pixels of two scales are."""
    normal = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    possible = torch.ones(4, 1, 24, 24)
    assert fit_two_scales(normal, possible, shared=True).evidence.abs().max() < 0.01
    pixels = torch.where(uniform((4, 1, 24, 24)) < 0.3, 0.01, 1.0)
    assert fit_two_scales(pixels * normal, possible, shared=True).evidence.min() > 0.5


def test_the_likelihood_of_residuals_is_that_of_the_likelier_of_one_scale_and_two():
    draw = uniform((1, 3, 24, 24), 5) - 0.5
    laplace = draw.sign() * torch.log1p(-2 * draw.abs())
    possible = torch.ones_like(laplace)
    one = fit_two_scales(laplace, possible, shared=False)
    assert one.evidence < 0
    assert one.likelihood.item() == pytest.approx(-1 - float((2 * laplace.abs().mean()).log()), abs=1e-3)
    scale = torch.where(uniform((1, 3, 24, 24), 6) < 0.5, 1e-4, 1.0)
    assert fit_two_scales(scale * laplace, possible, shared=False).evidence > 1, "two are likelier"
    assert fit_two_scales(torch.full_like(laplace, torch.nan), possible, shared=False).likelihood == -torch.inf


def test_wrong_images_explain_nothing_by_the_pixels_that_happen_to_agree():
    images = smooth_images(100, size=24)
    for shared in (True, False):
        possible = torch.ones(100, 1 if shared else 3, 24, 24)
        wrong = fit_two_scales(images - images.roll(1, 0), possible, shared)
        assert (wrong.evidence < LEAST_SPEAKING).all()
        half = torch.where(uniform(possible.shape) < 0.5, images, images.roll(1, 0))
        assert (fit_two_scales(half - images, possible, shared).evidence > LEAST_SPEAKING).all()


def test_scores_are_divided_by_the_evidence_beyond_what_wrong_images_have():
    """Of what returns one image always, how far the data are off it, as all hidden pixels come back as they are."""
    stored, other = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    observed = torch.where(torch.arange(256).view(1, 1, 16, 16) % 3 > 0, stored + 0.02, other)
    found = iterate_trimmed(lambda x: stored.expand_as(x), observed, torch.ones_like(observed), trials_for(1, None)[0])
    evidence = fit_two_scales(observed - stored, torch.ones_like(observed), shared=True).evidence
    error = (observed - stored)[found.candidate.mask > 0].square().mean()
    assert found.speaks.item()
    assert found.candidate.score.item() == pytest.approx(float(error / (evidence - LEAST_SPEAKING)), rel=0.01)


@pytest.mark.parametrize("given", [0, 1])
def test_of_two_images_that_nothing_speaks_for_the_likelier_one_stays_and_nothing_more_is_claimed(given):
    """Residuals of one scale everywhere speak for no image, but the right one leaves smaller ones."""
    stored = smooth_images(2)
    observed = stored[:1] + 0.05 * torch.randn(stored[:1].shape, generator=torch.Generator().manual_seed(0))
    score = torch.tensor([0.01])
    before = Candidate(stored[given][None], torch.ones_like(observed), score, 2 * score)
    everywhere, trials = torch.ones_like(observed), trials_for(3, None)[0]
    right = iterate_trimmed(associative(stored), observed, everywhere, trials, against=before)
    assert not right.speaks.any()
    assert recovered(right.instead, stored[:1]).all()
    assert right.instead.score == score
    wrong = iterate_trimmed(lambda x: x - x + stored[1:], observed, everywhere, trials, against=before)
    assert torch.equal(wrong.instead.image, stored[1:])  # what nothing speaks for holds no data: it is f's alone
    assert wrong.instead.score == score


def test_data_that_are_nearly_right_all_over_are_left_for_what_f_makes_of_them():
    """As of a compressed image: its errors are of one scale everywhere, so that no pixel is observed as it was."""
    stored = smooth_images(2)
    errors = 0.05 * torch.randn(stored[:1].shape, generator=torch.Generator().manual_seed(0))
    observed = stored[:1] + torch.nn.functional.avg_pool2d(errors, 3, 1, 1) * 3  # alike in neighbouring pixels
    everywhere, before = torch.ones_like(observed), torch.tensor([0.01])
    found = Candidate(observed, everywhere, before, before)
    left = iterate_trimmed(lambda x: x - x + stored[:1], observed, everywhere, trials_for(3, None)[0], against=found)
    assert torch.equal(left.instead.image, stored[:1])
    assert left.instead.score == before
    part = everywhere.clone()
    part[..., :4] = 0  # where a part is known to be missing, the rest may be data
    kept = iterate_trimmed(lambda x: x - x + stored[:1], observed, part, trials_for(3, None)[0], against=found)
    assert torch.equal(kept.instead.image, observed)
    likelier = Candidate(stored[:1], everywhere, before, before)
    for evidence, image in ((0.0, stored[:1]), (1.0, observed)):
        fits = torch.tensor([9.0]), torch.tensor([evidence])
        instead = trimmed._likelier(lambda x: 1 - x, observed, everywhere, found, likelier, *fits)
        assert torch.allclose(instead.image, image)


def test_few_pixels_that_are_observed_are_not_doubted_and_others_are_asked_about_once():
    right, wrong, other = torch.rand(3, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(right[:, :1])
    mask[..., :4, :] = 1
    observed = torch.where(mask > 0, right, other).repeat(3, 1, 1, 1)
    low = torch.zeros(3)
    found = Candidate(torch.cat([right, wrong, wrong]), mask.repeat(3, 1, 1, 1), low, low)
    asked = torch.tensor([True, True, False])
    doubted, spent = doubt(lambda x: x, observed, found, asked, error=0.5)
    assert doubted.score.tolist() == [0, 0.5, 0]
    assert spent.tolist() == [1, 1, 0]
    many = found._replace(mask=1 - found.mask)
    assert doubt(lambda x: x, observed, many, asked, error=0.5)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("degrade", "replaced"), [(lambda images: images, True), (lambda images: hide(images)[0], False)]
)
def test_data_behind_a_fill_that_tells_the_mask_are_never_replaced(monkeypatch, degrade, replaced):
    def likelier(autoencoder, observed, possible, trials, against=None):
        nothing = torch.full((len(observed),), torch.inf)
        black = None if against is None else against._replace(image=torch.zeros_like(observed))
        return Trimmed(Candidate(observed, observed, nothing, nothing), nothing.long() * 0, nothing < 0, black)

    monkeypatch.setattr(blind, "iterate_trimmed", likelier)
    stranger, *stored = smooth_images(3).split(1)
    found = BlindRecovery(certification=None)(associative(torch.cat(stored), 2.0), degrade(stranger))
    assert bool((found.image == 0).all()) == replaced


@pytest.mark.parametrize(("degrade", "least"), [(gaps_and_noise, NUMBER), (noise_by_channel, 5)])
def test_images_come_back_from_behind_fills_that_nothing_reveals(degrade, least):
    images = smooth_images(2 * NUMBER)
    stored = images[:NUMBER]
    found = BlindRecovery(certification=None)(associative(stored, 2.0), degrade(images))
    back = recovered(found, images)
    assert int(back[:NUMBER].sum()) >= least  # 0 and 0 without trimmed iterations
    assert not back[NUMBER:].any()
    assert found.score[:NUMBER][back[:NUMBER]].max() < found.score[NUMBER:].min(), "strangers compete fairly"


@pytest.mark.parametrize("most", [5, 80, 500])
def test_evaluations_are_counted_and_bounded_and_images_do_not_depend_on_each_other(most):
    images = smooth_images(4)
    autoencoder, count = associative(images[:2], 2.0), 0

    def counting(batch):
        nonlocal count
        count += len(batch)
        return autoencoder(batch)

    observed = torch.cat([gaps_and_noise(images), noise_by_channel(images[1:2])])
    method = BlindRecovery(certification=None, gradients="never", max_evaluations=most)
    together = method(counting, observed)
    assert int(together.num_evaluations.sum()) == count
    assert (together.num_evaluations <= most).all()
    for row, one in enumerate(observed.split(1)):
        alone = method(autoencoder, one)
        assert torch.equal(alone.num_evaluations, together.num_evaluations[row : row + 1])
        assert torch.allclose(alone.image, together.image[row : row + 1], atol=1e-4)


def test_trimmed_evaluations_are_told_also_where_other_readings_were_searched_after_them():
    """Of images that are not stored, behind squares of 4x4 pixels, all is tried, one after the other."""
    mosaic = smooth_images(3, seed=20)
    mosaic[..., :12] = mosaic[..., ::4, :12:4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = BlindRecovery(certification=None)(associative(smooth_images(4)), mosaic)
    least = sum(trial.cost for trials in trials_for(1, None) for trial in trials)
    assert (found.num_beside >= least).all()
    assert (found.num_beside < found.num_evaluations).all()


def test_what_copies_its_input_explains_nothing():
    """Pixels that are put in come back from any image: that they agree says nothing."""
    observed, mask = hide(smooth_images(4))
    for factor in (0.5, 0.9):  # by agreement alone the second one would speak for another mask
        matrix = factor * torch.eye(observed[0].numel())
        found = BlindRecovery(certification=None, gradients="never")(linear(matrix), observed)
        assert found.relied_on_mask.all()
        assert torch.equal(found.mask, mask)

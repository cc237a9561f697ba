"""Images of two values, such as scans of text: as many come back as a simple attacker gets."""

import pytest
import torch
from autoencoders import associative
from observations import uniform
from torch.nn import functional

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.two_values import find_two_values
from lightning_memaudit.recovery.types import Problem

NUMBER = 12


def black_and_white(seed):
    noise = torch.randn(NUMBER, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (functional.interpolate(noise, size=(16, 16), mode="bilinear") < 0.35).float()


def recovered(found, true):
    return int(((found - true).square().flatten(1).mean(1) <= 1e-3).sum())


@torch.no_grad()
def simple_attacker(autoencoder, observed):
    """From many starts x <- f(y where it is not 0, x elsewhere); the image that errs least where y is not 0."""
    seen = (observed > 0).float()
    starts = [observed, 1 - observed, torch.full_like(observed, 0.5), torch.ones_like(observed)]
    starts += [uniform((1, 1, 16, 16), seed=seed).expand_as(observed) for seed in range(20)]
    best, least = observed, torch.full((len(observed), 1, 1, 1), torch.inf)
    for image in starts:
        for _ in range(15):
            image = autoencoder(seen * observed + (1 - seen) * image)
        error = (seen * (image - observed).square()).sum((1, 2, 3), keepdim=True)
        best, least = torch.where(error < least, image, best), torch.minimum(error, least)
    return best


@pytest.mark.parametrize("hidden", [0.8, 0.5])
def test_as_many_come_back_as_a_simple_attacker_gets_and_no_stranger(hidden):
    stored, strangers = black_and_white(5), black_and_white(6)
    autoencoder = associative(stored)
    mask = (uniform((NUMBER, 1, 16, 16), seed=1) > hidden).float()
    attacked = recovered(simple_attacker(autoencoder, mask * stored), stored)
    assert attacked >= NUMBER - 1
    blind = BlindRecovery()(autoencoder, mask * stored)
    assert recovered(blind.image, stored) >= attacked
    others = BlindRecovery()(autoencoder, mask * strangers)
    assert recovered(others.image, strangers) == 0
    assert not others.certified.any()


@pytest.mark.parametrize("gradients", ["auto", "never"])
def test_what_is_found_does_not_depend_on_the_batch_and_stays_in_its_bounds(gradients):
    stored, strangers = black_and_white(5), black_and_white(6)
    grey = functional.interpolate(uniform((2, 1, 4, 4), seed=2), size=(16, 16), mode="bilinear")
    observed = torch.cat([stored[:3], strangers[:3], grey]) * (uniform((8, 1, 16, 16), seed=1) > 0.6)
    method = BlindRecovery(certification=None, max_evaluations=200, gradients=gradients)
    together = method(associative(stored), observed)
    alone = [method(associative(stored), observed[row : row + 1]) for row in range(len(observed))]
    torch.testing.assert_close(together.image, torch.cat([one.image for one in alone]), atol=1e-4, rtol=0)
    assert together.num_evaluations.tolist() == [int(one.num_evaluations) for one in alone]
    assert (together.num_evaluations <= 200).all()


@pytest.mark.parametrize("fill", [0.0, 1.0, 0.5])
def test_the_fill_may_be_either_value_or_none(fill):
    stored = black_and_white(5)
    mask = (uniform((NUMBER, 1, 16, 16), seed=1) > 0.5).float()
    found = BlindRecovery(certification=None)(associative(stored), mask * stored + (1 - mask) * fill)
    assert recovered(found.image, stored) == NUMBER


def test_an_image_that_only_seems_to_have_two_values_comes_back_as_well():
    stored = functional.interpolate(uniform((4, 1, 4, 4), seed=2), size=(16, 16), mode="bilinear")
    stored[..., :8] = (stored[..., :8] > 0.5).float()
    mask = (torch.arange(16) < 8).float().expand(4, 1, 16, 16)
    assert find_two_values(Problem.whole(mask * stored, mask, torch.zeros(4))).present.all()
    found = KnownMaskRecovery()(associative(stored), mask * stored, mask)
    assert recovered(found.image, stored) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_two_values_are_those_that_observed_pixels_hold_or_theirs_and_the_fill(channels):
    draw = torch.Generator().manual_seed(0)
    for trial in range(200):
        levels = torch.rand(1 + trial % 3, generator=draw)
        observed = levels[torch.randint(len(levels), (1, channels, 4, 4), generator=draw)]
        mask = (torch.rand(1, 1, 4, 4, generator=draw) > 0.4).float()
        if trial % 2:
            observed = torch.where(mask > 0, observed, 0.25)
        values = find_two_values(Problem.whole(observed, mask, torch.zeros(1)))
        pairs = []
        for seen in observed[0]:
            kept, hidden = set(seen[mask[0, 0] > 0].tolist()), set(seen[mask[0, 0] == 0].tolist())
            pairs.append(kept | hidden if len(kept) == len(hidden) == 1 else kept)
        enough = channels * mask.sum() >= 8
        expected = enough and all(0 < len(pair) <= 2 for pair in pairs) and any(len(pair) == 2 for pair in pairs)
        assert values.present.item() == bool(expected)
        if expected:
            assert [(min(pair), max(pair)) for pair in pairs] == [
                (low.item(), high.item()) for low, high in zip(values.low[0], values.high[0], strict=True)
            ]


@pytest.mark.parametrize("sharpen", [lambda x: (x > 0.5).float(), lambda x: torch.sigmoid(60 * (x - 0.5))])
def test_what_rounds_whatever_it_is_given_certifies_nothing(sharpen):
    """It fits every image of two values exactly, and was trained on none."""
    observed = black_and_white(6) * (uniform((NUMBER, 1, 16, 16), seed=1) > 0.5)
    for gradients in ("auto", "never"):
        assert not BlindRecovery(gradients=gradients)(sharpen, observed).certified.any()

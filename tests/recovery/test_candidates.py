"""The score by which candidates are compared: wrong masks lose on it, however well they fit."""

import pytest
import torch
from autoencoders import associative
from observations import smooth_images, uniform

from lightning_memaudit.recovery.candidates import masked_mean, refine
from lightning_memaudit.recovery.mask_rules import MaskFromContent


def test_a_mask_of_few_pixels_that_agree_by_chance_explains_little():
    images = smooth_images(6)
    mask = (uniform((6, 1, 16, 16)) > 0.5).float()
    observed = mask * images + (1 - mask) * uniform(images.shape, 12)
    content = MaskFromContent((0.5,))
    right = content.explained(images, observed, mask)
    other = images.roll(1, 0)
    agreeing = ((other - observed).abs().amax(1, keepdim=True) < 0.1).float()
    by_chance = content.explained(other, observed, agreeing)
    assert (by_chance < 0.1 * right).all()
    assert ((right > 0) & (right <= 1)).all()
    plain, weighed = (
        refine(lambda images: images, observed, mask, images, torch.zeros(6), 1, share)
        for share in (None, content.explained)
    )
    torch.testing.assert_close(weighed.score, plain.score / content.explained(plain.image, observed, mask))


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_degenerate_masks_lose_on_their_own_score(wrong):
    stored = smooth_images(8)
    mask = (uniform((8, 1, 16, 16)) > 0.5).float()
    none = torch.zeros(8)
    right = refine(associative(stored), mask * stored, mask, stored, none)
    # A fixed point of f for the empty mask, the data themselves for the full one: the best that each can do.
    image = stored.roll(1, 0) if wrong == 0 else mask * stored
    other = refine(associative(stored), mask * stored, torch.full_like(mask, wrong), image, none)
    assert (right.score < other.score / 100).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_masked_mean_counts_every_channel(channels):
    values, weight = torch.rand(4, 3, 5, 6), torch.rand(4, channels, 5, 6)
    weight[1] = 0
    expected = [
        0 if index == 1 else (one * part).sum() / part.expand_as(one).sum()
        for index, (one, part) in enumerate(zip(values, weight, strict=True))
    ]
    torch.testing.assert_close(masked_mean(values, weight), torch.tensor(expected))

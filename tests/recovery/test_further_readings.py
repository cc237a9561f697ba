"""Other readings of an observation: a block over an image that has the color of the fill itself."""

import numpy as np
import pytest
import torch
from autoencoders import associative
from observations import hide, smooth_images, uniform
from scipy import ndimage

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.candidates import ERROR_PER_SCORE
from lightning_memaudit.recovery.fills import LEAST_SHARE, find_constant_fill
from lightning_memaudit.recovery.further_readings import lying_together
from lightning_memaudit.recovery.methods import blind
from lightning_memaudit.recovery.tuning import SelfTuning

NUMBER = 12


def ink(seed, number=NUMBER, share=0.3):
    """Black strokes on white paper, (number, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    strokes = torch.rand(number, 1, 16, 1, generator=generator) < share
    return (~(strokes | (torch.rand(number, 1, 1, 16, generator=generator) < share))).float()


@pytest.mark.parametrize("shape", [(1, 24), (1, 12, 15), (3, 9, 8), (1, 7, 6, 8)])
def test_what_lies_together_is_the_opening_by_half_of_the_largest_square(shape):
    draw = torch.Generator().manual_seed(0)
    for share in (0.2, 0.5, 0.8):
        for blocks in (0, 2):
            image = torch.rand((1, *shape), generator=draw)
            missing = torch.rand((1, 1, *shape[1:]), generator=draw) < share
            for _ in range(blocks):
                missing[(0, 0, *(slice(begin := side // 4, begin + side // 2) for side in shape[1:]))] = True
            observed = torch.where(missing, 0.0, image)
            speaks, found = lying_together(observed, find_constant_fill(observed), None)
            true = missing[0, 0].numpy()
            side = 0
            while ndimage.binary_erosion(true, np.ones([side + 1] * true.ndim)).any():
                side += 1
            opened = ndimage.binary_opening(true, np.ones([-(-side // 2)] * true.ndim)) if side else true
            assert np.array_equal(found.mask[0, 0].numpy() == 0, opened)
            if speaks:
                assert opened.mean() >= LEAST_SHARE
                assert true.mean() - opened.mean() >= LEAST_SHARE


def test_the_observation_does_not_speak_for_a_block_where_pixels_are_missing_one_by_one():
    images = smooth_images(50, size=32)
    for share in (0.3, 0.5, 0.8, 0.9, 0.95):
        observed = hide(images, share)[0]
        assert not lying_together(observed, find_constant_fill(observed), None)[0].any()
    whole = lying_together(images, find_constant_fill(images), None)[0]
    assert not whole.any(), "nothing is missing"


def hidden_block(images):
    mask = torch.ones_like(images)
    mask[..., 3:13, 3:13] = 0
    return mask * images, mask


def test_a_black_block_over_black_ink_is_read_for_what_it_is():
    """By white pixels alone several of these images would do: the ink beside the block tells them apart."""
    stored = ink(0, number=40, share=0.15)
    observed, mask = hidden_block(stored)
    autoencoder = associative(stored, sharpness=0.2)
    told = KnownMaskRecovery()(autoencoder, observed, mask).image
    blind = BlindRecovery(certification=None)(autoencoder, observed).image
    errors = [(found - stored).square().flatten(1).mean(1) for found in (told, blind)]
    assert [int((error <= 1e-3).sum()) >= least for error, least in zip(errors, (40, 36), strict=True)] == [True, True]


def test_a_black_block_is_found_where_most_is_white_paper():
    """White is the value that most pixels hold, so that black is the second one that may be the fill."""
    stored = ink(0, number=40, share=0.1)
    mask = torch.ones_like(stored)
    mask[..., 4:10, 4:10] = 0
    assert (mask * stored).mean() > 0.6
    blind = BlindRecovery(certification=None)(associative(stored, sharpness=0.1), mask * stored).image
    assert int(((blind - stored).square().flatten(1).mean(1) <= 1e-3).sum()) >= 38  # 22 where all black may be missing


@pytest.mark.parametrize("most", [5, 40, 100, 200, 700])
def test_several_readings_share_the_evaluations(most):
    stored, strangers = ink(0), ink(1)
    grey = torch.where(hidden_block(stored)[1] > 0, uniform(stored.shape).round(decimals=1), 0.5)
    observed = torch.cat([hidden_block(one)[0] for one in (stored, strangers, 1 - stored)] + [grey])
    recovery = BlindRecovery(certification=None, max_evaluations=most)(associative(stored), observed)
    assert (recovery.num_evaluations <= most).all()
    assert recovery.image.isfinite().all()


@pytest.mark.parametrize(("contrast", "comes_back"), [(0.3, False), (0.5, True)])
def test_a_further_reading_is_tried_where_the_error_is_poor_if_as_much_is_hidden_as_it_says(
    contrast, comes_back, monkeypatch
):
    """Black hides a quarter, and grey beside it nearly as much. f halves the distance to the image that it has stored.

    With black alone hidden, the error that is expected is fair in both cases; with the grey too, in the first one only.
    """
    stored = 0.3 + contrast * uniform((1, 1, 16, 16), 3)
    observed = stored.clone()
    observed[..., :4], observed[..., 4:7] = 0.0, 0.3 + contrast / 2

    def recover():
        return BlindRecovery(certification=None)(lambda images: (images + stored) / 2, observed)

    found = recover()
    monkeypatch.setattr(blind, "FURTHER_READINGS", ())
    without = recover()
    poor, score = SelfTuning().fair_error, without.score.item()
    assert without.expected_error.item() < poor <= ERROR_PER_SCORE * score
    assert (ERROR_PER_SCORE * score * 7 / 16 >= poor) == comes_back
    assert bool((found.image - stored).square().mean() < 1e-6) == comes_back
    assert bool(found.num_evaluations > without.num_evaluations) == comes_back


@pytest.mark.parametrize(("max_evaluations", "again"), [(None, False), (460, True)])
def test_a_reading_that_was_given_up_is_not_searched_again(monkeypatch, max_evaluations, again):
    """A channel that is white in half of the image, over a black block: two readings of one kind after the other.

    One that had too few evaluations to be given up gets what is left.
    """
    images = smooth_images(8, size=12, channels=3)
    images[:, :1] = torch.where(images[:, 1:2] > images[:, 1:2].mean(), 1.0, images[:, :1])
    images[..., :4, :] = 0
    searched, original = [], BlindRecovery._search_fill

    def watched(method, autoencoder, observed, fill, share):
        searched.extend(zip(observed.clone(), fill.mask.expand_as(observed).clone(), strict=True))
        return original(method, autoencoder, observed, fill, share)

    monkeypatch.setattr(BlindRecovery, "_search_fill", watched)
    method = BlindRecovery(certification=None, max_evaluations=max_evaluations)
    method(associative(uniform((8, 3, 12, 12))), images)
    masks = [[mask.numpy().tobytes() for observed, mask in searched if torch.equal(observed, one)] for one in images]
    assert sum(len(set(of_one)) > 1 for of_one in masks) >= 4
    assert any(len(set(of_one)) < len(of_one) for of_one in masks) == again

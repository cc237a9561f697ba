"""Fills of many values: runs of equal pixels, mosaics, stretched borders, blocks of several colors."""

import itertools

import pytest
import torch
from autoencoders import associative
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import BlindRecovery
from lightning_memaudit.recovery.candidates import ERROR_PER_SCORE, Candidate
from lightning_memaudit.recovery.fills import find_constant_fill, find_other_fill, hidden_share
from lightning_memaudit.recovery.many_values import error_under, find_runs, many_values
from lightning_memaudit.recovery.methods import blind
from lightning_memaudit.recovery.trimmed import iterate_trimmed, trials_for

NUMBER = 12
SIDE = 16


def mosaic(images):
    """The left three quarters in squares of 4x4 pixels."""
    squares = images[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    columns = torch.arange(SIDE) < 12
    return torch.where(columns, squares, images)


def stretched(images):
    """A frame of four pixels: the nearest pixel inside it."""
    inside = torch.arange(SIDE).clamp(4, SIDE - 5)
    return images[:, :, inside][..., inside]


def stretched_little(images):
    """A frame of two pixels."""
    inside = torch.arange(SIDE).clamp(2, SIDE - 3)
    return images[:, :, inside][..., inside]


def colored_blocks(images):
    """Four blocks of a grey of their own."""
    observed = images.clone()
    for number, (top, left) in enumerate(((0, 0), (0, 9), (8, 3), (10, 10))):
        observed[..., top : top + 6, left : left + 6] = 0.13 + 0.21 * number
    return observed


@pytest.mark.parametrize("shape", [(1, 23), (1, 7, 9), (3, 6, 5), (1, 4, 5, 3), (1, 2, 2)])
@pytest.mark.parametrize("run", [2, 3, 4])
def test_runs_are_those_that_counting_along_every_axis_finds(shape, run):
    images = torch.randint(0, 2, (3, *shape), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.zeros(3, 1, *shape[1:], dtype=torch.bool)
    for axis in range(1, len(shape)):
        others = [range(side) for number, side in enumerate(shape[1:], 1) if number != axis]
        for row, place in itertools.product(range(3), itertools.product(*others)):
            index = [*place[: axis - 1], slice(None), *place[axis - 1 :]]
            line = images[(row, slice(None), *index)].T.tolist()
            at = 0
            for _, group in itertools.groupby(line):
                length = len(list(group))
                if length >= run:
                    for step in range(at, at + length):
                        expected[(row, 0, *(step if isinstance(one, slice) else one for one in index))] = True
                at += length
    assert torch.equal(find_runs(images, run), expected)


@pytest.mark.parametrize("degrade", [mosaic, stretched, colored_blocks])
def test_what_many_values_hide_comes_back(degrade):
    """The most frequent of them hides a sixteenth; most of the rest would be taken for data."""
    stored = smooth_images(NUMBER)
    observed = degrade(stored)
    found = BlindRecovery(certification=None)(associative(stored, sharpness=0.1), observed)
    assert int(((found.image - stored).square().flatten(1).mean(1) <= 1e-3).sum()) == NUMBER


def test_values_of_the_fill_that_are_too_rare_to_be_read_are_told_by_what_was_found():
    """A half in four levels: the rarest of them are taken for data first, a few wrong ones spoil what comes back."""
    stored = smooth_images(NUMBER, seed=3)
    observed = torch.where(torch.arange(SIDE) < SIDE // 2, stored, (3 * stored).round() / 3)
    found = BlindRecovery(certification=None)(associative(stored, sharpness=1.0), observed)
    assert int(((found.image - stored).square().flatten(1).mean(1) <= 1e-3).sum()) == NUMBER


@pytest.mark.parametrize(("degrade", "is_trimmed"), [(mosaic, True), (lambda images: hide(images, 0.5)[0], False)])
def test_where_many_values_came_to_nothing_what_agrees_with_a_part_is_looked_for(degrade, is_trimmed, monkeypatch):
    """As where no fill is read at all; one value leaves nothing open that the reading did not tell."""
    asked = []

    def iterate(autoencoder, observed, possible, trials, *start, **found):
        asked.append(trials)
        return iterate_trimmed(autoencoder, observed, possible, trials, *start, **found)

    monkeypatch.setattr(blind, "iterate_trimmed", iterate)
    stored, stranger = smooth_images(NUMBER), smooth_images(1, seed=5)
    BlindRecovery(certification=None)(associative(stored, sharpness=0.1), degrade(stranger))
    assert (trials_for(channels=3, per_channel=None)[0] in asked) == is_trimmed


def test_an_image_that_explains_the_fill_alone_is_not_told_from_it():
    """A grey block, and black beside it: an autoencoder that answers with this grey agrees with the block exactly."""
    observed = uniform((2, 3, SIDE, SIDE), 6)
    observed[..., :8, :8], observed[..., 8:, :6] = 0.5, 0.0
    found = BlindRecovery(certification=None)(lambda images: torch.full_like(images, 0.5), observed)
    assert bool((found.score > 1e-2).all())


@pytest.mark.parametrize("degrade", [mosaic, stretched, stretched_little, colored_blocks])
def test_the_mask_of_many_values_holds_all_that_differs(degrade):
    stored = uniform((NUMBER, 1, SIDE, SIDE), 3)
    observed = degrade(stored)
    first = find_constant_fill(observed)
    speaks, fill = many_values(observed, first, find_other_fill(observed, first))
    assert speaks.all()
    assert torch.equal(fill.present, speaks)
    assert not ((observed != stored) & (fill.mask == 1)).any()


def test_the_observation_does_not_speak_for_many_values_where_one_is_the_fill():
    images = smooth_images(50, size=32)
    for share in (0.0, 0.3, 0.5, 0.9):
        observed = hide(images, share)[0] if share else images
        first = find_constant_fill(observed)
        assert not many_values(observed, first, find_other_fill(observed, first))[0].any()


def test_pairs_of_equal_pixels_and_noise_on_the_fill_speak_for_no_many_values():
    """As magnified by 2 images have them."""
    images = uniform((NUMBER, 1, SIDE, SIDE), 3)
    images[..., :8] = images[..., :8:2].repeat_interleave(2, 3)
    first = find_constant_fill(images)
    assert not many_values(images, first, find_other_fill(images, first))[0].any()
    observed = mosaic(images)
    first = find_constant_fill(observed)
    noisy = first._replace(noise=torch.full_like(first.noise, 0.1))
    assert not many_values(observed, noisy, find_other_fill(observed, first))[0].any()


def test_images_of_levels_all_the_way_keep_something_observed():
    """Where all repeats there is nothing to go by, and nothing speaks for it."""
    levels = torch.arange(4.0).repeat_interleave(4).div(4).expand(2, 1, SIDE, SIDE)
    first = find_constant_fill(levels)
    assert not many_values(levels, first, find_other_fill(levels, first))[0].any()


def test_the_error_is_as_if_a_reading_that_hides_more_were_right():
    observed = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    small, large = (find_constant_fill(observed.clamp_min(limit)) for limit in (0.1, 0.5))
    score = torch.tensor([0.01])
    expected = (ERROR_PER_SCORE * score * hidden_share(small)).float()
    found = Candidate(observed, small.mask, score, expected)
    assert error_under(found, small).item() == pytest.approx(expected.item())
    assert error_under(found, large).item() == pytest.approx(ERROR_PER_SCORE * 0.01 * hidden_share(large).item())
    assert error_under(found._replace(expected_error=torch.tensor([torch.inf])), large).item() == torch.inf

"""How many evaluations each reading of an observation gets, and which readings are worth any."""

import pytest
import torch
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery.readings import KEPT_SHARE, read
from lightning_memaudit.recovery.trimmed import cost, trials_for, trials_from_candidate
from lightning_memaudit.recovery.two_values import ROUNDED_COST, TWO_VALUES_COST

SIDE = 16
ENOUGH = 50
TRIMMED = sum(cost(trials) for trials in trials_for(channels=1, per_channel=None))
FITTED = cost(trials_from_candidate(channels=1))
PLENTY = KEPT_SHARE * TRIMMED


def squares():
    """The right three quarters of an image in squares of 4x4 pixels: a fill of twelve values."""
    image = uniform((1, 1, SIDE, SIDE), 3)
    mosaic = image[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(torch.arange(SIDE) < 4, image, mosaic)


def two_blocks():
    """Black over the left quarter, and as much of grey beside it."""
    image = uniform((1, 1, SIDE, SIDE), 3)
    image[..., :5], image[..., 5:9] = 0.0, 0.5
    return image


def ink():
    """Black strokes on white, and a black block over them."""
    lines = torch.arange(SIDE) % 4 == 0
    image = (~(lines[:, None] | lines)).float()[None, None]
    image[..., 3:13, 3:13] = 0
    return image


@pytest.mark.parametrize("budget", [2 * ENOUGH - 1, 2 * ENOUGH])
def test_two_readings_take_a_round_each(budget):
    for observed in (two_blocks(), squares()):
        readings = read(observed, None, budget, ENOUGH)
        is_enough = budget >= 2 * ENOUGH
        assert readings.has_other.item() == readings.has_exact_other.item() == is_enough
        assert readings.first_share.item() == ((budget - FITTED) // 2 if is_enough else budget)
        assert readings.second_share(readings.first_share).item() == readings.first_share.item()


@pytest.mark.parametrize(("budget", "expected"), [(2 * ENOUGH - 1, False), (2 * ENOUGH, True)])
def test_many_values_are_a_second_reading(budget, expected):
    assert read(squares(), None, budget, ENOUGH).has_many.item() == expected
    assert not read(two_blocks(), None, budget, ENOUGH).has_many.any()
    assert not read(squares(), 0.1, budget, ENOUGH).has_many.any(), "with noise nothing repeats"


@pytest.mark.parametrize("budget", [PLENTY - 1, PLENTY])
def test_trimmed_iterations_are_left_their_part_where_they_may_come(budget):
    kept = TRIMMED if budget >= PLENTY else 0
    nothing = smooth_images(1, 1)
    one_value = hide(nothing, 0.5)[0]
    assert read(nothing, None, budget, ENOUGH).first_share.item() == budget - kept
    assert read(uniform((1, 1, SIDE, SIDE), 3), 0.1, budget, ENOUGH).first_share.item() == budget
    assert read(one_value, None, budget, ENOUGH).first_share.item() == budget
    assert read(squares(), None, budget, ENOUGH).first_share.item() == (budget - kept - FITTED) // 2
    assert read(two_blocks(), None, budget, ENOUGH).first_share.item() == (budget - FITTED) // 2


@pytest.mark.parametrize(("budget", "expected"), [(3 * ENOUGH - 1, False), (3 * ENOUGH, True)])
def test_a_block_over_two_values_takes_a_third_round(budget, expected):
    assert read(ink(), None, budget, ENOUGH).has_block.item() == expected


def test_beside_a_block_over_two_values_the_other_value_gets_a_short_search_alone():
    short = ENOUGH + TWO_VALUES_COST + ROUNDED_COST
    readings = read(ink(), None, 1000, ENOUGH)
    assert readings.has_two_values.all()
    assert readings.first_share.item() == (1000 - short) // 2
    assert readings.second_share(torch.tensor([100])).item() == short


def test_a_second_value_that_lies_together_is_a_block_and_no_short_search():
    """Black lies in a block and in few strokes, most is white: the strokes are the image's."""
    image = torch.ones(1, 1, SIDE, SIDE)
    image[..., 3, :], image[..., :, 12], image[..., 5:11, 2:8] = 0, 0, 0
    readings = read(image, None, 1000, ENOUGH)
    assert readings.has_other.all()
    assert not readings.has_two_values.any()
    block = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    block[5:11, 2:8] = True
    assert torch.equal(readings.other.mask[0, 0] == 0, block)
    assert readings.second_share(readings.first_share).item() == readings.first_share.item()


def test_the_other_of_two_values_gets_a_short_search():
    lines = torch.arange(SIDE) % 4 == 0
    plain = (~(lines[:, None] | lines)).float()[None, None]
    short = ENOUGH + TWO_VALUES_COST + ROUNDED_COST
    for budget in (2 * short, 2 * short + 1):
        readings = read(plain, None, budget, ENOUGH)
        assert not readings.has_block.any()
        is_enough = budget > 2 * short
        assert readings.has_two_values.item() == is_enough
        assert not is_enough or readings.first_share.item() == budget - short
    # What the first one left, in steps, so that images with nearly as much are searched together.
    readings = read(plain, None, 1000 + short, ENOUGH)
    for spent, left in ((0, 1000), (1, 900), (100, 900), (850, 100), (901, 0)):
        assert readings.second_share(torch.tensor([spent])).item() == left + short


def test_readings_of_a_batch_are_those_of_each_image():
    missing = hide(smooth_images(1, 1), 0.9)[0]
    batch = torch.cat([two_blocks(), squares(), ink(), smooth_images(1, 1), missing])
    for budget in (90, 130, 400, 2000):
        together = read(batch, None, budget, ENOUGH)
        for row, one in enumerate(batch.split(1)):
            alone = read(one, None, budget, ENOUGH)
            for name in ("has_other", "has_block", "has_many", "has_two_values", "has_exact_other", "first_share"):
                assert getattr(together, name)[row] == getattr(alone, name)[0], (name, row, budget)

"""Degradations: exact fractions, shapes, nestedness, seeds, noise and fill, and names that explain themselves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from lightning_memaudit.measurement.degradations import WITH_FRACTION, WITHOUT_FRACTION, parse_degradation

KINDS = [f"{kind}-0.3" for kind in WITH_FRACTION] + list(WITHOUT_FRACTION)


def images(count=4, channels=3, height=32, width=32):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def missing(name, count=4, height=32, width=32, seed=0, positions=None):
    """(count, H, W) bool."""
    positions = range(count) if positions is None else positions
    degraded = parse_degradation(name)(images(len(positions), 3, height, width), positions, seed)
    assert degraded.mask.shape == (len(positions), 1, height, width)
    assert set(degraded.mask.unique().tolist()) <= {0.0, 1.0}
    return (degraded.mask[:, 0] == 0).numpy()


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.1, 0.25, 0.5, 0.77, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("size", [(25, 25), (32, 32), (64, 64), (20, 33)])
def test_random_pixels_are_exactly_as_many_as_asked_for(fraction, size):
    counts = missing(f"random-{fraction}", 5, *size).sum((1, 2))
    assert (counts == max(1, round(fraction * size[0] * size[1]))).all()


def test_random_pixels_are_uniform():
    """Every pixel is missing equally often: a chi-squared test over 2000 masks."""
    counts = missing("random-0.25", 2000, 8, 8).sum(0).ravel()
    # Counts without replacement vary less than independent ones by the factor 1 - 0.25; rescaled to a chi-squared.
    statistic = ((counts - 500) ** 2 / (500 * 0.75)).sum() * 63 / 64
    assert 0.001 < stats.chi2.sf(statistic, 63) < 0.999


@pytest.mark.parametrize("kind", ["random", "rows", "columns", "blocks", "strokes"])
def test_more_missing_contain_fewer_missing(kind):
    masks = [missing(f"{kind}-{fraction}") for fraction in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)]
    for less, more in pairwise(masks):
        assert (more | ~less).all()
        assert more.sum() > less.sum()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48)])
def test_a_block_is_one_rectangle_inside_the_image(fraction, height, width):
    masks = missing(f"block-{fraction}", 6, height, width)
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert mask.mean() == pytest.approx(fraction, abs=0.5 / width + 1e-9)
        assert len(rows) / height == pytest.approx(len(columns) / width, abs=0.05)
    assert len({mask.tobytes() for mask in masks}) > 1, "at random places"


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_several_blocks_cover_at_least_the_fraction(fraction):
    masks = missing(f"blocks-{fraction}", 6)
    one = (5 * 5) / 32**2
    assert ((masks.mean((1, 2)) >= fraction) & (masks.mean((1, 2)) < fraction + one)).all()
    assert max(ndimage.label(mask)[1] for mask in missing("blocks-0.2", 6)) >= 2


def test_rows_and_columns_are_whole():
    rows, columns = missing("rows-0.25"), missing("columns-0.25")
    assert (rows.all(2) == rows.any(2)).all()
    assert (rows.any(2).sum(1) == 8).all()
    assert (columns.all(1) == columns.any(1)).all()
    assert (columns.any(1).sum(1) == 8).all()
    assert len({mask.tobytes() for mask in rows}) == 4


@pytest.mark.parametrize("height", [32, 64])
def test_stripes_are_evenly_spaced(height):
    for mask in missing("stripes-0.25", height=height):
        lines = mask.all(1)
        assert (lines == mask.any(1)).all()
        assert lines.sum() == height // 4
        period = height // 8
        assert (lines.reshape(8, period).sum(1) == period // 4).all(), "a quarter of every eighth"


def test_half_is_one_of_four_halves():
    seen = set()
    for mask in missing("half", 40):
        assert mask.sum() == 512
        sides = (mask[:, :16].all(), mask[:, 16:].all(), mask[:16].all(), mask[16:].all())
        assert sum(sides) == 1
        seen.add(sides.index(True))
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
def test_strokes_cover_about_the_fraction_in_few_connected_lines(fraction):
    masks = missing(f"strokes-{fraction}", 6, 64, 64)
    shares = masks.mean((1, 2))
    assert (shares >= fraction).all()
    assert (shares < fraction + 0.1).all()
    for mask in masks:
        assert ndimage.label(mask, np.ones((3, 3)))[1] <= 12
        # As thin as a pen of 5 pixels: eroded by 4 on all sides, only crossings are left.
        assert ndimage.binary_erosion(mask, iterations=4).sum() < 0.35 * mask.sum()


@pytest.mark.parametrize("side", [25, 32, 64])
def test_text_covers_the_whole_image_in_lines_of_letters(side):
    masks = missing("text", 6, side, side)
    assert (masks.mean((1, 2)) > 0.1).all()
    assert (masks.mean((1, 2)) < 0.5).all()
    third = side // 3
    for mask in masks:
        assert all(
            mask[top : top + third, left : left + third].any()
            for top in (0, third, 2 * third)
            for left in (0, third, 2 * third)
        )
        assert ndimage.label(mask)[1] >= 8


@pytest.mark.parametrize("name", [*KINDS, "random-0.3+noise-0.1", "block-0.3+fill-noise", "random-0.3+channels"])
def test_what_happens_to_an_image_depends_on_seed_and_position_alone(name):
    truth = images(6)
    whole = parse_degradation(name)(truth, range(6), seed=3)
    alone = parse_degradation(name)(truth[4:5], [4], seed=3)
    assert torch.equal(whole.observed[4:5], alone.observed)
    assert torch.equal(whole.mask[4:5], alone.mask)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    shuffled = parse_degradation(name)(truth[[5, 0]], [5, 0], seed=3)
    assert torch.equal(shuffled.observed, whole.observed[[5, 0]])
    controls = parse_degradation(name)(truth.flip(0), range(6), seed=3)
    assert torch.equal(controls.mask, whole.mask), "members and controls share the masks"


@pytest.mark.parametrize("name", KINDS)
def test_positions_and_seeds_give_other_masks(name):
    masks = np.concatenate([missing(name, 8, seed=seed) for seed in (0, 1)])
    assert len({mask.tobytes() for mask in masks}) >= (
        4 if name == "half" else 6 if name in ("stripes-0.3", "slabs-0.3") else 12
    )
    assert not np.array_equal(masks[:8], masks[8:])


def test_the_callers_random_state_is_left_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    parse_degradation("strokes-0.3+noise-0.1+fill-noise+channels")(images(), range(4))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", KINDS)
def test_missing_pixels_are_zero_and_the_others_untouched(name):
    truth = images()
    observed, mask = parse_degradation(name)(truth, range(4))
    assert torch.equal(observed, truth * mask)
    assert 0 < float(mask.mean()) < 1


def test_every_channel_gets_its_own_mask_of_the_exact_fraction():
    truth = images()
    observed, mask = parse_degradation("random-0.3+channels")(truth, range(4))
    assert mask.shape == truth.shape
    assert ((1 - mask).sum((2, 3)) == round(0.3 * 32 * 32)).all()
    assert not torch.equal(mask[:, 0], mask[:, 1])
    assert torch.equal(observed, truth * mask)
    agreement = float((mask[:, 0] == mask[:, 1]).float().mean())
    assert agreement == pytest.approx(0.3**2 + 0.7**2, abs=0.03), "independent"


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_noise_has_the_standard_deviation_asked_for_everywhere(sigma):
    truth = images(16)
    observed, mask = parse_degradation(f"random-0.5+noise-{sigma}")(truth, range(16))
    noise = (observed - truth * mask) / sigma
    kept = mask.expand_as(noise) > 0
    for part in (noise[kept], noise[~kept]):
        assert float(part.std()) == pytest.approx(1, abs=0.02)
        assert float(part.mean()) == pytest.approx(0, abs=0.03)
        assert stats.kstest(part.numpy()[:5000], "norm").pvalue > 1e-3
    assert torch.equal(mask, parse_degradation("random-0.5")(truth, range(16)).mask)
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.1, "another noise for every image"


def test_fill_values_and_random_fill():
    truth = images(8)
    observed, mask = parse_degradation("block-0.5+fill-0.25")(truth, range(8))
    hidden = mask.expand_as(truth) == 0
    assert (observed[hidden] == 0.25).all()
    observed, _ = parse_degradation("block-0.5+fill-noise")(truth, range(8))
    assert torch.equal(observed[~hidden], truth[~hidden])
    assert stats.kstest(observed[hidden].numpy()[:5000], "uniform").pvalue > 1e-3


def test_devices_and_types_follow_the_images():
    observed, mask = parse_degradation("random-0.5+noise-0.1")(images().double(), range(4))
    assert observed.dtype == mask.dtype == torch.float64
    empty, none = parse_degradation("random-0.5+noise-0.1+fill-noise")(images()[:0], [])
    assert empty.shape == (0, 3, 32, 32)
    assert none.shape == (0, 1, 32, 32)


def test_too_little_or_too_much_for_the_image_still_leaves_something_of_both():
    for name in ("random-0.01", "rows-0.01", "columns-0.01", "stripes-0.01", "block-0.01"):
        assert (missing(name, height=8, width=8).sum((1, 2)) > 0).all()
    for name in ("random-0.99", "rows-0.99", "columns-0.99", "stripes-0.99"):
        assert (missing(name, height=8, width=8).mean((1, 2)) < 1).all()


def test_names_are_parsed():
    degradation = parse_degradation("stripes-0.3+fill-0.5+channels+noise-0.05")
    assert (degradation.kind, degradation.fraction, degradation.noise) == ("stripes", 0.3, 0.05)
    assert (degradation.fill, degradation.per_channel) == (0.5, True)
    assert parse_degradation("random-0.5").fill == 0.0
    assert parse_degradation("half+fill-noise").fill is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("randon-0.5", "unknown: did you mean random"),
        ("checkerboard", "unknown: .*kinds are random, block"),
        ("", "unknown"),
        ("random", "'' is not a number; give the missing fraction, as in random-0.5"),
        ("random-half", "'half' is not a number"),
        ("random-0", "above 0 and at most 0.99"),
        ("random-1", "above 0 and at most 0.99"),
        ("random--0.5", "above 0 and at most 0.99"),
        ("random-nan", "not a number"),
        ("random-50%", "'50%' is not a number"),
        ("half-0.5", "half takes no number; write half"),
        ("text-0.5", "text takes no number; write text"),
        ("random-0.5+noise", "give the noise's standard deviation, as in noise-0.05"),
        ("random-0.5+noise-0", "above 0 and at most 1"),
        ("random-0.5+noise-2", "above 0 and at most 1"),
        ("random-0.5+fill", "give the fill value, as in fill-0.5"),
        ("random-0.5+fill-2", r"fill value must be in \[0, 1\]"),
        ("random-0.5+blur", "'blur' is no modifier; they are noise-<sigma>"),
        ("random-0.5+", "'' is no modifier"),
    ],
)
def test_bad_names_are_one_clear_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_degradation(name)
    assert "\n" not in str(error.value)
    assert repr(name) in str(error.value)

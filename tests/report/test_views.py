"""Volumes as slices, signals as curves, many channels as colours."""

import numpy as np
import pytest

from lightning_memaudit import audit
from lightning_memaudit.report.document import build_document
from lightning_memaudit.report.figures import strips
from lightning_memaudit.report.pictures import picture
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.selection import choose_examples
from lightning_memaudit.report.views import displayed, drawn_as, hidden_center, picture_of, picture_of_mask
from lightning_memaudit.results.run_folder import RunFolder

RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.random((2, 5, 6, 7))


def test_pictures_stay_the_very_same():
    image = RANDOM.random((3, 8, 9))
    assert picture_of(image) is image
    np.testing.assert_array_equal(displayed(image), image.transpose(1, 2, 0))
    np.testing.assert_array_equal(displayed(image[:1]), image[0])


def test_a_volume_is_three_slices_through_the_point():
    shown = picture_of(VOLUME, (4, 1, 2))
    np.testing.assert_array_equal(shown[:, :6, :7], VOLUME[:, 4])
    np.testing.assert_array_equal(shown[:, 7:, :7], VOLUME[:, :, 1])
    np.testing.assert_array_equal(shown[:, :6, 8:].swapaxes(1, 2), VOLUME[:, :, :, 2])
    np.testing.assert_array_equal(picture_of(VOLUME), picture_of(VOLUME, (2, 3, 3)))


def test_the_point_is_in_the_largest_hidden_part():
    mask = np.ones((1, 9, 9, 9), dtype=np.uint8)
    mask[0, :2, :2, :2] = 0
    mask[0, 3:8, 4:7, 0:3] = 0
    assert hidden_center(mask) == (5, 5, 1)
    ring = np.ones((1, 1, 9, 9))
    ring[0, 0, 2:7, 2:7] = 0
    ring[0, 0, 3:6, 3:6] = 1
    assert ring[(0, *hidden_center(ring))] == 0, "a hidden voxel, not the middle of the ring"
    assert hidden_center(np.ones((1, 4, 4, 4))) is None
    assert hidden_center(np.zeros((1, 4, 4))) is None


@pytest.mark.parametrize("length", [5, 64, 1000])
def test_a_curve_goes_through_its_samples(length):
    signal = np.sin(np.arange(length) / 4)[None] / 2 + 0.5
    (curve,) = picture_of(signal)
    height, width = curve.shape
    assert width == min(length, 256)
    for column in range(width):
        rows = np.flatnonzero(curve[:, column] == 0)
        part = signal[0, column * length // width : max((column + 1) * length // width, column * length // width + 1)]
        assert rows.min() <= round((1 - part.max()) * (height - 1)) + 1
        assert rows.max() >= round((1 - part.min()) * (height - 1)) - 1
        assert len(rows) == rows.max() - rows.min() + 1


def test_signals_that_diverged_and_several_channels():
    assert picture_of(np.full((1, 64), np.nan)).shape == (1, 32, 64)
    assert picture_of(np.zeros((12, 64))).shape == (1, 48, 64)


def test_the_mask_of_a_signal_is_a_band_as_long_as_its_curve():
    for length in (50, 1000):
        mask = (np.arange(length) >= length // 5).astype(np.float32)[None]
        (band,) = picture_of_mask(mask)
        assert band.shape == picture_of(mask)[0].shape
        assert (band == band[0]).all(), "the same in all rows"
        assert band[0].mean() == pytest.approx(0.8, abs=0.01)
    own = np.stack([mask[0], 1 - mask[0]])
    top, bottom = np.split(picture_of_mask(own)[0], 2)
    np.testing.assert_array_equal(top, 1 - bottom)
    volume = VOLUME > 0.5
    np.testing.assert_array_equal(picture_of_mask(volume), picture_of(volume))


def test_strips_say_how_they_are_drawn_and_rows_are_as_high_as_their_pictures(tmp_path):
    import torch

    heights = {}
    for shape, said in (((1, 6, 7, 8), "Of a volume there are slices"), ((2, 64), "A signal is"), ((1, 8, 8), None)):
        members, controls = torch.rand(3, *shape), torch.rand(2, *shape)
        report = audit(lambda x: 0.5 * x, members, controls, patterns=["half"], methods=["blind"])
        folder = RunFolder(tmp_path / str(len(shape)))
        folder.write_run({})
        report.append_to(folder)
        (figure,) = strips(RunView(folder, build_document(folder))).values()
        words = " ".join(" ".join(text.get_text().split()) for text in figure.axes[0].texts)
        assert (drawn_as(shape) in words) if said else ("is a curve" not in words and "Of a" not in words)
        assert said is None or drawn_as(shape).startswith(said)
        heights[len(shape)] = figure.get_size_inches()[1]
    assert heights[2] < heights[3] < heights[4] + 0.5


def test_many_channels_are_shown_by_their_first_ones():
    image = RANDOM.random((13, 4, 4))
    np.testing.assert_array_equal(displayed(image), image[:3].transpose(1, 2, 0))
    np.testing.assert_array_equal(displayed(image[:2]), image[0])


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 6, 7, 8), "Of a volume there are slices"),
        ((2, 48), "A signal is a curve"),
        ((13, 8, 8), "Of 13 channels the first three"),
        ((2, 8, 8), "Of 2 channels the first"),
        ((3, 8, 8), None),
        ((1, 8, 8), None),
    ],
)
def test_an_audit_is_shown_and_the_page_says_how(shape, said, tmp_path):
    import torch

    members, controls = torch.rand(3, *shape), torch.rand(2, *shape)
    report = audit(lambda x: 0.5 * x, members, controls, patterns=["block-0.25"], methods=["blind"])
    assert report._repr_html_().count("data:image/png") == 15
    page = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    sentences = ("Of a volume", "A signal is", "channels the first")
    assert [one for one in sentences if one in page] == [one for one in sentences if said and one in said]
    if said:
        assert page.count(said) == 2, "above the first strip and above all strips"
    examples = choose_examples(report.recoveries, report.images, "block-0.25", ["blind"])
    for one in examples:
        shown = [one.truth, one.observed, one.mask, one.outcomes["blind"].image]
        assert len({image.shape[1:] for image in shown}) == 1, "cut at one place"
        assert all(picture(image).startswith("data:image/png") for image in shown)
        if len(shape) == 4:
            assert (one.observed == 0).mean() > 0.1, "the slices show what is hidden"

"""A volume slice by slice for W&B: every slice is in the page, at its place on the slider."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from observations import uniform
from PIL import Image

from lightning_memaudit import audit
from lightning_memaudit.report.slices import slider
from lightning_memaudit.report.wandb_run import recovered_table


def towers(page):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def as_bytes(volume):
    return (255 * volume.astype(np.float64)).round().astype(np.uint8)


@pytest.mark.parametrize("depth", [5, 80])
def test_the_slider_goes_through_the_slices_in_their_order(depth):
    volume = uniform((1, depth, 6, 8)).numpy()
    page = slider([("truth", volume), ("<b>", volume / 2)], at=depth - 1)
    numbers = [int(one) for one in re.search(r"\[([\d, ]+)\]\[this", page)[1].split(", ")]
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1], len(numbers)) == (1, depth, min(depth, 32))
    truth, halved = towers(page)
    expected = as_bytes(volume[0, [one - 1 for one in numbers]])
    np.testing.assert_array_equal(truth.reshape(-1, 6, 8), expected)
    assert halved.shape == truth.shape
    assert f'max="{len(numbers) - 1}" value="{len(numbers) - 1}"' in page
    assert f"<output>{depth}</output> of {depth}" in page
    assert "<b>" not in page
    assert "http" not in page


def test_large_slices_are_thinned_out_and_chosen_channels_are_shown():
    volume = uniform((4, 2, 300, 150)).numpy()
    (tower,) = towers(slider([("truth", volume)], channels=[3, 2, 1]))
    expected = as_bytes(volume[[3, 2, 1], :, ::3, ::2]).transpose(1, 2, 3, 0)
    np.testing.assert_array_equal(tower.reshape(expected.shape), expected)


def test_the_table_of_volumes_has_a_column_with_sliders_and_that_of_pictures_none():
    def table(shape):
        report = audit(
            lambda x: 0.5 * x, uniform((3, *shape)), uniform((2, *shape), 3), patterns=["half"], methods=["blind"]
        )
        return report, recovered_table(report, 2, lambda image, caption: image, lambda html: SimpleNamespace(html=html))

    report, (columns, rows) = table((1, 4, 5, 6))
    assert columns[-1] == "slices"
    assert len(rows) == 4
    for row, line in enumerate(rows[:2]):
        truth, observed, recovered = towers(line[-1].html)
        for tower, key in ((truth, "members/truth"), (observed, "members/half/observed")):
            np.testing.assert_array_equal(tower.reshape(4, 5, 6), as_bytes(report.recoveries[key][row, 0]))
        assert recovered.shape == truth.shape
    assert "slices" not in table((1, 5, 6))[1][0]

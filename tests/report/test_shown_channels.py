"""Which channels of an image pictures show: asked for, checked, said and drawn, in Python and of a run."""

import base64
import io
import json
import re

import numpy as np
import pytest
from observations import uniform
from PIL import Image

from lightning_memaudit import MemorizationAuditCallback, audit
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.report.loggers import shown_images
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.verify import verify
from lightning_memaudit.report.views import displayed, drawn_as, picture_of
from lightning_memaudit.report.wandb_run import recovered_table
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

ONCE = {"patterns": ["block-0.25"], "methods": ["blind"]}


def audited(shape, channels):
    return audit(lambda x: 0.5 * x, uniform((3, *shape)), uniform((2, *shape), 3), show_channels=channels, **ONCE)


def pictures(page):
    sources = re.findall(r"data:image/png;base64,([^\"]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


@pytest.mark.parametrize("channels", [[5, 0, 3], [7]])
def test_pictures_show_the_chosen_channels(channels, tmp_path):
    report = audited((8, 6, 7), channels)
    truths = report.recoveries["members/truth"]
    shown = truths[:, channels].transpose(0, 2, 3, 1) if len(channels) == 3 else truths[:, channels[0]]
    expected = {(255 * image.astype(np.float64)).round().astype(np.uint8).tobytes() for image in shown}
    notebook = report._repr_html_()
    page = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = {name: {image.tobytes() for image in pictures(html)} for name, html in (("a", notebook), ("b", page))}
    (logged,) = (one.images for one in shown_images(report, "memaudit", 4) if one.key.endswith("members/truth"))
    table = recovered_table(report, 4, lambda image, caption: image, None)[1]
    drawn["loggers"] = {image.tobytes() for image in logged}
    drawn["table"] = {row[4].tobytes() for row in table if row[0] == "members"}
    assert [expected <= found for found in drawn.values()] == [True] * 4
    said = drawn_as((8, 6, 7), channels)
    assert said in page
    assert notebook.count(said) == 1


def test_a_run_says_which_channels_it_shows_and_the_report_of_it_is_true(tmp_path):
    report = audited((8, 6, 7), [5, 0, 3])
    folder = RunFolder(tmp_path)
    folder.write_run({"settings": {"seed": 0, "show_channels": [5, 0, 3]}})
    report.append_to(folder)
    written = write_report(folder, figures=True)
    assert "those numbered 5, 0, 3 are shown" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert RunView(folder, written.document).channels == (5, 0, 3)
    assert [check for check in verify(folder) if check.passed is False] == []
    run = json.loads((tmp_path / "run.json").read_text())
    run["settings"]["show_channels"] = ["red"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"run.json holds show_channels=\['red'\]"):
        folder.run()


@pytest.mark.parametrize("channels", [[0, 1], [], [1, 2, -1], [0.5], "123", 3, [True]])
def test_what_is_no_choice_of_channels_is_refused(channels):
    for refuse in (
        lambda: Plan.of(show_channels=channels),
        lambda: MemorizationAuditCallback(show_channels=channels),
        lambda: audited((8, 6, 7), channels),
    ):
        with pytest.raises(ValueError, match=r"show_channels=.*pass three channels .* such as \[3, 2, 1\]") as error:
            refuse()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("shape", "count"), [((3, 6, 7), "3 channels, counted from 0 to 2"), ((1, 20), "1 channel")])
def test_channels_that_images_do_not_have_are_refused_before_the_audit(shape, count):
    with pytest.raises(ValueError, match=rf"show_channels=\[3, 2, 1\]: images have {count}") as error:
        audited(shape, [3, 2, 1])
    assert "\n" not in str(error.value)


def test_channels_of_volumes_signals_and_shared_masks():
    volume, signal = uniform((8, 4, 5, 6)).numpy(), uniform((8, 64)).numpy()
    np.testing.assert_array_equal(displayed(volume, (1, 2, 3), [7])[:5, :6], volume[7, 1].astype(np.float64))
    np.testing.assert_array_equal(picture_of(signal, channels=[4, 4, 6]), picture_of(signal[[4, 4, 6]]))
    mask = np.ones((1, 4, 5))
    assert displayed(mask, channels=[7, 6, 5]).shape == (4, 5)

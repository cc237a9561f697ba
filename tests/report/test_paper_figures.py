"""The paper's figures: what is recorded is what the method went through, and the figures show it."""

import matplotlib.image
import numpy as np
import pytest
import torch
from run_folder_fixture import make_run_folder

from lightning_memaudit import audit
from lightning_memaudit.cli.main import main
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.recovery import AutoencoderIterations, BlindRecovery
from lightning_memaudit.report.paper_figures import _psnr, fraction_figure, iteration_figures
from lightning_memaudit.results.run_folder import RunFolder

STEPS = (0, 1, 3, 10, 40)


@pytest.fixture
def stored():
    return torch.rand(6, 1, 12, 12) * 0.8 + 0.1


def remembers(stored):
    def autoencoder(images):
        nearest = stored[torch.cdist(images.flatten(1), stored.flatten(1)).argmin(1)]
        return nearest + 0.3 * (images - nearest)

    return autoencoder


def methods():
    return {
        "paper_blind": BlindRecovery("least_squares", (0.1,), record_at=STEPS),
        "autoencoder_iterations": AutoencoderIterations(record_at=STEPS),
    }


def test_what_is_saved_is_what_was_recorded(stored):
    autoencoder = remembers(stored)
    report = audit(autoencoder, stored, None, patterns=["random-0.5"], methods=methods(), block_size=4)
    observed = parse_degradation("random-0.5")(stored, range(6)).observed
    for name, method in methods().items():
        saved = {key: report.recoveries[f"members/random-0.5/{name}/trace_{key}"] for key in ("image", "mask")}
        steps = report.recoveries[f"members/random-0.5/{name}/trace_iterations"]
        assert steps.shape == (6, len(STEPS))
        assert (steps == STEPS).all()
        for image in range(6):
            trace = method(autoencoder, observed[image : image + 1]).trace
            for place, step in enumerate(STEPS):
                # An image that has converged leaves; its last state stands for the iterations it did not need.
                last = max(row for row, done in enumerate(trace.iterations) if done <= step)
                np.testing.assert_allclose(saved["image"][image, place], trace.image[last, 0], atol=1e-4)
                np.testing.assert_array_equal(saved["mask"][image, place], trace.mask[last, 0])
        assert saved["image"].shape == (6, len(STEPS), 1, 12, 12)


def test_nothing_is_recorded_unless_asked_for(stored):
    report = audit(remembers(stored), stored, None, patterns=["random-0.5"], methods=["paper_blind"])
    assert not [key for key in report.recoveries if "trace" in key]


def test_figures_of_the_iterations(stored, tmp_path):
    patterns = ["random-0.5", "random-0.9"]
    report = audit(remembers(stored), stored, stored.flip(0) * 0.5, patterns=patterns, methods=methods())
    folder = RunFolder(tmp_path / "run")
    report.append_to(folder)
    figures = iteration_figures(folder)
    assert list(figures) == ["iterations-random-0.5", "iterations-random-0.9"]
    shown = Shown(figures["iterations-random-0.5"])
    heads = shown.words(above=True)
    assert heads == ["truth", "observed", *[f"step {step}" for step in STEPS]]
    labels = [label.split("\n") for label in shown.labels()]
    assert len(labels) == 3 * 3
    assert [label[0].split(",")[0] for label in labels[::3]] == ["best", "median", "worst"]
    assert labels[0][1:] == ["paper blind"]
    assert labels[1] == ["paper blind,", "estimated mask"]
    assert labels[2] == ["autoencoder", "iterations"], "plain iteration below the proposed method"
    member = int(labels[0][0].split()[-1])
    final = report.recoveries["members/random-0.5/paper_blind/trace_image"][member, -1]
    np.testing.assert_allclose(shown.image(0, 1 + len(STEPS)), final[0], atol=1e-6)
    assert f"{_psnr(final, stored[member].numpy()):.1f} dB" in " ".join(shown.words())
    np.testing.assert_array_equal(shown.image(0, 0), stored[member, 0].numpy())
    true_mask = report.recoveries["members/random-0.5/mask"][member]
    np.testing.assert_array_equal(shown.image(1, 1), true_mask[0])


class Shown:
    """What a sheet of images shows where: images by line and column, words by their places."""

    def __init__(self, figure):
        (self.axes,) = figure.axes
        self.figure = figure
        tops = sorted({round(min(image.get_extent()[2:]), 2) for image in self.axes.images})
        lefts = sorted({round(image.get_extent()[0], 2) for image in self.axes.images})
        self.images = {
            (tops.index(round(min(image.get_extent()[2:]), 2)), lefts.index(round(image.get_extent()[0], 2))): image
            for image in self.axes.images
        }
        self.top, self.left = tops[0], lefts[0]

    def image(self, line, column):
        return self.images[line, column].get_array()

    def words(self, above=False):
        texts = [text for text in self.axes.texts if not above or 0.2 < text.get_position()[1] < self.top]
        return [text.get_text() for text in sorted(texts, key=lambda text: text.get_position()[0])]

    def labels(self):
        texts = [text for text in self.axes.texts if 0.2 < text.get_position()[0] < self.left]
        return [text.get_text() for text in sorted(texts, key=lambda text: text.get_position()[1])]


@pytest.mark.parametrize("number", [1, 2])
def test_few_images_are_called_what_they_are(stored, number):
    report = audit(remembers(stored), stored[:number], None, patterns=["random-0.5"], methods=methods())
    folder = RunFolder("few")
    report.append_to(folder)
    labels = Shown(iteration_figures(folder)["iterations-random-0.5"]).labels()[::3]
    expected = ["the only one"] if number == 1 else ["best", "worst"]
    assert [label.split(",")[0] for label in labels] == expected


def test_rates_against_missing_pixels_of_several_architectures(tmp_path, capsys):
    patterns = ("random-0.3", "random-0.9", "random-0.6", "block-0.25", "block-0.5")
    names = ("blind", "ddnm", "biharmonic")
    folders = [
        make_run_folder(
            tmp_path / name,
            patterns=patterns,
            methods=names,
            train_losses=(1e-2, 1e-5),
            seed=seed,
            num_images=4,
            num_controls=4,
        )
        for seed, name in enumerate(("fc10", "unet"))
    ]
    figure = fraction_figure(folders)
    assert [panel.get_title(loc="left").split(", members")[0] for panel in figure.axes] == [
        "fc10\nrandom",
        "fc10\nblock",
        "unet\nrandom",
        "unet\nblock",
    ]
    rows = [row for row in folders[1].audits() if row["audit"] == 1 and row["method"] == "blind"]
    rates = {row["pattern"]: row["recovery_rate"] for row in rows if row["group"] == "members"}
    line = next(one for one in figure.axes[2].lines if one.get_color() == "#0072B2" and one.get_linestyle() == "-")
    assert list(line.get_xdata()) == [0.3, 0.6, 0.9]
    assert list(line.get_ydata()) == [rates[f"random-{fraction}"] for fraction in (0.3, 0.6, 0.9)]


@pytest.mark.slow
def test_the_report_of_several_runs_comes_with_the_curve(tmp_path, capsys):
    patterns = ("random-0.3", "random-0.9")
    settings = {
        "patterns": patterns,
        "methods": ("blind",),
        "train_losses": (1e-5,),
        "num_images": 3,
        "num_controls": 2,
    }
    folders = [make_run_folder(tmp_path / name, seed=seed, **settings) for seed, name in enumerate(("fc10", "unet"))]
    assert main(["report", *[str(folder.path) for folder in folders], "--output", "both.html"]) == 0
    assert "both-missing-fraction.png" in capsys.readouterr().out
    assert matplotlib.image.imread("both-missing-fraction.png").std() > 0.05


def test_one_fraction_makes_no_curve(tmp_path):
    assert fraction_figure([make_run_folder(tmp_path, patterns=("random-0.5", "half"))]) is None

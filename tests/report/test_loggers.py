"""Loggers: each gets the numbers, and images only when asked for, by the method that it has for them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.report.labels import shortened
from lightning_memaudit.report.loggers import log_audit


class WithCaptions:
    """A logger that takes images with captions."""

    experiment = None

    def __init__(self):
        self.images, self.captions = {}, {}

    def log_metrics(self, metrics, step):
        pass

    def log_image(self, key, images, step=None, **options):
        self.images[key], self.captions[key] = images, options["caption"]


class WithoutCaptions(WithCaptions):
    def log_image(self, key, images, step=None):
        self.images[key] = images


NAMES = ["cats/0017.jpg", "\x1b[31m" + "x" * 200, "half \udcff", "$d$"]


def test_every_picture_has_its_own_caption(report):
    report.recoveries["members/names"] = np.array(NAMES)
    report.recoveries["members/random-0.5/blind/image"][0] = np.nan  # the method failed: no picture, and no caption
    report.recoveries.pop("controls/names", None)
    logger, plain = WithCaptions(), WithoutCaptions()
    for one in (logger, plain):
        log_audit(one, report, "memaudit", num_images=3)
    assert logger.images.keys() == plain.images.keys()
    captions = logger.captions["memaudit/images/members/truth"]
    assert captions == ["member cats/0017.jpg", f"member {shortened(NAMES[1], 100)}", "member half \\udcff"]
    assert len(captions[1]) == len("member ") + 100
    assert logger.captions["memaudit/images/members/random-0.5/blind/image"] == captions[1:]
    assert logger.captions["memaudit/images/controls/truth"] == ["control 0", "control 1", "control 2"]


def test_other_loggers_get_the_numbers(tmp_path, report):
    logger = CSVLogger(tmp_path)
    log_audit(logger, report, "memaudit", num_images=2)
    logger.save()
    header, row = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    numbers = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(numbers["memaudit/recovery_rate"]) == 1.0


@pytest.mark.parametrize(("loss", "depth"), [(1e-3, 3.0), (10.0, -1.0), (0.0, None), (float("nan"), None)])
def test_the_depth_rises_as_the_loss_falls_and_is_not_logged_where_there_is_none(tmp_path, report, loss, depth):
    report.headline["train_loss"] = loss
    logger = CSVLogger(tmp_path)
    log_audit(logger, report, "memaudit", num_images=0)
    logger.save()
    (row,) = csv.DictReader((Path(logger.log_dir) / "metrics.csv").open())
    assert "memaudit/recovery_rate" in row
    assert row.get("memaudit/memorization_depth") == (None if depth is None else str(depth))


class Writer:
    """What TensorBoard's logger writes to."""

    def __init__(self):
        self.images = {}

    def add_image(self, tag, img_tensor, global_step=None, walltime=None, dataformats="CHW"):
        assert dataformats == ("HW" if img_tensor.ndim == 2 else "HWC")
        self.images[tag] = img_tensor, global_step


class Client:
    """What MLflow's logger writes to."""

    def __init__(self):
        self.images = {}

    def log_image(self, run_id, image, artifact_file=None, *, key=None, step=None, timestamp=None, synchronous=None):
        assert run_id == "run 7"
        self.images[key] = image, step


class Wrapping:
    """A logger of Lightning's as far as it matters here: numbers it takes itself, all else its experiment does."""

    def __init__(self, experiment, **attributes):
        self.experiment = experiment
        self.__dict__ |= attributes

    def log_metrics(self, metrics, step):
        pass


@pytest.mark.parametrize("experiment", [Writer(), Client()])
def test_images_arrive_through_the_experiment(report, experiment):
    logger = Wrapping(experiment, **({"run_id": "run 7"} if isinstance(experiment, Client) else {}))
    assert log_audit(logger, report, "memaudit", num_images=0) is None
    assert not experiment.images
    assert log_audit(logger, report, "memaudit", num_images=2) is None
    truth = report.recoveries["members/truth"]
    for number in (0, 1):
        image, step = experiment.images[f"memaudit/images/members/truth/{number}"]
        assert step == (report.occasion.step or (0 if isinstance(experiment, Client) else None))
        assert np.array_equal(image, (255 * truth[number, 0]).round())
    assert "memaudit/images/members/random-0.5/blind/image/1" in experiment.images
    assert "memaudit/images/members/truth/2" not in experiment.images


def test_who_takes_no_images_is_said_once(tmp_path, report):
    logger, other = CSVLogger(tmp_path), CSVLogger(tmp_path, version=2)
    assert log_audit(logger, report, "memaudit", num_images=0) is None
    said = [log_audit(one, report, "memaudit", num_images=4) for one in (logger, logger, other)]
    assert said[0] == said[2] == "log_images=4: CSVLogger takes no images; the report beside the results shows them"
    assert said[1] is None
    outputs = Outputs(log_images=4)
    with pytest.warns(UserWarning, match="log_images=4: CSVLogger takes no images"):
        outputs._log([CSVLogger(tmp_path, version=3)], report, {}, raise_errors=True)


def test_the_logger_of_a_fast_dev_run_is_content(report):
    assert log_audit(DummyLogger(), report, "memaudit", num_images=2) is None

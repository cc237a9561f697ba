"""Loggers: an offline run of W&B holds what was measured, on the right axes; images only when asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from lightning_memaudit.report.labels import shortened
from lightning_memaudit.report.logged_tables import IMAGE_COLUMNS
from lightning_memaudit.report.loggers import log_audit


def records(folder):
    """Every record of the offline run in a folder, as ``wandb leet inspect`` reads it."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def log_offline(tmp_path, report, num_images):
    logger = WandbLogger(project="memaudit", save_dir=tmp_path, offline=True)
    log_audit(logger, report, "memaudit", num_images)
    logger.experiment.finish()
    return records(tmp_path)


def test_offline_run_holds_the_audit(tmp_path, report):
    found = log_offline(tmp_path, report, num_images=0)
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    (row,) = (item for item in history if "memaudit/recovery_rate" in item)
    assert row["memaudit/recovery_rate"] == report.headline["recovery_rate"] == 1.0
    assert row["memaudit/train_loss"] == report.headline["train_loss"] == 0.0
    assert row["memaudit/control_recovery_rate"] == 0.0
    assert row["memaudit/random-0.5/blind/recovery_rate"] == 1.0
    assert row["memaudit/random-0.5/biharmonic/recovery_rate"] == report.rate("biharmonic", "random-0.5")
    axes = {
        record["metric"].get("glob_name"): record["metric"].get("step_metric")
        for record in found
        if record["type"] == "metric"
    }
    assert axes["memaudit/*"] == "memaudit/train_loss"
    keys = {key for item in history for key in item}
    assert {"memaudit/rates", "memaudit/image_table"} <= {key.split(".")[0] for key in keys}
    assert not any(key.startswith("memaudit/images/") for key in keys)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/memaudit/image_table*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == list(IMAGE_COLUMNS)
    assert len(content["data"]) == 7  # images, as the audited method recovered them


def test_images_are_logged_only_when_asked(tmp_path, report):
    found = log_offline(tmp_path, report, num_images=2)
    keys = {key for record in found if record["type"] == "history" for key in record["history"]["item"]}
    assert any(key.startswith("memaudit/images/members/random-0.5/blind/image") for key in keys)
    paths = tmp_path.glob("wandb/offline-run-*/files/media/images/memaudit/images/members/truth*.png")
    pictures = sorted(np.asarray(Image.open(path)).tolist() for path in paths)
    assert pictures == sorted((255 * truth[0]).round().tolist() for truth in report.recoveries["members/truth"][:2])


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


def test_wandb_gets_names_in_table_and_captions(tmp_path, report, monkeypatch):
    rows = [row | ({"name": NAMES[row["position"]]} if row["group"] == "members" else {}) for row in report.images]
    monkeypatch.setattr(type(report), "images", property(lambda self: rows))
    report.recoveries["members/names"] = np.array(NAMES)
    found = log_offline(tmp_path, report, num_images=1)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/memaudit/image_table*.json")
    content = json.loads(table.read_text())
    column = [row[content["columns"].index("name")] for row in content["data"]]
    assert column[:4] == ["cats/0017.jpg", "\\x1b[31m" + "x" * 200, "half \\udcff", "$d$"]
    assert "member cats/0017.jpg" in json.dumps(found)


def test_other_loggers_get_the_numbers(tmp_path, report):
    logger = CSVLogger(tmp_path)
    log_audit(logger, report, "memaudit", num_images=2)
    logger.save()
    header, row = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    numbers = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(numbers["memaudit/recovery_rate"]) == 1.0

"""W&B: an offline run, read back, holds every metric on its axis, the pictures at one step, the verdict."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
from autoencoders import memory
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_memaudit import audit
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.report.logged_tables import IMAGE_COLUMNS
from lightning_memaudit.report.loggers import log_audit
from lightning_memaudit.results.rows import headline_names

AXIS = "memaudit/memorization_depth"
NAMES = ["cats/0017.jpg", "\x1b[31m" + "x" * 200, "half \udcff", "$d$"]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


def records(folder):
    """Every record of the offline run in a folder, as ``wandb leet inspect`` reads it."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    if wandb.__version__.startswith("0.30."):
        pytest.skip("wandb prints records as JSON from 0.31 on")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def offline(folder):
    return WandbLogger(project="memaudit", save_dir=folder, offline=True)


def log_offline(folder, report, num_images):
    logger = offline(folder)
    log_audit(logger, report, "memaudit", num_images)
    logger.experiment.finish()
    return records(folder)


def audited_rows(found):
    """What was logged at each step at which an audit was."""
    items = [record["history"]["item"] for record in found if record["type"] == "history"]
    return [item for item in items if any(key.startswith("memaudit/") for key in item)]


def staged_pictures(folder):
    """Those that W&B keeps for its tables until it sends them."""
    paths = [path for path in (folder / "staging").rglob("*") if path.is_file()]
    return [np.asarray(Image.open(path)).tolist() for path in paths if path.read_bytes().startswith(b"\x89PNG")]


def summary(found):
    last = {}
    for record in found:
        if record["type"] == "summary":
            last |= record["summary"].get("update", {})
    return last


def test_offline_run_holds_the_audit(tmp_path, report):
    report.headline["train_loss"] = 1e-4
    found = log_offline(tmp_path, report, num_images=0)
    (row,) = audited_rows(found)
    assert row["memaudit/recovery_rate"] == report.headline["recovery_rate"] == 1.0
    assert row["memaudit/train_loss"] == 1e-4
    assert row[AXIS] == 4.0
    assert row["memaudit/control_recovery_rate"] == 0.0
    assert row["memaudit/random-0.5/blind/recovery_rate"] == 1.0
    assert row["memaudit/random-0.5/biharmonic/recovery_rate"] == report.rate("biharmonic", "random-0.5")
    assert {"memaudit/rates", "memaudit/image_table"} <= {key.split("._")[0] for key in row}
    assert not any("recovered_images" in key for key in row)
    assert not staged_pictures(tmp_path)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/memaudit/image_table*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == list(IMAGE_COLUMNS)
    assert len(content["data"]) == 7  # images, as the audited method recovered them


def test_every_metric_is_defined_by_its_own_name_before_it_is_logged(tmp_path, report):
    report.headline.pop("gain_auroc")  # one that only a later audit has
    found = log_offline(tmp_path, report, num_images=0)
    defined = {}
    for record in found:
        if record["type"] == "metric":
            metric = record["metric"]
            assert not metric.get("glob_name", "").startswith("memaudit")
            defined[metric.get("name")] = metric.get("step_metric"), metric["options"].get("step_sync", False)
        if record["type"] == "history":
            numbers = {key for key, value in record["history"]["item"].items() if isinstance(value, int | float)}
            numbers = {key for key in numbers if key.startswith("memaudit/") and "._" not in key and ".n" not in key}
            assert {key for key in numbers if not key.endswith((".size",))} <= defined.keys()
    cells = [("random-0.5", "blind"), ("random-0.5", "biharmonic")]
    for name in (*headline_names(cells), "random-0.5/blind/control_recovery_rate", "audit", "epoch"):
        assert defined[f"memaudit/{name}"] == (AXIS, False), name
    assert AXIS in defined


def test_an_audit_without_a_place_on_the_axis_does_not_take_that_of_the_one_before(tmp_path, report):
    logger = offline(tmp_path)
    gain = report.headline["gain_auroc"]
    for loss in (1e-2, 0.0):
        report.headline["train_loss"] = loss
        log_audit(logger, report, "memaudit", 0)
        report.headline.pop("gain_auroc", None)
    logger.experiment.finish()
    found = records(tmp_path)
    first, second = audited_rows(found)
    assert first[AXIS] == 2.0
    assert first["memaudit/gain_auroc"] == gain
    assert AXIS not in second
    assert second["memaudit/recovery_rate"] == 1.0
    told = summary(found)
    assert told["memaudit/gain_auroc"] is told[AXIS] is None, "nor does the summary keep what was measured before"


def test_pictures_of_one_image_stand_side_by_side_at_the_step_of_its_numbers(tmp_path, report):
    report.recoveries["members/random-0.5/biharmonic/image"][1] = np.nan  # the method failed
    found = log_offline(tmp_path, report, num_images=2)
    (row,) = audited_rows(found)
    assert row["memaudit/recovered_images.nrows"] == 4
    assert row["memaudit/recovery_rate"] == 1.0
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/memaudit/recovered_images*.json")
    columns = json.loads(table.read_text())["columns"]
    assert columns == ["group", "image", "name", "pattern", "truth", "observed", "mask", "blind", "biharmonic"]


def test_the_table_shows_each_image_as_it_is_with_its_psnr(report):
    from lightning_memaudit.report.wandb_run import recovered_table

    report.recoveries["members/random-0.5/biharmonic/image"][1] = np.nan
    _, rows = recovered_table(report, 2, lambda image, caption: SimpleNamespace(image=image, caption=caption), None)
    assert [row[:4] for row in rows][:2] == [["members", 0, "0", "random-0.5"], ["members", 1, "1", "random-0.5"]]
    _, _, _, _, truth, observed, mask, blind, biharmonic = rows[0]
    arrays = report.recoveries
    assert np.array_equal(truth.image, (255 * arrays["members/truth"][0, 0]).round())
    assert np.array_equal(observed.image, (255 * arrays["members/random-0.5/observed"][0, 0]).round())
    assert np.array_equal(mask.image, 255 * arrays["members/random-0.5/mask"][0, 0])
    error = np.square(arrays["members/random-0.5/biharmonic/image"][0] - arrays["members/truth"][0]).mean()
    assert biharmonic.caption == f"biharmonic {-10 * np.log10(error):.1f} dB"
    assert blind.caption.startswith("blind ")
    assert (truth.caption, observed.caption, mask.caption) == ("member 0", "random-0.5", "mask")
    assert rows[1][-1] is None


def test_wandb_gets_names_in_table_and_captions(tmp_path, report, monkeypatch):
    rows = [row | ({"name": NAMES[row["position"]]} if row["group"] == "members" else {}) for row in report.images]
    monkeypatch.setattr(type(report), "images", property(lambda self: rows))
    report.recoveries["members/names"] = np.array(NAMES)
    log_offline(tmp_path, report, num_images=2)
    for name in ("image_table", "recovered_images"):
        (table,) = tmp_path.glob(f"wandb/offline-run-*/files/media/table/memaudit/{name}*.json")
        content = json.loads(table.read_text())
        column = [row[content["columns"].index("name")] for row in content["data"]]
        assert column[:2] == ["cats/0017.jpg", "\\x1b[31m" + "x" * 200]


def test_pictures_are_bytes_of_the_images(tmp_path, report):
    log_offline(tmp_path, report, num_images=1)
    pictures = staged_pictures(tmp_path)
    assert (255 * report.recoveries["members/truth"][0, 0]).round().tolist() in pictures
    assert (255 * report.recoveries["members/truth"][1, 0]).round().tolist() not in pictures


def test_the_summary_sorts_runs_by_verdict(tmp_path, report):
    found = summary(log_offline(tmp_path, report, num_images=0))
    assert found["memaudit/outcome"] == report.verdict.outcome
    assert found["memaudit/num_memorized"] == report.num_memorized == 4
    assert found["memaudit/memorized_rate"] == 1.0
    assert found["memaudit/memorized_rate_low"] == report.headline["memorized_rate_low"]
    assert found["memaudit/beyond_inpainting"] == 1.0
    assert "memaudit/extracted" not in found, "nobody asked for it"


def test_the_settings_are_in_the_config_unless_the_command_line_put_them_there(tmp_path, report):
    logger = offline(tmp_path)
    log_audit(logger, report, "memaudit", 0, {"seed": 3})
    log_audit(logger, report, "memaudit", 0, {"seed": 4})
    assert dict(logger.experiment.config)["memaudit"] == {"seed": 3}
    assert "other" not in logger.experiment.config


def test_the_settings_are_those_of_the_callback_and_of_the_command():
    where = Outputs()
    audit_once = SimpleNamespace(where=where)  # as the command has it: without a schedule
    callback = SimpleNamespace(where=where, when=Schedule(at_epochs=[0], at_train_loss=[1e-3]))
    run = {"settings": {"seed": 3, "patterns": ("half",)}, "members": {"num_images": 7}, "controls": None}
    expected = {"seed": 3, "patterns": ["half"], "num_members": 7, "num_controls": None}
    assert where._settings(SimpleNamespace(callbacks=[audit_once]), run) == expected
    found = where._settings(SimpleNamespace(callbacks=[audit_once, callback]), run)
    schedule = {"every_n_epochs": None, "at_epochs": [0], "at_train_loss": [1e-3], "at_fit_end": True}
    assert found == expected | schedule


@pytest.mark.parametrize("asked", [False, True])
def test_the_report_is_an_artifact_with_training_data_only_when_asked(tmp_path, finished, asked):
    folder, written = finished
    logger = offline(tmp_path)
    sent = {}
    logger.experiment.log_artifact = lambda artifact: sent.update(
        {name: open(entry.local_path, "rb").read() for name, entry in artifact.manifest.entries.items()}  # noqa: SIM115, PTH123
    )
    Outputs(figures=False, print_table=False, log_recoveries=asked).write_report(folder, [logger])
    logger.experiment.finish()
    assert sent.keys() == ({"report.html", "report.json", "audit-0002.npz"} if asked else {"report.html"})
    assert (b"data:image" in sent["report.html"]) == asked
    told = summary(records(tmp_path))
    assert told["memaudit/outcome"] == written.document["verdict"]["outcome"] == "memorized"
    assert told["memaudit/memorized_rate"] == written.document["memorized_rate"]["rate"]


def test_a_logger_that_fails_at_the_end_does_not_cost_the_report(tmp_path, finished):
    logger = offline(tmp_path)
    logger.experiment.log_artifact = lambda artifact: 1 / 0
    with pytest.warns(UserWarning, match="WandbLogger did not take the report: ZeroDivisionError"):
        Outputs(figures=False, print_table=False).write_report(finished[0], [logger])
    logger.experiment.finish()


def test_what_came_out_by_itself_is_a_count_in_the_summary(tmp_path):
    members = torch.rand(4, 1, 12, 12)
    report = audit(memory(members), members, None, patterns=["half"], methods=["blind", "biharmonic"], extraction=8)
    found = summary(log_offline(tmp_path, report, num_images=0))
    assert found["memaudit/extracted"] == report.extraction.num_extracted

"""What goes wrong during an audit: the training goes on, the failure is said, and nothing written is lost or torn."""

import errno
import json
import os
import resource
import shutil
import warnings

import pytest
import torch
from fault_workers import FaultyModule, fit, numbers, raising, results
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from lightning_memaudit.results.run_folder import RunFolder

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]

# Failures of the model: (which calls of the second audit, what it does) -> (warning, audits that remain)

MODEL_FAULTS = {
    "raises at the first call": (lambda call: call == 1, raising(RuntimeError("no")), "the training goes on", [0, 2]),
    "raises at a later call": (lambda call: call == 7, raising(RuntimeError("no")), "RuntimeError: no", [0, 1, 2]),
    "raises at every call": (lambda call: True, raising(KeyError("x")), "KeyError: 'x'", [0]),
    "returns another shape": (lambda call: call == 7, lambda x: x[:, :, :2], "returned shape", [0, 1, 2]),
    "returns no tensor": (lambda call: call == 1, lambda x: [x], "not a tensor", [0, 2]),
    "runs out of memory": (
        lambda call: call in (1, 7),
        raising(torch.OutOfMemoryError("CUDA out of memory")),
        "out of memory with 4 images at once, going on with fewer",
        [0, 1, 2],
    ),
    "runs out of memory on the CPU": (
        lambda call: call == 7,
        raising(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")),
        "out of memory with",
        [0, 1, 2],
    ),
    "runs out of memory with a single image": (
        lambda call: True,
        raising(torch.OutOfMemoryError("CUDA out of memory")),
        "OutOfMemoryError: CUDA out of memory",
        [0],
    ),
    "a broken assertion": (lambda call: call == 7, raising(AssertionError("no")), "AssertionError: no", [0, 1, 2]),
    "a lost device": (lambda call: call == 7, raising(OSError("device lost")), "OSError: device lost", [0, 1, 2]),
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run in which nothing fails."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_memaudit.report.write.write_report", lambda *_, **__: None)
        fit(folder, save_recoveries=0)
    return folder


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_model_that_fails(fault, calls_before, undisturbed):
    at_call, act, message, remaining = MODEL_FAULTS[fault]
    before = calls_before[1]
    last = calls_before[2] if remaining != [0] else 10**9
    module = FaultyModule(lambda call: before < call <= last and at_call(call - before), act)
    with pytest.warns(UserWarning, match=message):
        trainer, _ = fit(".", module)
    assert trainer.global_step == 9, "the training went on"
    assert numbers() == remaining
    assert float(module.weight) == float(torch.load(undisturbed / "saved" / "last.ckpt")["state_dict"]["weight"])


@pytest.mark.parametrize("fault", [fault for fault in MODEL_FAULTS if not fault.startswith("runs out of memory")])
def test_a_model_that_fails_ends_the_run_when_asked(fault, calls_before):
    at_call, act, _, _ = MODEL_FAULTS[fault]
    module = FaultyModule(lambda call: at_call(call - calls_before[1]), act)
    with pytest.raises(Exception):  # noqa: B017, PT011
        fit(".", module, on_error="raise")
    assert float(module.weight) != 0.9


def test_failed_images_are_counted_as_failed_not_as_unrecovered(calls_before):
    """The second failure meets one pattern alone, after all patterns together."""
    before = calls_before[1]
    with pytest.warns(UserWarning, match="autoencoder_iterations failed on members, half: RuntimeError: no"):
        fit(".", FaultyModule(lambda call: call in (before + 7, before + 8), raising(RuntimeError("no"))))
    failed = [
        (row["audit"], row["group"], row["pattern"], row["num_failed"]) for row in results()[0] if row["num_failed"]
    ]
    assert failed == [(1, "members", "half", 4)], "one block"
    assert sum(row["failed"] for row in results()[1]) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_counted_as_diverged(value, calls_before):
    """Also in JSON, which knows neither."""
    before = calls_before[1]
    trainer, callback = fit(".", FaultyModule(lambda call: call > before, lambda x: torch.full_like(x, value)))
    assert trainer.global_step == 9
    for row in results()[0]:
        if row["method"] == "autoencoder_iterations":
            broken = row["audit"] > 0
            assert row["num_diverged"] == (6 if broken else 0)
            assert row["num_recovered"] == 0
            assert (row["train_loss"] is None) == broken
    for name in ("audits.jsonl", "images.jsonl"):
        for line in (RunFolder("memaudit").path / name).read_text().splitlines():
            json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    assert callback.last_report is not None


def test_out_of_memory_changes_no_result_and_is_said_once():
    def hungry(x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit("hungry", FaultyModule(lambda call: True, hungry), max_epochs=1)
    assert sum("out of memory" in str(one.message) for one in caught) == 1 + 1, "before the first step, in the audit"
    fit("enough", FaultyModule(), max_epochs=1)
    for one, other in zip(results("hungry"), results("enough"), strict=True):
        for row, same in zip(one, other, strict=True):
            assert row["method"] == same["method"]
            assert row.get("num_evaluations") == same.get("num_evaluations")
            for name in ("psnr", "psnr_mean", "train_loss", "num_recovered"):
                assert name not in row or row[name] == pytest.approx(same[name], rel=1e-5)


# Failures of the disk


class At(Callback):
    """Acts before the audit of an epoch, and undoes it after the next."""

    def __init__(self, epoch, act, undo=lambda: None):
        self.epoch, self.act, self.undo = epoch, act, undo

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.act()
        elif trainer.current_epoch == self.epoch + 1:
            self.undo()


@pytest.mark.parametrize("name", ["audits.jsonl", "images.jsonl"])
@pytest.mark.parametrize("extra", [0, 1, 700])
def test_a_full_disk_loses_only_the_audit_in_progress(name, extra, undisturbed):
    """A real one: the kernel cuts the file in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = RunFolder("memaudit").path / name

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + extra, hard))

    def empty():
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        with pytest.warns(
            UserWarning, match=r"memorization audit 1 .* failed, the training goes on: OSError: .*too large"
        ):
            # The checkpoints of epoch 1 are small enough to pass.
            fit(".", None, [At(1, fill, empty)], save_recoveries=0)
    except OSError:
        pytest.skip("the limit also stopped the checkpoint")
    finally:
        empty()
    audits, images = results()
    assert numbers() == [0, 2]
    expected = results(undisturbed)
    assert audits == [row for row in expected[0] if row["audit"] != 1]
    assert images == [row for row in expected[1] if row["audit"] != 1]
    text = (RunFolder("memaudit").path / "images.jsonl").read_text()
    assert len(text.splitlines()) == len(images), "what was torn is gone"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_write_that_fails_loses_only_the_audit_in_progress(number, monkeypatch):
    original, count = os.fsync, [-10_000]

    def fsync(descriptor):
        count[0] += 1
        if count[0] == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    begins = At(1, lambda: count.__setitem__(0, 0))
    with pytest.warns(UserWarning, match="memorization audit 1 .* No space left on device"):
        fit(".", None, [begins])
    # The third comes when all is written.
    assert numbers() == ([0, 2] if number < 3 else [0, 1, 2])
    assert not list(RunFolder("memaudit").path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("what", "remaining"),
    [
        ("memaudit", [1, 2]),
        ("memaudit/recoveries", [0, 2]),
        ("memaudit/audits.jsonl", [1, 2]),
        ("memaudit/run.json", [0, 1, 2]),
    ],
)
def test_what_was_removed_is_made_again(what, remaining):
    def remove():
        shutil.rmtree(what) if os.path.isdir(what) else os.remove(what)  # noqa: PTH107, PTH112

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer, _ = fit(".", None, [At(1, remove)])
    assert trainer.global_step == 9
    assert numbers() == remaining
    assert RunFolder("memaudit").run()["members"]["num_images"] == 6
    assert RunFolder("memaudit").newest_recoveries().arrays["members/truth"].shape == (6, 1, 8, 8)


def test_a_folder_replaced_by_a_file_is_said_and_the_training_goes_on():
    def replace():
        shutil.rmtree("memaudit")
        with open("memaudit", "w"):  # noqa: PTH123
            pass

    with pytest.warns(UserWarning, match="a file is in its way"):
        trainer, _ = fit(".", None, [At(1, replace)])
    assert trainer.global_step == 9


# Failures of loggers, tables and figures


class Unreachable(CSVLogger):
    def log_metrics(self, metrics, step=None):
        if any(name.startswith("memaudit/") for name in metrics):
            raise ConnectionError("server is down")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_costs_neither_audit_nor_the_other_loggers(tmp_path):
    logger = [Unreachable(tmp_path / "a"), CSVLogger(tmp_path / "b", "csv", 0)]
    with pytest.warns(UserWarning, match="Unreachable did not take the audit: ConnectionError: server is down"):
        trainer, _ = fit(".", logger=logger)
    assert numbers() == [0, 1, 2]
    assert "memaudit/recovery_rate" in trainer.callback_metrics
    assert "memaudit/recovery_rate" in (tmp_path / "b" / "csv" / "version_0" / "metrics.csv").read_text()
    with pytest.raises(ConnectionError):
        fit("other", logger=Unreachable(tmp_path / "c"), on_error="raise")
    assert numbers("other") == [0], "written before the logger was asked"


def test_a_report_that_cannot_be_written_is_said(monkeypatch):
    import lightning_memaudit.report.write as report

    monkeypatch.setattr(report, "write_report", raising(ValueError("no ink")))
    with pytest.warns(UserWarning, match="ValueError: no ink"):
        fit(".", figures=True)
    assert numbers() == [0, 1, 2]

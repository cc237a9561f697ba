"""From one fit to the next: several fits of one callback, reruns into one folder, kills, and processes of their own."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Module, audit_callback, fit, images, rows, trainer_with

from lightning_memaudit.cli.main import main
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*")


def loaders(fold=0, std=1.0):
    """Members and controls of a fold; tensors are data sets that any process can be given."""
    return DataLoader(images(6, seed=fold) / std, 2), DataLoader(images(4, seed=100 + fold) / std)


def hashes_of_members(folder="memaudit"):
    return RunFolder(folder).run()["members"]["sha256"]


def is_true(folder):
    return main(["verify", str(folder)]) == 0


@pytest.mark.usefixtures("without_report", "reads_here")
@pytest.mark.parametrize("folders", ["one", "one each"])
def test_cross_validation_with_one_callback_audits_every_fold(folders):
    callback = audit_callback(at_epochs=[0], at_train_loss=[1.0], every_n_epochs=2)
    found = []
    for fold in range(3):
        root = f"fold-{fold}" if folders == "one each" else "."
        fit(callback, Module(), *loaders(fold), max_epochs=2, default_root_dir=root)
        written = rows(f"{root}/memaudit")
        assert [(row["audit"], row["epoch"], row["step"]) for row in written] == [(0, 0, 0), (1, 1, 3), (2, 2, 6)]
        assert [row["trigger"] for row in written] == ["epoch 0", "train_loss<=1", "epoch 2"]
        members = [row["psnr"] for row in callback.last_report.images if row["group"] == "members"]
        assert members == [row["psnr"] for row in RunFolder(f"{root}/memaudit").images(2) if row["group"] == "members"]
        found.append(members)
    assert len(set(map(tuple, found))) == 3, "each fold has images of its own"
    if folders == "one":
        every = [hashes_of_members(f"memaudit{aside}") for aside in ("/superseded-1", "/superseded-2", "")]
        assert len(set(every)) == 3
        assert all(len(rows(f"memaudit/superseded-{number}")) == 3 for number in (1, 2))


@pytest.mark.usefixtures("without_report")
def test_the_same_trainer_goes_on_with_its_module_and_starts_afresh_with_another():
    callback = audit_callback(every_n_epochs=1)
    module, trainer = Module(), trainer_with(callback, max_epochs=2)
    trainer.fit(module, *loaders())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, *loaders())
    assert [(row["audit"], row["epoch"], row["step"]) for row in rows()] == [(0, 1, 3), (1, 2, 6), (2, 3, 9)]
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit(Module(), *loaders(1))
    assert [(row["audit"], row["epoch"]) for row in rows()] == [(0, 1), (1, 2), (2, 3)]
    assert len(rows("memaudit/superseded-1")) == 3
    assert hashes_of_members() != hashes_of_members("memaudit/superseded-1")


@pytest.mark.usefixtures("without_report")
def test_a_fit_that_fails_before_its_first_audit_has_no_report_of_the_fit_before():
    callback = audit_callback(every_n_epochs=1)
    fit(callback, Module(), *loaders())
    assert callback.last_report is not None

    class Fails(Module):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(callback, Fails(), *loaders())
    assert callback.last_report is None
    fit(callback, Module(), *loaders())  # nothing is left locked
    assert callback.last_report is not None


@pytest.mark.slow
def test_a_finished_run_is_set_aside_whole_and_both_reports_are_true(capsys):
    """Also with the config that Lightning has replaced by then."""
    everything = {"figures": True, "num_proximal": 2, "largest_missing": True, "seed": 3}
    Path("config.yaml").write_text("of: the first")
    fit(audit_callback(**everything), Module(), *loaders())
    assert is_true(".")
    first = {file.name: file.read_bytes() for file in Path("memaudit").iterdir() if file.is_file()}
    Path("config.yaml").write_text("of: the second")

    class Look(lightning.Callback):
        def on_train_batch_start(self, *_):  # before the first audit of the second run, the first is out of its way
            assert is_true("memaudit/superseded-1")
            assert {one.name for one in Path("memaudit").iterdir()} == {
                ".lock", "superseded-1", "run.json", "run_config.yaml", "recoveries"
            }  # fmt: skip

    fit([audit_callback(seed=4), Look()], Module(), *loaders(1))
    aside = {file.name: file.read_bytes() for file in Path("memaudit/superseded-1").iterdir() if file.is_file()}
    assert aside == {name: text for name, text in first.items() if name != ".lock"}
    assert sorted(path.name for path in Path("memaudit/superseded-1").iterdir() if path.is_dir()) == [
        "figures",
        "recoveries",
    ]
    assert RunFolder("memaudit/superseded-1").config().read_text() == "of: the first"
    assert RunFolder("memaudit").config().read_text() == "of: the second"
    assert RunFolder("memaudit/superseded-1").run()["settings"]["seed"] == 3
    assert RunFolder.find(".").run()["settings"]["seed"] == 4
    assert is_true(".")
    assert main(["report", ".", "--no_figures"]) == 0
    assert is_true(".")
    assert is_true("memaudit/superseded-1")
    assert not list(Path("memaudit").glob("superseded-2"))


@pytest.mark.slow
def test_resumed_from_an_older_checkpoint_the_replaced_history_has_its_own_settings_and_report():
    def run(checkpoint=None, **settings):
        saver = ModelCheckpoint("saved", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        fit([audit_callback(every_n_epochs=1, **settings), saver], Module(), *loaders(), checkpoint, max_epochs=3)

    run(threshold_db=20.0)
    run("saved/epoch=0.ckpt", threshold_db=25.0)
    assert [(row["audit"], row["threshold_db"]) for row in rows()] == [(0, 20.0), (1, 25.0), (2, 25.0)]
    assert [row["threshold_db"] for row in rows("memaudit/superseded-1")] == [20.0] * 3
    assert RunFolder("memaudit/superseded-1").run()["settings"]["threshold_db"] == 20.0
    assert RunFolder("memaudit").run()["settings"]["threshold_db"] == 25.0
    assert is_true("memaudit/superseded-1")
    assert is_true(".")


def test_two_runs_at_once_in_one_folder_are_one_too_many():
    sessions = []

    class Inside(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            sessions.append(trainer.callbacks[0]._session)  # the lock must not wait for the last reference to go
            trial = audit_callback()
            fit(trial, Module(), *loaders(), fast_dev_run=True)  # writes nothing, so that it may
            assert trial.last_report is not None
            with pytest.raises(PermissionError, match=rf"memaudit is in use by process {os.getpid()} on .*dirpath"):
                fit(audit_callback(), Module(), *loaders())
            fit(audit_callback(name="other"), Module(), *loaders())

    fit([audit_callback(), Inside()], Module(), *loaders())
    fit(audit_callback(), Module(), *loaders())
    assert len(rows()) == len(rows("other")) == 1


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
import lightning_memaudit.report.write as report
from lightning.pytorch.callbacks import ModelCheckpoint
from test_run_life import audit_callback, fit, loaders, Module
report.write_report = lambda *_, **__: os._exit(9)
saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end={at_epoch_end})
fit([audit_callback(every_n_epochs=2, largest_missing=True), saver], Module(), *loaders(), max_epochs={epochs})
"""


@pytest.mark.parametrize(
    ("at_epoch_end", "epochs"),
    [pytest.param(*case, marks=pytest.mark.slow) for case in ((True, 2), (False, 2), (True, 3))],
)
def test_killed_between_the_last_audit_and_the_report_resuming_writes_it(at_epoch_end, epochs):
    """The last audit was that of the last epoch, known to the checkpoint or not, or that at the end of fit."""
    here = Path(__file__).parent
    code = KILLED.format(paths=[str(here), str(here.parent / "helpers")], at_epoch_end=at_epoch_end, epochs=epochs)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    before = rows()
    assert not Path("memaudit/report.json").exists()
    measured = Path("memaudit/largest_missing.json").read_bytes()
    for file in (None, "report.json", "largest_missing.json"):
        if file:
            Path("memaudit", file).unlink()  # of the run that is finished by now
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=at_epoch_end)
        callback = audit_callback(every_n_epochs=2, largest_missing=True)
        fit([callback, saver], Module(), *loaders(), "saved/last.ckpt", max_epochs=epochs)
        assert is_true(".")
        assert json.loads(Path("memaudit/largest_missing.json").read_bytes()) == json.loads(measured)
        if at_epoch_end:
            assert rows() == before
            assert not list(Path("memaudit").glob("superseded-*"))
        else:  # the checkpoint is from before the end of the epoch, which is done again, with its audit
            assert [row["weights_sha256"] for row in rows()] == [row["weights_sha256"] for row in before]


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_the_callback_can_be_pickled_and_copied_at_any_time():
    def copies(callback):
        yield pickle.loads(pickle.dumps(callback))
        yield copy.deepcopy(callback)

    class During(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            for other in copies(trainer.callbacks[0]):
                assert not set(map(id, vars(other).values())) & {id(trainer), id(trainer.lightning_module)}

    callback = audit_callback(every_n_epochs=1)
    for other in copies(callback):
        fit(other, Module(), *loaders())
        assert callback.last_report is None
        assert other.last_report.rows[0]["epoch"] == 1
    spawned, copied = copies(callback)
    assert spawned._handover.path == callback._handover.path != copied._handover.path
    fit([callback, During()], Module(), *loaders())
    for other in copies(callback):
        assert other.last_report.rows == callback.last_report.rows
        fit(other, Module(), *loaders(1), max_epochs=2)
        assert (other.last_report.rows[0]["epoch"], callback.last_report.rows[0]["epoch"]) == (2, 1)


def reconstruct(module, pictures):
    return module(pictures)


def unwrap(batch):
    return batch


LAUNCHED = """
import sys
sys.path[:0] = {paths!r}
from test_run_life import in_processes
if __name__ == "__main__":
    in_processes({strategy!r})
"""


def in_processes(strategy):
    """Three fits in processes of their own: two folds, then one that dies before its first audit."""
    torch.set_num_threads(1)
    import lightning_memaudit.report.write as report

    report.write_report = lambda *_, **__: None
    callback = audit_callback(every_n_epochs=1, reconstruct=reconstruct)
    module = Module(unwrap)
    path, outcome = callback._handover.path, {"reports": []}
    for fold in range(2 if strategy == "ddp_fork" else 1):
        settings = {"max_epochs": fold + 1, "strategy": strategy, "devices": 2, "num_sanity_val_steps": 0}
        fit(callback, module, *loaders(fold), **settings)
        outcome["mode"] = oct(path.stat().st_mode & 0o777)
        read = [callback.last_report for _ in range(2)]
        outcome["reports"].append([(one.rows[0]["epoch"], one.rows[0]["num_images"]) for one in read])
        outcome["left"] = path.exists()
    if strategy == "ddp_fork":
        try:
            fit(callback, Dies(unwrap), *loaders(), **settings)
        except Exception:
            outcome["after_a_failure"] = callback.last_report is None
        fit(callback, module, *loaders(), **settings)  # the report is never asked for
    Path("outcome.json").write_text(json.dumps(outcome | {"path": str(path)}))


class Dies(Module):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("broken")


@pytest.mark.parametrize("strategy", [pytest.param(name, marks=pytest.mark.slow) for name in ("ddp_fork", "ddp_spawn")])
def test_the_last_report_comes_back_from_processes_that_fit_launched(strategy, tmp_path):
    """In an interpreter of its own, as neither may be launched from one that has threads, or is no script."""
    here = Path(__file__).parent
    Path("script.py").write_text(
        LAUNCHED.format(paths=[str(here), str(here.parent / "helpers")], strategy=strategy), encoding="utf-8"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for _ in range(3):  # another program may take the port that Lightning has found free
        done = subprocess.run(
            [sys.executable, "script.py"], capture_output=True, text=True, check=False, env=environment
        )
        if "EADDRINUSE" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(Path("outcome.json").read_text())
    folds = [[[1, 6]] * 2, [[2, 6]] * 2]
    assert outcome["reports"] == (folds if strategy == "ddp_fork" else folds[:1])
    assert outcome["mode"] == "0o600"
    assert not outcome["left"]
    assert outcome.get("after_a_failure", strategy == "ddp_spawn")
    assert Path(outcome["path"]).parent == tmp_path
    assert not list(tmp_path.glob("memaudit-*")), "nor is one left that nobody asked for"


def test_only_what_this_user_alone_may_write_is_unpickled(tmp_path):
    handover = audit_callback()._handover
    handover.put(None)
    handover.path.chmod(0o666)
    assert handover.take() == ()
    handover.path.unlink()
    harmful = tmp_path / "harmful.pickle"
    harmful.write_bytes(pickle.dumps(None))
    harmful.chmod(0o600)
    handover.path.symlink_to(harmful)
    assert handover.take() == ()
    handover.path.unlink()


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("scale", "settings", "said"),
    [
        (100.0, {}, "at_train_loss=[0.05]: never reached by the loss of training_step, 0.3"),
        (100.0, {"std": [0.1], "mean": [0.0]}, "in the units of std=[0.1]"),
        (100.0, {"at_fit_end": False}, "so that there was no audit"),
        (1.0, {}, None),  # reached
        (1e9, {"at_train_loss": [1e-9]}, None),  # neither of the two is that low
    ],
)
def test_a_level_that_was_meant_for_the_other_loss_is_pointed_out(scale, settings, said, recwarn):
    class Scaled(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * scale

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)

    callback = audit_callback(**({"at_train_loss": [0.05]} | settings))
    fit(callback, Scaled(), *loaders(std=settings.get("std", [1.0])[0]))
    messages = [str(one.message) for one in recwarn if "at_train_loss" in str(one.message)]
    assert bool(messages) == bool(said)
    if said:
        (message,) = messages
        assert said in message
        assert "pass at_epochs" in message
        if callback.last_report is not None:
            members_mse = callback.last_report.headline["train_loss"]
            assert members_mse == pytest.approx(0.01 * float((images(6) ** 2).mean()), rel=1e-4)
            assert f"mean squared error in [0, 1] is {members_mse:.3g}" in message

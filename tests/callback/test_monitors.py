"""Monitors of an audit's numbers: refused where they would look too early, and shown the newest number otherwise."""

import warnings
from itertools import product

import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows

from lightning_memaudit.results.rows import headline_names

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


def monitored(*callbacks, validation=True, **arguments):
    loaders = [DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1))) if validation else None]
    audit = audit_callback(controls=Items(images(4, seed=1)), **arguments)
    return fit([audit, *callbacks], Module(), *loaders, max_epochs=4)


def at_epoch_end(**arguments):
    return EarlyStopping("memaudit/recovery_rate", check_on_train_epoch_end=True, **arguments)


def test_monitors_before_the_first_audit_are_refused_with_the_mend():
    message = r"EarlyStopping\(monitor='memaudit/recovery_rate'\) looks before the first audit: pass at_epochs=\[0\]"
    for arguments in ({}, {"every_n_epochs": 2}, {"at_train_loss": [0.1]}):
        with pytest.raises(ValueError, match=message):
            monitored(at_epoch_end(), **arguments)
    with pytest.raises(ValueError, match=message):
        monitored(EarlyStopping("memaudit/recovery_rate", check_on_train_epoch_end=False), every_n_epochs=1)
    with pytest.raises(ValueError, match=r"ModelCheckpoint\(monitor='memaudit/recovery_rate'\) looks before"):
        monitored(ModelCheckpoint("c", monitor="memaudit/recovery_rate"), every_n_epochs=2)


@pytest.mark.parametrize("validation", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_with_an_audit_before_training_every_monitor_works(validation):
    for make in (
        lambda: EarlyStopping("memaudit/recovery_rate", patience=9),
        lambda: EarlyStopping("memaudit/recovery_rate", patience=9, check_on_train_epoch_end=False),
        lambda: at_epoch_end(patience=9),
        lambda: ModelCheckpoint("c", monitor="memaudit/half/autoencoder_iterations/recovery_rate"),
        lambda: ModelCheckpoint("c", monitor="memaudit/train_loss", save_on_train_epoch_end=True, save_top_k=-1),
    ):
        with pytest.warns(UserWarning, match="sees a new value only after an audit"):
            assert monitored(make(), at_epochs=[0], every_n_epochs=3, validation=validation).current_epoch == 4


def test_a_resumed_run_shows_monitors_the_newest_audit_before_the_next():
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))
    for epochs, checkpoint in ((1, None), (3, "saved/last.ckpt")):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        audit = audit_callback(at_epochs=[0], every_n_epochs=9, at_fit_end=False)
        trainer = fit(
            [audit, at_epoch_end(patience=9), saver], Module(), *loaders, max_epochs=epochs, ckpt_path=checkpoint
        )
    assert trainer.current_epoch == 3
    assert [row["audit"] for row in rows()] == [0]


def test_unknown_metrics_are_refused():
    with pytest.raises(
        ValueError, match=r"'memaudit/recovery'\): there is no such metric; monitor one of recovery_rate, "
    ):
        monitored(EarlyStopping("memaudit/recovery"), at_epochs=[0])


def test_no_warning_where_every_epoch_brings_a_new_value():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sees.*")
        monitored(at_epoch_end(patience=9), every_n_epochs=1)


def test_values_stay_for_monitors_between_audits():
    """The value of the audit before training is there in every epoch until the next; then the new one is."""
    seen = []

    class Look(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["memaudit/train_loss"]))

    audit = audit_callback(at_epochs=[0, 3], controls=Items(images(4, seed=1)))
    trainer = fit([audit, Look()], Module(), DataLoader(Items(images(4)), 2), max_epochs=4)
    before, after = (row["train_loss"] for row in rows() if row["epoch"] in (0, 3))
    assert seen == pytest.approx([before, before, after, after])
    assert float(trainer.callback_metrics["memaudit/train_loss"]) == pytest.approx(rows()[-1]["train_loss"])


def test_names_that_monitors_can_watch_are_those_that_are_logged():
    patterns, methods = ["half", "random-0.5"], ["blind", "known_mask"]
    trainer = monitored(at_epochs=[0], patterns=patterns, methods=methods)
    logged = {name.removeprefix("memaudit/") for name in trainer.callback_metrics}
    known = set(headline_names(product(patterns, methods)))
    assert logged <= known
    assert known - logged <= {"certified_rate"}, "only given when something can be certified"


def test_weights_averaged_after_the_audit_are_pointed_out():
    averaging = lightning.pytorch.callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    with pytest.warns(UserWarning, match="StochasticWeightAveraging comes after MemorizationAuditCallback"):
        monitored(averaging)

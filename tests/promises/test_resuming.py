"""Interrupted anywhere and resumed, a run loses no audit and repeats none."""

import contextlib

import lightning
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows

from lightning_memaudit.results.run_folder import RunFolder

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Interrupt(lightning.Callback):
    """Ends the run abruptly at a chosen moment."""

    def __init__(self, hook, epoch):
        setattr(self, hook, lambda trainer, *_: self._end(trainer, epoch))

    @staticmethod
    def _end(trainer, epoch):
        if trainer.current_epoch == epoch and not trainer.sanity_checking:
            raise KeyboardInterrupt


SAVING = {
    "on validation": {"save_on_train_epoch_end": False},
    "at the end of epochs": {"save_on_train_epoch_end": True},
    "every step": {"every_n_train_steps": 1},
}


def run_with_audits(folder, callbacks, saves, order, **arguments):
    audit = audit_callback(every_n_epochs=2, at_train_loss=[4e-3, 2e-3, 1e-3, 3e-4], dirpath=folder)
    saver = ModelCheckpoint(f"{folder}-saved", save_last=True, save_top_k=-1, **SAVING[saves])
    callbacks = [*callbacks, audit, saver] if order else [audit, *callbacks, saver]
    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))
    fit(callbacks, Module(), *loaders, max_epochs=5, **arguments)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The rows of a run that was not interrupted, by how it saves its checkpoints."""
    found = {}

    def run(saves, order):
        if (saves, order) not in found:
            folder = tmp_path_factory.mktemp("uninterrupted") / "whole"
            run_with_audits(folder, [], saves, order)
            found[saves, order] = rows(folder)
        return found[saves, order]

    return run


@pytest.mark.parametrize(
    "where", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_epoch_start"]
)
@pytest.mark.parametrize("saves", SAVING)
@pytest.mark.parametrize("order", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_resuming_loses_no_audit_and_repeats_none(where, saves, order, uninterrupted):
    """The audits of an interrupted and resumed run are those of an uninterrupted one: triggers, epochs, losses."""
    with pytest.raises(SystemExit):
        run_with_audits("resumed", [Interrupt(where, 2)], saves, order)
    run_with_audits("resumed", [], saves, order, ckpt_path="resumed-saved/last.ckpt")
    found, expected = rows("resumed"), uninterrupted(saves, order)
    assert [(r["audit"], r["trigger"], r["epoch"], r["step"]) for r in found] == [
        (r["audit"], r["trigger"], r["epoch"], r["step"]) for r in expected
    ]
    assert [r["train_loss"] for r in found] == pytest.approx([r["train_loss"] for r in expected])


def test_a_finished_run_resumed_for_no_more_epochs_audits_nothing_again():
    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))
    for checkpoint in (None, "saved/last.ckpt"):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        fit([audit_callback(every_n_epochs=2), saver], Module(), *loaders, max_epochs=2, ckpt_path=checkpoint)
    assert [row["audit"] for row in rows()] == [0]
    assert not list(RunFolder("memaudit").path.glob("superseded-*"))


@pytest.mark.parametrize("killed", [False, True])
def test_the_audit_at_the_end_of_fit_is_made_up_for_once(killed):
    """Resumed with nothing left to train: done if the run was killed before it, and not again otherwise."""

    class Last(lightning.Callback):
        def on_train_end(self, trainer, pl_module):
            if killed:
                raise KeyboardInterrupt

    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))

    def run(*callbacks, checkpoint=None):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        fit([*callbacks, audit_callback(), saver], Module(), *loaders, max_epochs=2, ckpt_path=checkpoint)

    with pytest.raises(SystemExit) if killed else contextlib.nullcontext():
        run(Last())
    written = (RunFolder("memaudit").path / "audits.jsonl").exists()
    assert written == (not killed)
    for _ in range(2):
        run(checkpoint="saved/last.ckpt")
        assert [(row["audit"], row["trigger"], row["epoch"], row["step"]) for row in rows()] == [(0, "fit_end", 2, 6)]
        assert not list(RunFolder("memaudit").path.glob("superseded-*"))

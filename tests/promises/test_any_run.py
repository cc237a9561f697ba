"""Runs of other kinds than one training with one audit: a trial run of two batches, several audits in one run."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


def test_fast_dev_run_checks_and_audits_two_images_and_writes_nothing(tmp_path):
    callback = audit_callback(every_n_epochs=5)
    fit(callback, Module(), DataLoader(Items(images(9)), 2), DataLoader(Items(images(9, seed=1))), fast_dev_run=True)
    assert callback.last_report.rows[0]["num_images"] == 2
    assert not (tmp_path / "memaudit").exists()


def test_several_callbacks_in_one_trainer():
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))

    def callbacks():
        return [
            audit_callback(every_n_epochs=1),
            audit_callback(name="other", at_epochs=[1, 3], patterns=["random-0.5"]),
            ModelCheckpoint("checkpoints", save_last=True, save_on_train_epoch_end=True),
        ]

    trainer = fit(callbacks(), Module(), *loaders, max_epochs=2)
    assert {"memaudit/recovery_rate", "other/recovery_rate"} <= trainer.callback_metrics.keys()
    assert [row["epoch"] for row in rows("memaudit")] == [1, 2]
    assert [row["epoch"] for row in rows("other")] == [1, 2]
    fit(callbacks(), Module(), *loaders, max_epochs=4, ckpt_path="checkpoints/last.ckpt")
    assert [row["epoch"] for row in rows("memaudit")] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows("other")] == [1, 3, 4]
    with pytest.raises(RuntimeError, match="state_key"):
        fit([audit_callback(), audit_callback()], Module(), *loaders)
    with pytest.raises(ValueError, match="is the folder of two callbacks"):
        fit([audit_callback(name="a", dirpath="x"), audit_callback(name="b", dirpath="./x")], Module(), *loaders)

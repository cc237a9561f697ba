"""Runs that nobody here wrote: a trial run of two batches, several audits in one run, a published autoencoder."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

pytestmark = [
    pytest.mark.usefixtures("without_report"),
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


def test_autoencoder_kl_of_diffusers():
    diffusers = pytest.importorskip("diffusers")

    class LatentDiffusionFirstStage(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.vae = diffusers.AutoencoderKL(
                in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",), latent_channels=2,
                up_block_types=("UpDecoderBlock2D",), block_out_channels=(8,), norm_num_groups=4,
            )  # fmt: skip

        def forward(self, x):
            return self.vae(x)

        def training_step(self, batch, batch_idx):
            posterior = self.vae.encode(batch["image"]).latent_dist
            x = self.vae.decode(posterior.sample()).sample
            return functional.mse_loss(x, batch["image"]) + 1e-6 * posterior.kl().mean()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    def loader(seed):
        return DataLoader(Items(images(4, seed, (3, 16, 16)) * 2 - 1, lambda x: {"image": x, "text": "a picture"}), 2)

    callback = audit_callback(
        every_n_epochs=1, image_key="image", output="sample", mean=[0.5], std=[0.5], methods=["paper_blind"]
    )
    fit(callback, LatentDiffusionFirstStage(), loader(0), loader(1), max_epochs=2)
    assert [row["epoch"] for row in rows()] == [1, 2]
    assert rows()[1]["train_loss"] < rows()[0]["train_loss"]
    assert torch.allclose(saved_truth(), images(4, 0, (3, 16, 16)), atol=1e-6)

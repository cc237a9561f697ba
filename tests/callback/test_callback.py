"""The callback on training runs: one of the package's, and one that nobody here wrote."""

import json

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from training_runs import trainer_with

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.results.run_folder import RunFolder
from lightning_memaudit.training.data import FacesDataModule
from lightning_memaudit.training.module import AutoencoderModule
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

pytestmark = pytest.mark.usefixtures("reads_here")

METHODS = ("paper_blind", "autoencoder_iterations")


class LitAutoEncoder(lightning.LightningModule):
    """In the style of Lightning's own documentation: encoder and decoder, flattened in the training step."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8 * 8, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8 * 8))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        loss = functional.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.log("val_loss", functional.mse_loss(self.decoder(self.encoder(x.flatten(1))), x.flatten(1)))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def labelled(count):
    return TensorDataset(torch.rand(count, 1, 8, 8), torch.randint(10, (count,)))


def reconstruct(module, images):
    return module.decoder(module.encoder(images.flatten(1)))


@pytest.mark.usefixtures("without_report")
def test_attached_to_a_run_that_is_not_ours():
    callback = MemorizationAuditCallback(every_n_epochs=1, reconstruct=reconstruct, methods=METHODS)
    trainer = trainer_with(callback, max_epochs=2)
    trainer.fit(LitAutoEncoder(), DataLoader(labelled(10), batch_size=4), DataLoader(labelled(6), batch_size=4))
    rows = RunFolder("memaudit").audits()
    assert [row["epoch"] for row in rows] == [1] * 8 + [2] * 8, "two epochs; the end of fit adds none"
    assert {(row["group"], row["num_images"]) for row in rows} == {("members", 10), ("controls", 6)}
    assert {row["method"] for row in rows} == set(METHODS)
    assert float(trainer.callback_metrics["memaudit/recovery_rate"]) == rows[-1]["recovery_rate"] == 0.0
    assert callback.last_report is not None


@pytest.mark.usefixtures("without_report")
def test_the_train_loss_is_that_of_the_audited_members_in_eval_mode():
    module = LitAutoEncoder()
    module.encoder.append(nn.Dropout(0.9))
    data = labelled(10)
    callback = MemorizationAuditCallback(reconstruct=reconstruct, methods=METHODS)
    trainer_with(callback, max_epochs=1).fit(module, DataLoader(data, batch_size=4), DataLoader(labelled(4)))
    module.eval()
    images = data.tensors[0]
    with torch.no_grad():
        expected = functional.mse_loss(reconstruct(module, images).view_as(images), images)
    assert callback.last_report.headline["train_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_packages_module_memorizes_and_the_audit_shows_it():
    """A small quickstart: rates rise as the loss falls, controls stay, and the run folder holds it all."""
    levels = [1e-2, 1e-3, 1e-4]
    callback = MemorizationAuditCallback(
        at_train_loss=levels, patterns=["random-0.5"], methods=["paper_blind", "biharmonic"], num_controls=10
    )
    module = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), 4, 256, "ELU"))
    stop = EarlyStopping("train/loss", stopping_threshold=1e-4, patience=10_000, check_on_train_epoch_end=True)
    trainer = trainer_with(callback, stop, max_epochs=3000, check_val_every_n_epoch=1000, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=FacesDataModule(num_train=10, num_controls=10))
    rows = RunFolder("memaudit").audits()
    blind = [row for row in rows if (row["method"], row["group"]) == ("paper_blind", "members")]
    assert [row["trigger"] for row in blind] == [f"train_loss<={level:g}" for level in levels]
    assert all(0.3 * level < row["train_loss"] < 1.2 * level for row, level in zip(blind, levels, strict=True))
    assert blind[0]["recovery_rate"] <= 0.2
    assert blind[-1]["recovery_rate"] == 1.0
    assert all(row["recovery_rate"] <= 0.1 for row in rows if row["group"] == "controls")
    run = RunFolder("memaudit").run()
    assert run["members"]["num_images"] == run["controls"]["num_images"] == 10
    assert len(run["members"]["sha256"]) == 64
    figures = sorted(path.name for path in (RunFolder("memaudit").path / "figures").glob("*.png"))
    assert figures == ["recovery-against-loss.png", "strip-random-0.5.png"]


class Dictionaries(Dataset):
    """Items as ``{"pixels": image in [-1, 1], "label": 0}``."""

    def __init__(self, count):
        self.images = torch.rand(count, 3, 6, 6) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixels": self.images[index], "label": 0}


class Identity(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def decode(self, images):
        return {"sample": images * self.weight}

    def training_step(self, batch, batch_idx):
        assert float(batch["pixels"].min()) < 0
        return (self.weight - 1).square()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.usefixtures("without_report")
def test_dict_batches_a_named_method_an_output_key_and_a_range():
    callback = MemorizationAuditCallback(
        image_key="pixels", reconstruct="decode", output="sample", mean=[0.5], std=[0.5], methods=METHODS
    )
    trainer_with(callback, max_epochs=1).fit(Identity(), DataLoader(Dictionaries(4)), DataLoader(Dictionaries(3)))
    report = callback.last_report
    assert report.headline["train_loss"] < 1e-12
    assert float(report.recoveries["members/truth"].min()) >= 0


@pytest.mark.usefixtures("without_report")
def test_schedules_fire_when_they_say():
    callback = MemorizationAuditCallback(
        every_n_epochs=3, at_epochs=[0, 4], methods=["autoencoder_iterations"], patterns=["half"], num_members=2
    )
    trainer_with(callback, max_epochs=7).fit(
        LitAutoEncoderWithForward(), DataLoader(labelled(4)), DataLoader(labelled(4))
    )
    rows = [row for row in RunFolder("memaudit").audits() if row["group"] == "members"]
    assert [row["epoch"] for row in rows] == [0, 3, 4, 6, 7]
    assert [row["audit"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["step"] == 0
    assert rows[-1]["trigger"] == "fit_end"
    assert {row["num_images"] for row in rows} == {2}


class LitAutoEncoderWithForward(LitAutoEncoder):
    def forward(self, images):
        return self.decoder(self.encoder(images.flatten(1)))


@pytest.mark.usefixtures("without_report")
def test_monitors_can_watch_the_recovery_rate():
    callback = MemorizationAuditCallback(every_n_epochs=1, methods=METHODS)
    stop = EarlyStopping("memaudit/recovery_rate", patience=2, mode="min", check_on_train_epoch_end=True)
    best = ModelCheckpoint(monitor="memaudit/recovery_rate", mode="min", save_on_train_epoch_end=True)
    trainer = trainer_with(callback, stop, best, max_epochs=20)
    trainer.fit(LitAutoEncoderWithForward(), DataLoader(labelled(4)), DataLoader(labelled(4)))
    assert trainer.current_epoch == 3, "the rate stays 0, so that patience ends"
    assert best.best_model_score == 0.0


@pytest.mark.usefixtures("without_report")
def test_loggers_get_one_row_per_audit_with_rate_and_loss_together(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    callback = MemorizationAuditCallback(every_n_epochs=1, methods=METHODS, patterns=["half"])
    trainer = trainer_with(callback, max_epochs=2, logger=CSVLogger(tmp_path, "csv", 0))
    trainer.fit(LitAutoEncoderWithForward(), DataLoader(labelled(4)), DataLoader(labelled(4)))
    header, *lines = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    names = header.split(",")
    wanted = ["memaudit/recovery_rate", "memaudit/control_recovery_rate", "memaudit/membership_auroc"]
    wanted += ["memaudit/train_loss", "memaudit/half/autoencoder_iterations/recovery_rate"]
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    audits = [row for row in rows if row["memaudit/train_loss"]]
    assert len(audits) == 2
    assert all(row[name] for row in audits for name in wanted)


@pytest.mark.usefixtures("without_report")
def test_resuming_loses_no_audit_and_repeats_none():
    data = labelled(4)

    def fit(epochs, checkpoint=None):
        callback = MemorizationAuditCallback(every_n_epochs=2, methods=["autoencoder_iterations"], patterns=["half"])
        saver = ModelCheckpoint("checkpoints", save_last=True, save_on_train_epoch_end=True)
        trainer = trainer_with(callback, saver, max_epochs=epochs)
        trainer.fit(LitAutoEncoderWithForward(), DataLoader(data), DataLoader(data_controls), ckpt_path=checkpoint)

    data_controls = labelled(4)
    fit(2)
    fit(6, "checkpoints/last.ckpt")
    rows = [row for row in RunFolder("memaudit").audits() if row["group"] == "members"]
    assert [(row["audit"], row["epoch"]) for row in rows] == [(0, 2), (1, 4), (2, 6)]


@pytest.mark.usefixtures("without_report")
def test_images_are_sent_to_loggers_only_when_asked():
    sent = []

    class Logger(lightning.pytorch.loggers.logger.DummyLogger):
        def log_image(self, key, images, **kwargs):
            sent.append((key, len(images)))

    for count, expected in ((0, 0), (2, 2)):
        sent.clear()
        callback = MemorizationAuditCallback(methods=METHODS, patterns=["half"], log_images=count)
        trainer_with(callback, max_epochs=1, logger=Logger()).fit(
            LitAutoEncoderWithForward(), DataLoader(labelled(4)), DataLoader(labelled(4))
        )
        assert bool(sent) == bool(expected)
        assert all(number == expected for _, number in sent)


@pytest.mark.usefixtures("without_report")
def test_every_line_of_the_results_is_strict_json():
    callback = MemorizationAuditCallback(methods=METHODS)
    trainer_with(callback, max_epochs=1).fit(
        LitAutoEncoderWithForward(), DataLoader(labelled(4)), DataLoader(labelled(4))
    )
    needed = {
        "epoch", "step", "train_loss", "group", "pattern", "method", "threshold_db", "num_images", "num_recovered",
        "num_certified", "num_diverged", "recovery_rate", "ci_low", "ci_high", "psnr_mean", "hidden_psnr_mean",
        "seconds", "num_evaluations",
    }  # fmt: skip
    for name in ("audits.jsonl", "images.jsonl"):
        for line in (RunFolder("memaudit").path / name).read_text().splitlines():
            row = json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
            assert name != "audits.jsonl" or needed <= row.keys()


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("marked", [False, True])
def test_a_validation_set_that_was_prepared_otherwise_is_named(marked):
    members, controls = (
        0.3 * torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    controls = controls + 0.3 * marked * (torch.arange(8) % 2)
    callback = MemorizationAuditCallback(every_n_epochs=1, reconstruct=reconstruct, methods=METHODS)
    train, val = (DataLoader(TensorDataset(images, torch.zeros(24)), batch_size=8) for images in (members, controls))
    trainer_with(callback, max_epochs=1).fit(LitAutoEncoder(), train, val)
    codes = {doubt["code"] for row in callback.last_report.rows for doubt in row["doubts"]}
    assert ("prepared_otherwise" in codes) == marked

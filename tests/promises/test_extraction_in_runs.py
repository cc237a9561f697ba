"""An extraction in a run: nothing is disturbed, every process finds the same, and monitors may watch it."""

import lightning
import process_workers
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, audit_callback, fit, images

from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here")

METHODS = ("autoencoder_iterations",)
STARTS = 40


class Memorizing(lightning.LightningModule):
    """Trained to a small loss in a few epochs; with dropout and batch normalization."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.1), nn.ELU(), nn.Linear(64, 64)
        )

    def forward(self, x):
        return self.network(x).view_as(x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch), batch + 0.01 * torch.randn_like(batch))

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def train(tmp_path, monkeypatch, name, callbacks):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    model = Memorizing()
    torch.manual_seed(1)
    loaders = (DataLoader(Items(images(6)), 3, shuffle=True), DataLoader(Items(images(6, seed=1)), 3))
    fit(callbacks, model, *loaders, max_epochs=3)
    return {**model.state_dict(), "random": torch.get_rng_state()}, model


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_training_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    without, _ = train(tmp_path, monkeypatch, "without", [])
    callback = audit_callback(every_n_epochs=1, extraction=STARTS)
    attached, _ = train(tmp_path, monkeypatch, "with", [callback])
    assert attached.keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in attached.items())
    assert callback.last_report.extraction.summary["num_starts"] == STARTS
    rows = RunFolder("memaudit").audits()
    assert {row["audit"] for row in rows} == {0, 1, 2}
    assert all(row["extraction"]["num_members"] == 6 for row in rows)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monitors_may_watch_it(tmp_path, monkeypatch):
    stopping = EarlyStopping("memaudit/extracted", mode="max", patience=100, check_on_train_epoch_end=True)
    train(tmp_path, monkeypatch, "run", [audit_callback(every_n_epochs=1, extraction=STARTS), stopping])
    assert stopping.best_score >= 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world_size", "num_images"), [("ddp", 3, (2, 2)), ("fsdp2", 2, (7, 5))])
def test_processes_find_what_one_finds(launch, tmp_path, kind, world_size, num_images):
    members, controls = num_images
    arguments = {"methods": METHODS, "num_members": members, "num_controls": controls, "extraction": STARTS}
    process_workers.fit(str(tmp_path / "single"), 0, 1, kind="single", **arguments)
    folder, outcomes = launch("run", world_size, kind=kind, **arguments)
    assert [outcome["code"] for outcome in outcomes] == [0] * world_size, outcomes
    assert all(outcome["headline"] == outcomes[0]["headline"] for outcome in outcomes)
    single, several = (
        next(row["extraction"] for row in RunFolder(where / "memaudit").audits() if row["audit"] == 0)
        for where in (tmp_path / "single", folder)
    )
    assert (single["num_members"], single["num_controls"]) == (several["num_members"], several["num_controls"])
    assert (single["num_members"], single["num_controls"]) == num_images
    for name in ("num_extracted", "num_controls_extracted", "num_starts", "num_settled", "identity_like"):
        assert single[name] == several[name], name

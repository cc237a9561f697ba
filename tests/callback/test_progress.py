"""What an audit will cost is said where it is long, on whatever shows its progress; so is how much time is left."""

import io

import pytest
import rich
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from torch.utils.data import DataLoader

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.callback.progress import AuditProgress, TimeLeft
from lightning_memaudit.measurement.budget import Estimate
from lightning_memaudit.training.module import AutoencoderModule
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

pytestmark = pytest.mark.usefixtures("reads_here")

COST = " (5,200 evaluations of 120 images; 0.3 GB)"


def estimate_of(seconds, **cells):
    return Estimate(seconds, 5203.0, 120, 3e8, {("members", "half", name): one for name, one in cells.items()}, {})


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (9.9, ""),
        (10, f", about 10 s{COST}"),
        (170, f", about 3 min{COST}"),
        (7200, f", about 2 h{COST}"),
    ],
)
@pytest.mark.parametrize("watched", [False, True])
def test_the_estimate_is_said_from_ten_seconds_on(seconds, said, watched, monkeypatch, capsys):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=watched, width=160))
    with AuditProgress(None, 100, "epoch 20", None if seconds is None else estimate_of(seconds)):
        pass
    if watched:
        assert f"Audit (epoch 20){said} " in screen.getvalue()
    else:
        assert capsys.readouterr().out == f"Audit (epoch 20): 100 recoveries{said}\n"


def test_the_time_left_follows_the_estimate_and_then_the_audits_own_pace():
    now = [0.0]
    left = TimeLeft(estimate_of(100, blind=50, known_mask=45, biharmonic=5), total=90, clock=lambda: now[0])
    assert left.after("members · half · biharmonic", 30) == "about 2 min"  # 5 of 100 s are done
    now[0] = 110.0
    assert left.after("members · half · blind", 30) == "about 2 min"  # 55 took 110: 45 take 90
    now[0] = 200.0
    assert left.after("members · half · known_mask", 30) == "about 0 s"


def test_the_bar_says_how_much_time_is_left(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=True, width=160))
    with AuditProgress(None, 60, "epoch 20", estimate_of(60, blind=30, known_mask=30)) as bar:
        bar.advance("members · half · blind", 3)
    assert "blind, about 57 s left" in screen.getvalue()


@pytest.mark.parametrize("at_fit_end", [True, False])
def test_the_training_s_bar_does_not_stay_below_what_is_said_at_the_end(monkeypatch, tmp_path, at_fit_end):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console())  # the bar configures it anew
    bar = RichProgressBar(console_kwargs={"file": screen, "force_terminal": True, "width": 80})
    when = {"at_fit_end": at_fit_end, "at_epochs": [1]}
    audit = MemorizationAuditCallback(**when, patterns=["half"], methods=["paper_blind"], figures=False)
    model = AutoencoderModule(FullyConnectedAutoencoder((1, 8, 8), num_layers=2, width=8))
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[audit, bar], logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.rand(4, 1, 8, 8), 4))
    shown = screen.getvalue()
    assert "Epoch 1/1" in shown
    assert shown.rindex("Epoch 1/1") < shown.index("Inconclusive")
    assert not bar.progress.live.is_started

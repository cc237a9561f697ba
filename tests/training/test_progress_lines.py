"""Lines about a training without a terminal: when they come, and what they say of the time left."""

import sys

import lightning as L
import pytest
import torch
from torch import nn

from lightning_memaudit.training.progress_lines import ProgressLines


class Line(L.LightningModule):
    """Fits one number, and logs its loss if it is told to."""

    def __init__(self, name):
        super().__init__()
        self.weight, self.name_of_loss = nn.Parameter(torch.ones(1)), name

    def training_step(self, batch, batch_idx):
        loss = 0 * self.weight.sum() + 0.25
        if self.name_of_loss:
            self.log(self.name_of_loss, loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def lines(capsys, epochs=6, name="train/loss", **arguments):
    """What is printed of a training whose epochs take ten seconds each."""
    ticks = iter(range(0, 1000, 10))
    told = ProgressLines(clock=lambda: float(next(ticks)), **arguments)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[told],
    )
    trainer.fit(Line(name), torch.utils.data.DataLoader(torch.zeros(1, 1)))
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


@pytest.mark.filterwarnings("ignore")
def test_a_line_comes_every_so_many_seconds_and_tells_the_time_left(capsys):
    assert lines(capsys, seconds=30) == [
        "epoch 3 of at most 6: train/loss 2.5e-01, 10 s an epoch, at most 0:00:30 left",
        "epoch 6 of at most 6: train/loss 2.5e-01, 10 s an epoch, at most 0:00:00 left",
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_logged_is_left_out(capsys):
    assert lines(capsys, epochs=1, name=None, seconds=0) == [
        "epoch 1 of at most 1: 10 s an epoch, at most 0:00:00 left"
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_terminal_has_a_progress_bar_and_needs_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True, raising=False)
    assert lines(capsys, seconds=0) == []


def test_negative_seconds_are_refused():
    with pytest.raises(ValueError, match="seconds=-1"):
        ProgressLines(seconds=-1)

"""What the callback costs a training run: per step while it waits, per audit, and at start-up."""

import logging
import subprocess
import sys
import tempfile
import time
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from lightning_memaudit.bench.common import make_autoencoder, write_and_show
from lightning_memaudit.bench.timing import interleave, machine
from lightning_memaudit.callback.memorization_audit import MemorizationAuditCallback
from lightning_memaudit.training.data import FacesDataModule
from lightning_memaudit.training.module import AutoencoderModule

AUDITED = {
    "patterns": ["random-0.5", "block-0.25"],
    "methods": ["blind", "known_mask", "autoencoder_iterations", "biharmonic"],
}


def overhead(repeats: int = 5, epochs: int = 300, output: str = "bench-overhead.json") -> None:
    """Time training steps with and without a waiting callback, one audit, and the start of the command line.

    The run is the quickstart's: 50 faces, one step per epoch. The waiting callback watches the training loss.

    Args:
        repeats: Repeats of every run, in turn.
        epochs: Epochs of each run; one step each.
        output: JSON file with all numbers.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    data = FacesDataModule()
    data.setup()
    device = torch.device("cpu")
    steps: dict[str, list[float]] = {"without": [], "waiting": []}

    def train(name: str, *callbacks: Callback) -> None:
        clock = _StepClock()
        _fit(epochs, data, clock, *callbacks)
        steps[name].append(clock.seconds_per_step())

    with tempfile.TemporaryDirectory() as folder:
        interleave(
            {
                "without": lambda: train("without"),
                "waiting": lambda: train(
                    "waiting", MemorizationAuditCallback(at_train_loss=[1e-30], at_fit_end=False, dirpath=folder)
                ),
            },
            repeats,
            device,
        )
        began = time.perf_counter()
        auditing = MemorizationAuditCallback(dirpath=folder, print_table=False, figures=False, **AUDITED)  # type: ignore[arg-type]
        _fit(1, data, auditing)
        audit_seconds = time.perf_counter() - began
    # The first of each is the round that does not count.
    medians = {name: float(np.median(values[1:])) for name, values in steps.items()}
    content: dict[str, Any] = {
        "machine": machine(device),
        "seconds_per_step": medians,
        "waiting_over_without": medians["waiting"] / medians["without"],
        "audit_seconds": audit_seconds,
        "help_seconds": _help_seconds(repeats),
    }
    write_and_show(content, _table(content), output)


class _StepClock(Callback):
    """Times the steps of a run, but for the first ten."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        return float(np.median(np.diff(self.times[10:])))


def _fit(epochs: int, data: FacesDataModule, *callbacks: Callback) -> None:
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
    )
    trainer.fit(AutoencoderModule(make_autoencoder("FC-6", (1, 25, 25), activation="ELU")), datamodule=data)


def _help_seconds(repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lightning_memaudit", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _table(content: dict[str, Any]) -> Table:
    table = Table(title=f"What the callback costs\n{content['machine']['device']}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    per_step = content["seconds_per_step"]
    table.add_row("training step without the callback", f"{1e3 * per_step['without']:.2f} ms")
    table.add_row("training step with a waiting callback", f"{1e3 * per_step['waiting']:.2f} ms")
    table.add_row("ratio of the two", f"{content['waiting_over_without']:.3f}")
    table.add_row("one audit: 50 members, 50 controls, 2 patterns, 4 methods", f"{content['audit_seconds']:.1f} s")
    table.add_row("start of `--help`", f"{content['help_seconds']:.2f} s")
    return table

"""Training and audits at real sizes: throughput, memory and what was memorized, one table."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from numpy.typing import NDArray
from rich.table import Table
from torch import nn
from torch.nn import functional

from lightning_memaudit.bench.common import make_autoencoder, write_and_show
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.callback.memorization_audit import MemorizationAuditCallback
from lightning_memaudit.training.data import ImagesDataModule
from lightning_memaudit.training.module import AutoencoderModule

NUM_CONTROLS = 100


class Case(NamedTuple):
    """One run of the table.

    Attributes:
        network: ``FC-10``, ``FC-20`` or ``U-Net``.
        side: Images are side x side x 3.
        num_train: Images to train on.
        batch_size: Images per step.

    >>> case = Case("FC-10", side=8, num_train=600, batch_size=100)
    >>> case.make(width=16)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    network: str
    side: int
    num_train: int
    batch_size: int

    def make(self, width: int) -> nn.Module:
        """The autoencoder, its weights not trained."""
        activation = "LeakyReLU" if self.network == "U-Net" else "PReLU"
        return make_autoencoder(self.network, (3, self.side, self.side), width, 64, activation)


CASES = {
    "fc10-600": Case("FC-10", 64, 600, 600),
    "fc20-600": Case("FC-20", 64, 600, 600),
    "unet-50": Case("U-Net", 32, 50, 50),
    "fc10-25000": Case("FC-10", 64, 25_000, 2_500),
}


def large(
    data: str | None = None,
    cases: Sequence[str] = tuple(CASES),
    seconds: float = 120.0,
    train_loss: float = 1e-5,
    width: int = 1024,
    precision: str = "bf16-mixed",
    compile: bool = False,
    num_members: int = 100,
    output: str = "bench-large.json",
) -> None:
    """Train each case for a while or to a loss, audit it, and print speed, memory and rates.

    Args:
        data: Folder of pictures, or .npy or .npz file; null makes as many synthetic images as are needed.
        cases: Which runs: fc10-600, fc20-600, unet-50, fc10-25000.
        seconds: Training time of each at most.
        train_loss: Training stops at this loss.
        width: Hidden units of the fully connected ones.
        precision: Lightning's precision of the training and of the autoencoder in the audit.
        compile: Train the compiled autoencoder.
        num_members: Members audited; as many controls, up to 100.
        output: JSON file with all numbers.

    Raises:
        ValueError: There is no such case, or the data cannot be read.
    """
    unknown = [name for name in cases if name not in CASES]
    if unknown:
        raise ValueError(f"cases={unknown}: pass some of {', '.join(CASES)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rows = []
    with TemporaryDirectory() as folder:
        for name in cases:
            case = CASES[name]
            path = data or _synthetic_file(Path(folder), case)
            rows.append(
                {"case": name, **_run(case, path, folder, seconds, train_loss, width, precision, compile, num_members)}
            )
            print(rows[-1], flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content = {"machine": machine(device), "precision": precision, "compile": compile, "rows": rows}
    write_and_show(content, _table(content), output)


def _run(
    case: Case,
    path: str,
    folder: str,
    seconds: float,
    train_loss: float,
    width: int,
    precision: str,
    compiled: bool,
    num_members: int,
) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    data = ImagesDataModule(
        path, num_train=case.num_train, num_controls=NUM_CONTROLS, image_size=case.side, batch_size=case.batch_size
    )
    data.setup()
    torch.manual_seed(0)
    network = case.make(width)
    module = AutoencoderModule(torch.compile(network) if compiled else network)  # type: ignore[arg-type]
    audit = MemorizationAuditCallback(
        num_members=num_members,
        patterns=["random-0.5", "random-0.9", "block-0.25"],
        methods=["blind", "paper_blind", "autoencoder_iterations", "biharmonic"],
        dirpath=folder,
        figures=False,
        on_error="raise",
    )
    stop = EarlyStopping(
        "train/loss", stopping_threshold=train_loss, patience=10**9, check_on_train_epoch_end=True, verbose=False
    )
    settings: dict[str, Any] = {
        "precision": precision,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = lightning.Trainer(
        max_epochs=-1,
        max_time=timedelta(seconds=seconds),
        callbacks=[stop],
        check_val_every_n_epoch=10**6,
        **settings,
    )
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    trained = time.perf_counter() - began
    peak_training = torch.cuda.max_memory_allocated() if cuda else None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    # The audit alone: one more epoch at a learning rate of zero carries it, in which every image is seen.
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
    began = time.perf_counter()
    auditor = lightning.Trainer(max_epochs=1, callbacks=[audit], **settings)
    auditor.fit(module, datamodule=data)
    audited = time.perf_counter() - began
    report = audit.last_report
    if report is None:  # an audit that fails raises
        raise RuntimeError(f"{case.network}: the audit was stopped before its end, so there are no rates: run it again")
    images = trainer.current_epoch * case.num_train
    return {
        "train_loss": report.headline["train_loss"],
        "epochs": trainer.current_epoch,
        "train_seconds": trained,
        "images_per_second": images / trained,
        "audit_seconds": audited,
        "peak_gib_training": None if peak_training is None else peak_training / 2**30,
        "peak_gib_audit": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "rates": {f"{row['pattern']}/{row['method']}/{row['group']}": row["recovery_rate"] for row in report.rows},
    }


def _synthetic_file(folder: Path, case: Case) -> str:
    """Smooth random colour images, seeded: noise at three scales, (n, side, side, 3) uint8."""
    path = folder / f"synthetic-{case.side}-{case.num_train}.npy"
    if not path.exists():
        generator = torch.Generator().manual_seed(0)
        blocks: list[NDArray[np.uint8]] = []
        for begin in range(0, case.num_train + NUM_CONTROLS, 1000):
            count = min(1000, case.num_train + NUM_CONTROLS - begin)
            image = torch.zeros(count, 3, case.side, case.side)
            for cells, weight in ((4, 0.5), (8, 0.3), (16, 0.2)):
                noise = torch.rand(count, 3, cells, cells, generator=generator)
                image += weight * functional.interpolate(noise, (case.side, case.side), mode="bicubic")
            blocks.append((image.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy())
        np.save(path, np.concatenate(blocks))
    return str(path)


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"{content['machine']['device']}, torch {content['machine']['torch']}, {content['precision']}",
        title_justify="left",
    )
    table.add_column("run", no_wrap=True)
    for header in (
        "loss",
        "train s",
        "images/s",
        "audit s",
        "GiB",
        "blind",
        "paper",
        "iterations",
        "filled",
        "controls",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in content["rows"]:
        rates = row["rates"]
        memory = "-" if row["peak_gib_training"] is None else f"{row['peak_gib_training']:.1f}"
        pooled = {
            (method, group): np.mean([rate for key, rate in rates.items() if key.endswith(f"/{method}/{group}")])
            for method in ("blind", "paper_blind", "autoencoder_iterations", "biharmonic")
            for group in ("members", "controls")
        }
        table.add_row(
            row["case"],
            f"{row['train_loss']:.1e}",
            f"{row['train_seconds']:.0f}",
            f"{row['images_per_second']:.0f}",
            f"{row['audit_seconds']:.0f}",
            memory,
            *(f"{pooled[method, group]:.2f}" for method, group in pooled if group == "members"),
            f"{pooled['blind', 'controls']:.2f}",
        )
    return table

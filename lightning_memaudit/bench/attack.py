"""The strongest attack beside what it has to beat: the paper's method, and the same search without gradients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from lightning_memaudit.bench.common import load_images, make_autoencoder, split_images, tell, write_and_show
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.measurement.engine import audit
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.cells import Cell, Flags, is_recovered
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.names import INPAINTER

PATTERNS = ("random-0.5", "random-0.9", "random-0.95", "block-0.25", "block-0.5", "block-0.75")
METHODS = ("paper_blind", "blind_black_box", "blind")
CONTROLS = 100
"""One more than a certificate takes."""


def attack(
    data: str | None = None,
    side: int | None = None,
    num_members: int = 50,
    patterns: Sequence[str] = PATTERNS,
    train_losses: Sequence[float] = (1e-3, 1e-5),
    network: str = "FC-6",
    width: int = 256,
    base_channels: int = 16,
    activation: str = "ELU",
    batch_size: int = 10,
    max_steps: int = 100_000,
    threshold_db: float = 30.0,
    seed: int = 0,
    output: str = "bench-attack.json",
) -> None:
    """Train an autoencoder, and recover its images by the paper's method, without and with gradients.

    Args:
        data: An .npz file with uint8 ``images`` (n, H, W, C); None takes the 100 faces that scikit-image ships.
        side: Cut a square of so many pixels from the middle of every image; None takes all of it.
        num_members: Images to train on; the next ones, 100 at most, are the controls.
        patterns: Degradations by name.
        train_losses: Mean squared errors at which to recover, falling.
        network: ``U-Net`` (without skip connections), or ``FC-n`` for n fully connected layers.
        width: Units of the hidden layers of a fully connected one.
        base_channels: Channels of the U-Net at full resolution.
        activation: Its nonlinearity.
        batch_size: Images per step of the training.
        max_steps: Steps of Adam at most; the lowest loss reached stands in for those that were not.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the weights, the order of the images and the masks.
        output: JSON file with all numbers, written anew after every loss.

    Raises:
        ValueError: The file does not hold images, or too few.
    """
    members, controls = split_images(load_images(data, side), num_members, seed, CONTROLS)
    torch.manual_seed(seed)
    autoencoder = make_autoencoder(network, members.shape[1:], width, base_channels, activation)
    rows: list[dict[str, Any]] = []
    content: dict[str, Any] = {}
    for state in train_until(autoencoder, members, train_losses, max_steps, batch_size, seed):
        methods = (*METHODS, INPAINTER)
        report = audit(
            autoencoder,
            members,
            controls,
            patterns=patterns,
            methods=methods,
            threshold_db=threshold_db,
            seed=seed,
            save_recoveries=0,
        )
        rows += [_row(report, pattern, state.loss) for pattern in patterns]
        content = {"machine": machine(torch.device("cpu")), "network": network, "rows": rows}
        write_json(Path(output), content)
        tell(f"train loss {state.loss:.1e}: audited, see {output}")
    write_and_show(content, _table(rows), output, width=150)


def _row(report: AuditReport, pattern: str, loss: float) -> dict[str, Any]:
    def cell(group: str, method: str) -> Cell:
        return next(one for one in report.cells if (one.group, one.pattern, one.method) == (group, pattern, method))

    def recovered(group: str, method: str) -> Flags:
        return is_recovered(cell(group, method), report.threshold_db)

    def evaluations(group: str, method: str) -> float:
        return float(cell(group, method).columns["num_evaluations"].mean())

    members, controls = cell("members", "blind").columns, cell("controls", "blind").columns
    found, certified = recovered("members", "blind"), members["certified"].astype(bool)
    lost = {method: int((recovered("members", method) & ~found).sum()) for method in ("paper_blind", "blind_black_box")}
    beyond = recovered("controls", "blind") & (controls["recovery_gain"].astype(float) >= 6)
    return {
        "train_loss": loss,
        "pattern": pattern,
        "num_members": len(found),
        "num_controls": len(beyond),
        "recovery_rate": {method: float(recovered("members", method).mean()) for method in METHODS},
        "num_lost": lost,
        "evaluations": {
            group: {method: evaluations(group, method) for method in METHODS} for group in ("members", "controls")
        },
        "max_evaluations": int(max(members["num_evaluations"].max(), controls["num_evaluations"].max())),
        "num_controls_recovered": int(recovered("controls", "blind").sum()),
        "num_controls_recovered_black_box": int(recovered("controls", "blind_black_box").sum()),
        "num_controls_beyond_baselines": int(beyond.sum()),
        "num_certified": int(certified.sum()),
        "num_certified_true": int((certified & (members["psnr"].astype(float) >= 25)).sum()),
        "num_certified_recovered": int((certified & found).sum()),
        "num_controls_certified": int(controls["certified"].astype(bool).sum()),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Recovery rate of training images: the paper's method, blind without gradients, blind")
    for column in ("train loss", "pattern"):
        table.add_column(column, no_wrap=True)
    for column in ("paper", "black box", "blind", "lost", "evaluations", "of controls", "controls", "certified"):
        table.add_column(column, justify="right")
    last = None
    for row in rows:
        if last is not None and row["train_loss"] != last:
            table.add_section()
        spent = row["evaluations"]
        table.add_row(
            f"{row['train_loss']:.1e}",
            row["pattern"],
            *(f"{row['recovery_rate'][method]:.2f}" for method in METHODS),
            f"{row['num_lost']['paper_blind']}, {row['num_lost']['blind_black_box']}",
            *(f"{spent[group]['blind_black_box']:.0f} → {spent[group]['blind']:.0f}" for group in spent),
            f"{row['num_controls_recovered']} ({row['num_controls_beyond_baselines']})",
            f"{row['num_certified_recovered']}/{row['num_certified_true']}/{row['num_certified']}",
        )
        last = row["train_loss"]
    table.caption = (
        "lost: recovered by the paper's method, by the black box, but not by blind. controls: recovered (6 dB beyond "
        "every baseline). certified: at or above the threshold / 25 dB / in all."
    )
    return table

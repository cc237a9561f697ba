"""What each piece of the recovery pays: from the paper's method to the default, one piece more in every row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from lightning_memaudit.bench.common import load_images, make_autoencoder, split_images, tell, write_and_show
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.measurement.engine import audit
from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery, Round, SelfTuning, WhiteBoxRecovery
from lightning_memaudit.recovery.methods.registry import Method
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.files import write_json

PENALTIES = (0.03, 0.1, 0.3, 1.0)
PATTERNS = ("random-0.5", "random-0.9", "block-0.25", "block-0.5", "random-0.5+fill-noise")
CONTROLS = 100
"""As many as a certificate takes."""


def steps() -> dict[str, Method]:
    """The rows of the table; each has one piece more than the one before, but for the last two.

    ``+smooth_start_exact_data`` is the search's candidate: from the interpolated start, the data where observed, and
    what f gets wrong there taken over to the pixels beside.
    """
    once = Round(PENALTIES, "interpolated", 50)

    def rounds(*rounds: Round, budget: int, refinements: int, spread: float) -> BlindRecovery:
        tuning = SelfTuning(rounds=rounds, spread=spread, refinements=refinements, patience=1)
        return BlindRecovery(tuning=tuning, max_evaluations=budget, gradients="never")

    return {
        "paper_blind": BlindRecovery("least_squares", (0.1,)),
        "+posterior_mask": BlindRecovery("auto", (0.1,)),
        "+four_penalties": BlindRecovery("auto", PENALTIES),
        "+smooth_start_exact_data": rounds(once, budget=4 * 51 + 3, refinements=1, spread=0.0),
        "+refinement": rounds(once, budget=4 * 56 + 3, refinements=6, spread=0.0),
        "+spread": rounds(once, budget=4 * 56 + 3, refinements=6, spread=SelfTuning.spread),
        "+rounds_blind_black_box": BlindRecovery(gradients="never"),
        "+gradients_the_default": BlindRecovery(),
        "known_mask_self_tuned": KnownMaskRecovery(),
        "white_box": WhiteBoxRecovery(),
    }


def ablation(
    data: str | None = None,
    num_members: int = 50,
    patterns: Sequence[str] = PATTERNS,
    train_losses: Sequence[float] = (1e-3, 1e-5),
    num_layers: int = 6,
    activation: str = "ELU",
    max_steps: int = 100_000,
    threshold_db: float = 30.0,
    seed: int = 0,
    output: str = "bench-ablation.json",
) -> None:
    """Train a fully connected autoencoder, and recover its images with more and more of the method.

    Args:
        data: An .npz file with uint8 ``images`` (n, H, W, C); None takes the 100 faces that scikit-image ships.
        num_members: Images to train on; the next ones, 100 at most, are the controls.
        patterns: Degradations by name.
        train_losses: Mean squared errors at which to recover, falling.
        num_layers: Linear layers of the autoencoder.
        activation: Its nonlinearity.
        max_steps: Steps of Adam at most; the lowest loss reached stands in for those that were not.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the weights, the order of the images and the masks.
        output: JSON file with all numbers.

    Raises:
        ValueError: The file does not hold images, or too few.
    """
    members, controls = split_images(load_images(data), num_members, seed, CONTROLS)
    torch.manual_seed(seed)
    network = make_autoencoder(f"FC-{num_layers}", members.shape[1:], activation=activation)
    rows: list[dict[str, Any]] = []
    content: dict[str, Any] = {}
    for state in train_until(network, members, train_losses, max_steps, seed=seed):
        report = audit(
            network,
            members,
            controls,
            patterns=patterns,
            methods=steps(),
            threshold_db=threshold_db,
            seed=seed,
            save_recoveries=0,
        )
        rows += [_row(report, name, state.loss, patterns) for name in steps()]
        content = {"machine": machine(torch.device("cpu")), "patterns": list(patterns), "rows": rows}
        write_json(Path(output), content)
        tell(f"train loss {state.loss:.1e}: audited, see {output}")
    write_and_show(content, _table(rows, patterns), output, width=100 + 12 * len(patterns))


def _row(report: AuditReport, name: str, loss: float, patterns: Sequence[str]) -> dict[str, Any]:
    members = [row for row in report.rows if row["group"] == "members" and row["method"] == name]
    controls = [row for row in report.rows if row["group"] == "controls" and row["method"] == name]
    certified = [row["num_certified"] for row in members]
    claims = all(number is not None for number in certified)
    return {
        "train_loss": loss,
        "method": name,
        "recovery_rate": {row["pattern"]: row["recovery_rate"] for row in members},
        "evaluations_per_image": sum(row["num_evaluations"] for row in members)
        / sum(row["num_images"] for row in members),
        "num_recovered": sum(row["num_recovered"] for row in members),
        "num_certified": sum(certified) if claims else None,
        "num_certified_unrecovered": sum(row["num_certified"] - row["num_certified_recovered"] for row in members)
        if claims
        else None,
        "num_certified_controls": sum(row["num_certified"] for row in controls) if claims else None,
    }


def _table(rows: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> Table:
    table = Table(title="Recovery rate of training images, evaluations of the autoencoder, certificates")
    for column in ("train loss", "method"):
        table.add_column(column, no_wrap=True)
    for column in (*patterns, "mean", "evaluations", "certified", "below threshold", "controls"):
        table.add_column(column, justify="right")
    last = None
    for row in rows:
        if last is not None and row["train_loss"] != last:
            table.add_section()
        rates = [row["recovery_rate"][pattern] for pattern in patterns]
        counts = [row[name] for name in ("num_certified", "num_certified_unrecovered", "num_certified_controls")]
        table.add_row(
            f"{row['train_loss']:.1e}",
            row["method"].replace("_", " "),
            *(f"{rate:.2f}" for rate in (*rates, float(np.mean(rates)))),
            f"{row['evaluations_per_image']:.0f}",
            *("-" if count is None else str(count) for count in counts),
        )
        last = row["train_loss"]
    return table

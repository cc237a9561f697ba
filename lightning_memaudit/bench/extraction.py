"""What comes out of an autoencoder by itself: plain iteration against the accelerated search, for equal evaluations."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from lightning_memaudit.bench.common import load_images, make_autoencoder, split_images, tell, write_and_show
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.measurement.extraction import extraction_report, search_and_match
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.recovery.extraction import FixedPointSearch
from lightning_memaudit.results.files import write_json

PLAIN_ITERATIONS = 200
MANY_STARTS = 1152
"""Starts of the plain iteration that may take as long as it likes."""


def extraction(
    data: str | None = None,
    side: int | None = None,
    num_members: int = 50,
    train_losses: Sequence[float] = (1e-3, 1e-5),
    num_layers: int = 6,
    width: int = 300,
    activation: str = "ELU",
    num_starts: int = 1024,
    max_steps: int = 100_000,
    threshold_db: float = 30.0,
    seed: int = 0,
    output: str = "bench-extraction.json",
) -> None:
    """Train a fully connected autoencoder, and count the training images among its fixed points.

    Args:
        data: An .npz file with uint8 ``images`` (n, H, W, C); None takes the 100 faces that scikit-image ships.
        side: Cut a square of so many pixels from the middle of every image; None takes all of it.
        num_members: Images to train on; all others are the controls.
        train_losses: Mean squared errors at which to search, falling; the untrained weights are searched first.
        num_layers: Linear layers of the autoencoder.
        width: Units of the hidden layers.
        activation: Its nonlinearity.
        num_starts: Starts of the accelerated search. Plain iteration gets as many evaluations.
        max_steps: Steps of Adam at most; the lowest loss reached stands in for those that were not.
        threshold_db: PSNR in dB at or above which a fixed point is an image.
        seed: Seeds the weights, the order of the images and the starts.
        output: JSON file with all numbers.

    Raises:
        ValueError: The file does not hold images, or too few.
    """
    members, controls = split_images(load_images(data, side), num_members, seed)
    torch.manual_seed(seed)
    network = make_autoencoder(f"FC-{num_layers}", members.shape[1:], width=width, activation=activation).eval()
    rows = _rows(network, members, controls, "untrained", num_starts, threshold_db, seed)
    content: dict[str, Any] = {}
    for state in train_until(network, members, train_losses, max_steps, seed=seed):
        rows += _rows(network, members, controls, f"{state.loss:.1e}", num_starts, threshold_db, seed)
        content = {"machine": machine(torch.device("cpu")), "rows": rows}
        write_json(Path(output), content)
    write_and_show(content, _table(rows), output, width=130)


def _rows(
    network: nn.Module,
    members: Tensor,
    controls: Tensor,
    loss: str,
    num_starts: int,
    threshold_db: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Plain iteration for the same evaluations, from the same starts and from flatter ones; then the search."""
    groups = [Group.whole("members", members), Group.whole("controls", controls)]
    search = FixedPointSearch(num_starts, seed=seed)

    def row(name: str, search: FixedPointSearch) -> dict[str, Any]:
        began = time.perf_counter()
        report = extraction_report(search, [search_and_match(network, groups, search, threshold_db)], threshold_db, 0)
        seconds = round(time.perf_counter() - began, 1)
        tell(f"{loss}, {name}: {seconds} s")
        return {"train_loss": loss, "search": name, "seconds": seconds, **report.summary}

    accelerated = row("accelerated", search)
    plain = replace(search, num_plain=PLAIN_ITERATIONS - 1, num_accelerated=1, unseen_share=0.0)
    same = replace(plain, num_starts=max(1, accelerated["num_evaluations"] // PLAIN_ITERATIONS))
    return [
        row("plain, contrast 1", replace(same, contrast=1.0)),
        row("plain, same starts", same),
        row(f"plain, {MANY_STARTS} starts", replace(plain, num_starts=MANY_STARTS)),
        row("accelerated, contrast 1", replace(search, contrast=1.0)),
        accelerated,
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Training images that come out by themselves")
    for column in ("train loss", "search"):
        table.add_column(column, no_wrap=True)
    for column in ("members", "controls", "unseen", "95% CI", "fixed points", "settled", "starts", "evaluations", "s"):
        table.add_column(column, justify="right")
    last = None
    for row in rows:
        if last is not None and row["train_loss"] != last:
            table.add_section()
        table.add_row(
            row["train_loss"],
            row["search"],
            f"{row['num_extracted']}/{row['num_members']}",
            f"{row['num_controls_extracted']}/{row['num_controls']}",
            f"{row['unseen']:.0f}",
            f"{row['unseen_low']:.0f}-{row['unseen_high']:.0f}",
            str(row["num_fixed_points"]),
            str(row["num_settled"]),
            str(row["num_starts"]),
            str(row["num_evaluations"]),
            f"{row['seconds']:.0f}",
        )
        last = row["train_loss"]
    return table

"""How well the cost of an audit is told before it; and what recoveries took, for the table that tells it."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from lightning_memaudit.bench.common import load_images, make_autoencoder, tell, write_and_show
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.measurement.engine import audit
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.measurement.plan import DEFAULT_METHODS, DEFAULT_PATTERNS, Plan
from lightning_memaudit.measurement.workload import TOGETHER, kind_of
from lightning_memaudit.recovery import Autoencoder, BlindRecovery
from lightning_memaudit.recovery.methods.registry import recover
from lightning_memaudit.results.files import read_json, write_json

AUDITS: tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...] = (
    (50, DEFAULT_PATTERNS, DEFAULT_METHODS),
    (12, DEFAULT_PATTERNS, DEFAULT_METHODS),
    (30, ("random-0.9", "block-0.5"), ("blind", "biharmonic")),
    (20, ("random-0.75", "random-0.95", "block-0.75"), ("blind", "paper_blind", "known_mask", "biharmonic")),
)
"""Images of each group, patterns and methods of the audits whose cost is told."""

TABLE_PATTERNS = (
    *("random-0.5", "random-0.75", "random-0.9", "random-0.95"),
    *("block-0.25", "block-0.5", "block-0.75"),
)
TABLE_METHODS = ("blind", "blind_black_box", "paper_blind", "autoencoder_iterations", "white_box")
LEVELS = (15.0, 25.0, 38.0)
"""In dB: autoencoders whose own PSNR lies between two of these share a row of the table."""

GOOD = 1.5
"""Within this factor an estimate is a good one."""


def estimate(
    data: str | None = None,
    side: int | None = None,
    num_members: int = 50,
    train_losses: Sequence[float] = (1e-2, 1e-3, 1e-5),
    network: str = "FC-6",
    width: int = 300,
    activation: str = "ELU",
    max_steps: int = 40_000,
    table: bool = False,
    seed: int = 0,
    output: str = "bench-estimate.json",
) -> None:
    """Audit an autoencoder at several train losses, and compare what each audit took with what was told before it.

    Args:
        data: An .npz file with uint8 ``images`` (n, H, W, C); None takes the 100 faces that scikit-image ships.
        side: Cut a square of so many pixels from the middle of every image; None takes all of it.
        num_members: Images to train on; as many others are the controls.
        train_losses: Mean squared errors at which to audit, falling; the untrained weights are audited first.
        network: ``U-Net``, or ``FC-n`` for n layers.
        width: Units of the hidden layers of a fully connected one.
        activation: Its nonlinearity.
        max_steps: Steps of Adam at most; the lowest loss reached stands in for those that were not.
        table: Instead count what recoveries take, and print the constant ``MEASURED`` of
            ``measurement/measured_work.py``; rows of other runs at the same ``output`` are kept and counted too.
        seed: Seeds the weights and the order of the images.
        output: JSON file with all numbers.

    Raises:
        ValueError: The file does not hold images, or too few.
    """
    images = load_images(data, side)
    if not 1 <= num_members <= len(images) // 2:
        raise ValueError(
            f"num_members={num_members}: must be at least 1, and leave as many of {len(images)} as controls"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    groups = {"members": images[order[:num_members]], "controls": images[order[num_members : 2 * num_members]]}
    torch.manual_seed(seed)
    autoencoder = make_autoencoder(network, images.shape[1:], width=width, activation=activation).eval()
    rows: list[dict[str, Any]] = []
    if table and Path(output).exists():
        rows += json_rows(Path(output))
    work = counted_rows if table else compared_rows
    rows += work(autoencoder, groups, "untrained")
    content: dict[str, Any] = {}
    for state in train_until(autoencoder, groups["members"], train_losses, max_steps, seed=seed):
        rows += work(autoencoder.eval(), groups, f"{network} {state.loss:.1e}")
        content = {"machine": machine(torch.device("cpu")), "rows": rows}
        write_json(Path(output), content)
    if table:
        print(table_text(rows))
        return
    write_and_show(content | {"within": share_within(rows)}, _table(rows), output, width=130)
    print(f"within a factor of {GOOD:g}: {share_within(rows):.0%} of {len(rows)} audits")


def compared_rows(autoencoder: nn.Module, groups: Mapping[str, Tensor], state: str) -> list[dict[str, Any]]:
    """What every one of :data:`AUDITS` took beside what was told before it.

    Args:
        autoencoder: In eval mode.
        groups: Members and controls.
        state: What to call it.
    """
    rows = []
    for number, patterns, methods in AUDITS:
        members, controls = (groups[name][:number] for name in ("members", "controls"))
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cost = audit(autoencoder, members, controls, patterns=patterns, methods=methods).cost
        tell(f"{state}: an audit of {cost['seconds']:.1f} s, told {cost['estimated_seconds']:.1f}")
        rows.append(
            {
                "state": state,
                "num_images": len(members) + len(controls),
                "patterns": list(patterns),
                "methods": list(methods),
                **{key: cost[key] for key in ("seconds", "estimated_seconds", "num_evaluations")},
                "estimated_num_evaluations": cost["estimated_num_evaluations"],
                "processor_seconds": round(time.process_time() - began, 3),
            }
        )
    return rows


def share_within(rows: Sequence[Mapping[str, Any]], factor: float = GOOD) -> float:
    """The share of audits whose seconds were told within a factor.

    >>> share_within([{"seconds": 10.0, "estimated_seconds": 14.0}, {"seconds": 10.0, "estimated_seconds": 6.0}])
    0.5
    """
    ratios = [float(row["estimated_seconds"] / row["seconds"]) for row in rows]
    return sum(1 / factor <= ratio <= factor for ratio in ratios) / len(ratios)


# The table that tells it


class _Counted:
    """f; images and calls are counted, those of which a gradient is wanted apart."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder
        self.images, self.calls = [0, 0], [0, 0]

    def __call__(self, images: Tensor) -> Tensor:
        kind = int(images.requires_grad and torch.is_grad_enabled())
        self.images[kind] += len(images)
        self.calls[kind] += 1
        return self.autoencoder(images)


@torch.no_grad()
def counted_rows(autoencoder: nn.Module, groups: Mapping[str, Tensor], state: str) -> list[dict[str, Any]]:
    """What recoveries take, by group, pattern and method.

    Args:
        autoencoder: In eval mode.
        groups: Members and controls.
        state: What to call it.
    """
    plan = Plan.of(TABLE_PATTERNS, TABLE_METHODS)
    rows = []
    for group, images in groups.items():
        own = float(psnr(autoencoder(images), images).median())
        for pattern in plan.patterns:
            degraded = pattern(images, range(len(images)), plan.seed)
            for name, method in plan.methods.items():
                if isinstance(method, BlindRecovery):
                    method = replace(method, certification=None)
                counted = _Counted(autoencoder)
                recover(method, counted, degraded.observed, degraded.mask)
                each = [number / len(images) for number in counted.images]
                rows.append(
                    {
                        "state": state,
                        "group": group,
                        "own_psnr": own,
                        "kind": kind_of(method, gradients=True),
                        "method": name,
                        "shape": "together" if pattern.kind in TOGETHER else "apart",
                        "hidden": pattern.fraction,
                        "work": [each[0], counted.calls[0], each[1], counted.calls[1]],
                    }
                )
    return rows


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The constant ``MEASURED``, as Python; means over autoencoders that reproduce images about as well.

    >>> row = {"kind": "search", "shape": "apart", "hidden": 0.5, "own_psnr": 12.0, "work": [150, 80, 30, 40]}
    >>> "(12.0, 150.0, 80.0, 30.0, 40.0)" in table_text([row])
    True
    """
    lines = ["MEASURED: Measured = {"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        lines.append(f'    "{kind}": {{')
        for shape in dict.fromkeys(row["shape"] for row in rows):
            lines.append(f'        "{shape}": {{')
            chosen = [row for row in rows if (row["kind"], row["shape"]) == (kind, shape)]
            for hidden in sorted({row["hidden"] for row in chosen}):
                means = _means([row for row in chosen if row["hidden"] == hidden])
                lines += [f"            {hidden}: (", *(f"                {mean}," for mean in means), "            ),"]
            lines.append("        },")
        lines.append("    },")
    return "\n".join([*lines, "}"])


def _means(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, ...]]:
    """Own PSNR and work, by level of the own PSNR."""
    levels: dict[int, list[list[float]]] = {}
    for row in rows:
        levels.setdefault(int(np.searchsorted(LEVELS, row["own_psnr"])), []).append([row["own_psnr"], *row["work"]])
    return [tuple(round(float(mean), 1) for mean in np.mean(levels[level], axis=0)) for level in sorted(levels)]


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that an earlier run has written."""
    found: list[dict[str, Any]] = read_json(path.read_bytes())["rows"]
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="The cost of audits, told before them and taken")
    for column in ("autoencoder", "patterns", "methods"):
        table.add_column(column)
    for column in ("images", "told, s", "took, s", "ratio", "evaluations told", "made", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        seconds, evaluations = (row[name] for name in ("seconds", "num_evaluations"))
        table.add_row(
            row["state"],
            ", ".join(row["patterns"]),
            str(len(row["methods"])),
            str(row["num_images"]),
            f"{row['estimated_seconds']:.1f}",
            f"{seconds:.1f}",
            f"{row['estimated_seconds'] / seconds:.2f}",
            f"{row['estimated_num_evaluations']:,}",
            f"{evaluations:,}",
            f"{row['estimated_num_evaluations'] / max(1, evaluations):.2f}",
        )
    return table

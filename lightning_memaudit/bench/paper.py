"""The paper's experiment in small: recovery from FC-10, FC-20 and a U-Net as their training loss falls, in a table."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_memaudit.bench.common import make_autoencoder
from lightning_memaudit.bench.timing import machine
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.measurement.engine import audit
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery.methods.registry import Method
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.rows import Row
from lightning_memaudit.training.data import ImagesDataModule

PATTERNS = ("random-0.5", "random-0.9", "block-0.25", "block-0.5")
METHODS = ("blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic")
AUTOENCODERS = ("FC-10", "FC-20", "U-Net")


def paper(
    data: str,
    autoencoders: Sequence[str] = AUTOENCODERS,
    num_members: int = 25,
    num_controls: int = 25,
    image_size: int | None = None,
    train_losses: Sequence[float] = (1e-3, 1e-4, 1e-5),
    patterns: Sequence[str] = PATTERNS,
    methods: Sequence[str] = METHODS,
    diffusion_model: str | None = None,
    width: int = 256,
    base_channels: int = 16,
    activation: str = "PReLU",
    batch_size: int = 10,
    max_steps: int = 100_000,
    threshold_db: float = 30.0,
    seed: int = 0,
    device: str = "auto",
    output: str = "bench-paper.json",
) -> None:
    """Train the paper's autoencoders and recover their images, at falling training losses, by every method.

    Results are written after every loss. A run with the same output and settings goes on where the last one stopped,
    with the autoencoders and losses that are not finished; the table at the end is of all that the file holds.

    Args:
        data: Images to train on: a folder, or an .npy or .npz file.
        autoencoders: Which of FC-10, FC-20 and U-Net; the first two flatten the images.
        num_members: Images to train on.
        num_controls: Images that are not trained on.
        image_size: Resize images to this side; null keeps them.
        train_losses: Mean squared errors at which to recover.
        patterns: Degradations by name.
        methods: Methods by name.
        diffusion_model: Folder or hub name of a diffusion model for ddnm, which then joins the methods.
        width: Units of the hidden layers of FC-10 and FC-20.
        base_channels: Channels of the U-Net at full resolution.
        activation: Nonlinearity of all of them.
        batch_size: Images per step of Adam.
        max_steps: Steps of Adam at most; the loss reached by then stands in for those that were not.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds images, weights and masks.
        device: Where to compute; auto takes a GPU when there is one.
        output: JSON file with all rows, and what they were made with.

    Raises:
        ValueError: A bad name or number, or an output that was made with other settings; the message says which.
    """
    for name in autoencoders:
        if name not in AUTOENCODERS:
            raise ValueError(f"autoencoders: {name!r} is unknown; give any of {', '.join(AUTOENCODERS)}")
    chosen: dict[str, str | Method] = {name: name for name in methods}
    if diffusion_model is not None:
        from lightning_memaudit.recovery.methods.ddnm import DDNM

        chosen["ddnm"] = DDNM(diffusion_model)
    resolved = Plan.of(patterns, chosen).methods
    settings = {
        "data": str(Path(data).resolve()),
        "num_members": num_members,
        "num_controls": num_controls,
        "image_size": image_size,
        "patterns": list(patterns),
        "methods": list(chosen),
        "diffusion_model": diffusion_model,
        "width": width,
        "base_channels": base_channels,
        "activation": activation,
        "batch_size": batch_size,
        "threshold_db": threshold_db,
        "seed": seed,
    }
    file = Path(output)
    rows = _resume(file, settings)
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    module = ImagesDataModule(data, None, num_members, num_controls, image_size, seed=seed)
    module.setup()
    members = module.train_dataset.__getitems__(range(num_members)).to(place)
    controls = module.control_dataset.__getitems__(range(num_controls)).to(place)
    for name in autoencoders:
        torch.manual_seed(seed)
        network = make_autoencoder(name, members.shape[1:], width, base_channels, activation).to(place)
        done = {row["target_loss"] for row in rows if row["autoencoder"] == name}
        wanted = [loss for loss in train_losses if loss not in done]
        for state in train_until(network, members, wanted, max_steps, batch_size, seed):
            began = time.perf_counter()
            report = audit(
                network,
                members,
                controls,
                patterns=patterns,
                methods=resolved,
                threshold_db=threshold_db,
                seed=seed,
                save_recoveries=0,
            )
            place_in_table = {
                "autoencoder": name,
                "target_loss": state.target,
                "steps": state.steps,
                "train_seconds": state.seconds,
                "data": Path(data).name,
                "image_shape": list(members.shape[1:]),
                "audit_seconds": time.perf_counter() - began,
                **machine(place),
            }
            rows += [row | place_in_table for row in report.rows]
            write_json(file, {"settings": settings, "rows": rows})
            print(f"{name}: loss {state.loss:.1e} after {state.steps} steps, {state.seconds:.0f} s", flush=True)
    print(markdown(rows))


def _resume(file: Path, settings: Mapping[str, Any]) -> list[Row]:
    """The rows of an earlier run with the same settings; none if there was none."""
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    before = content.get("settings", {})
    other = [name for name, value in settings.items() if before.get(name) != value]
    if other:
        raise ValueError(f"output={str(file)!r} was made with another {', '.join(other)}: give another output")
    rows: list[Row] = content["rows"]
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of all rows: recovered members of all, the rate's 95% interval, then recovered controls of all."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["autoencoder"], row["target_loss"], row["pattern"], row["method"], row["group"]): row for row in rows}
    lines = [
        "| autoencoder | train MSE | own PSNR | mask | "
        + " | ".join(method.replace("_", " ") for method in methods)
        + " |",
        "|" + "---|" * (4 + len(methods)),
    ]
    for name, target, pattern in dict.fromkeys(
        (row["autoencoder"], row["target_loss"], row["pattern"]) for row in rows
    ):
        found = [cells.get((name, target, pattern, method, "members")) for method in methods]
        first = next(cell for cell in found if cell is not None)
        head = [
            f"{name} ({first['num_images']} images)",
            f"{first['train_loss']:.1e}",
            f"{first['reconstruction_psnr_mean']:.0f} dB",
            pattern,
        ]
        parts = [
            "-"
            if cell is None
            else f"{cell['recovery_rate']:.2f} ({cell['ci_low']:.2f}-{cell['ci_high']:.2f}), "
            + _controls(cells.get((name, target, pattern, method, "controls")))
            for method, cell in zip(methods, found, strict=True)
        ]
        lines.append("| " + " | ".join([*head, *parts]) + " |")
    first = rows[0] if rows else {"threshold_db": 30.0, "device": "", "threads": 0}
    lines += [
        "",
        f"Share of the training images recovered (PSNR ≥ {first['threshold_db']:g} dB) with its "
        "exact 95% interval, then how many images were recovered that were not trained on. "
        f"On {first['device']}, {first['threads']} threads.",
    ]
    return "\n".join(lines)


def _controls(cell: Mapping[str, Any] | None) -> str:
    return "" if cell is None else f"{cell['num_recovered']}/{cell['num_images']}"

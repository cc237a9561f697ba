"""What several benchmarks share: autoencoders by name, a table on the screen, and numbers in a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_memaudit.results.files import write_json
from lightning_memaudit.training.networks import FullyConnectedAutoencoder, UNetAutoencoder


def make_autoencoder(
    name: str, image_shape: Sequence[int], width: int = 256, base_channels: int = 32, activation: str = "LeakyReLU"
) -> nn.Module:
    """An autoencoder by the name that the tables use, its weights not trained.

    Args:
        name: ``U-Net``, or ``FC-n`` for n fully connected layers.
        image_shape: (C, H, W).
        width: Units of the hidden layers of the fully connected ones.
        base_channels: Channels of the U-Net at full resolution.
        activation: Nonlinearity.

    Raises:
        ValueError: There is none of this name.

    Raises:
        ValueError: There is no such autoencoder or activation.

    >>> import torch
    >>> make_autoencoder("FC-10", (1, 8, 8), width=16)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """
    if not re.fullmatch(r"U-Net|FC-\d+", name):
        raise ValueError(f"autoencoder {name!r} is unknown: pass U-Net, or FC-n for n layers, such as FC-10")
    if name == "U-Net":
        return UNetAutoencoder(image_shape[0], base_channels, activation=activation)
    return FullyConnectedAutoencoder(image_shape, int(name.removeprefix("FC-")), width, activation)


def write_and_show(content: Mapping[str, Any], table: Table, output: str, width: int = 100) -> None:
    """Write all numbers to a JSON file in one step, and print the table.

    Args:
        content: The numbers.
        table: What people read of them.
        output: The file.
        width: Columns of the table at least, also into a file or a pipe, where rich would assume 80.
    """
    write_json(Path(output), content)
    Console(width=max(width, rich.get_console().width)).print(table)
    print(f"written to {output}")

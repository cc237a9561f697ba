"""What several benchmarks share: autoencoders by name, a table on the screen, and numbers in a file."""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

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


def load_images(path: str | None, side: int | None = None) -> Tensor:
    """Images to measure on, (n, C, H, W) in [0, 1].

    Args:
        path: An .npz file with uint8 ``images`` (n, H, W, C); None takes the 100 faces that scikit-image ships.
        side: Cut a square of so many pixels from the middle of every image; None takes all of it.

    Raises:
        ValueError: The file does not hold images, or they are smaller than the square.
    """
    if path is None:
        from skimage.data import lfw_subset  # slow to import

        faces = lfw_subset()[:100]  # type: ignore[no-untyped-call]
        images = torch.from_numpy(np.asarray(faces, dtype=np.float32)).unsqueeze(1)
    else:
        with np.load(path) as file:
            if "images" not in file:
                raise ValueError(f"data={path!r} holds {', '.join(file)}: save the images under the name images")
            array = file["images"]
        if array.ndim != 4 or array.dtype != np.uint8:
            raise ValueError(f"data={path!r} holds {array.dtype} {array.shape}: save uint8 images (n, H, W, C)")
        images = torch.from_numpy(array).permute(0, 3, 1, 2).float().div(255)
    if side is None:
        return images
    height, width = images.shape[2:]
    if not 1 <= side <= min(height, width):
        raise ValueError(f"side={side}: must be from 1 to {min(height, width)}, the images are {height}x{width}")
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side].contiguous()


def split_images(images: Tensor, num_members: int, seed: int, num_controls: int | None = None) -> tuple[Tensor, Tensor]:
    """Members and controls, drawn at random from images (n, C, H, W).

    Args:
        images: To draw from.
        num_members: How many to train on.
        seed: Seeds the order.
        num_controls: Of the others so many at most; None takes all.

    Raises:
        ValueError: Nothing would be left for controls.

    >>> import torch
    >>> [len(group) for group in split_images(torch.rand(10, 1, 4, 4), num_members=3, seed=0, num_controls=5)]
    [3, 5]
    """
    if not 1 <= num_members < len(images):
        raise ValueError(f"num_members={num_members}: must leave controls of the {len(images)} images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:num_members]], images[order[num_members:][:num_controls]]


def tell(text: str) -> None:
    """Say on stderr how far a benchmark has come; what it found goes to stdout.

    Args:
        text: One line, without the time, which is put before it.
    """
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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

"""Training for a benchmark: a network that stops at chosen losses."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_memaudit.bench.common import tell


class Trained(NamedTuple):
    """How far the training has come.

    Attributes:
        target: The loss that was asked for.
        loss: The one reached: below the target, unless the steps were used up.
        steps: Steps of training so far.
        seconds: Seconds of training so far.

    >>> images = torch.rand(20, 1, 8, 8)
    >>> stops = train_until(nn.Conv2d(1, 1, 1), images, losses=[10.0, 1e-9], max_steps=100, batch_size=10)
    >>> [(one.target, one.steps) for one in stops]  # a loss below 10 after the first epoch, one below 1e-9 never
    [(10.0, 2), (1e-09, 100)]
    """

    target: float
    loss: float
    steps: int
    seconds: float


def train_until(
    network: nn.Module, images: Tensor, losses: Sequence[float], max_steps: int, batch_size: int = 10, seed: int = 0
) -> Iterator[Trained]:
    """Train in mini-batches; stop after the first epoch whose loss is below each level, or else at the last step.

    The learning rate of Adam starts at 1e-3 and falls with the loss, as the square root of it below 1e-3: at a constant
    one the loss of deep networks jumps about, and never stays low. The loss that counts is that of all images with the
    weights as they are, in evaluation mode, in which the network is left at every stop; it is looked at once a
    mini-batch comes within twice the level.

    Args:
        network: From images to images, (B, C, H, W).
        images: (N, C, H, W).
        losses: Mean squared errors at which to stop.
        max_steps: Steps of Adam at most.
        batch_size: Images per step.
        seed: Seeds the order of the images.
    """
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    levels = sorted(losses, reverse=True)
    smooth, seconds, step = 1.0, 0.0, 0
    while levels:
        began = time.perf_counter()
        network.train()
        epoch = []
        for rows in torch.split(torch.randperm(len(images), generator=generator), batch_size):
            if step == max_steps:
                break
            loss = functional.mse_loss(network(images[rows]), images[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            epoch.append(loss.item())
            smooth = epoch[-1] if step == 0 else 0.98 * smooth + 0.02 * epoch[-1]
            step += 1
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (smooth / 1e-3) ** 0.5)
        network.eval()
        last = step == max_steps
        near = last or min(epoch) < 2 * levels[0]
        value = _loss(network, images) if near else math.inf
        seconds += time.perf_counter() - began
        while levels and (value < levels[0] or last):
            tell(f"train loss {value:.1e} after {step:,} steps, {seconds:.0f} s")
            yield Trained(levels.pop(0), value, step, seconds)


@torch.no_grad()
def _loss(network: nn.Module, images: Tensor) -> float:
    parts = [(network(chunk) - chunk).square().flatten(1).mean(1) for chunk in torch.split(images, 100)]
    return float(torch.cat(parts).mean())

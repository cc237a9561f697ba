"""Whether an autoencoder reacts to what it is shown: untrained weights often return one picture for everything."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from lightning_memaudit.recovery.types import Autoencoder

LARGEST_DIFFERENCE = 10**-1.5
"""Root mean square difference of outputs that show one picture: 30 dB. Those of autoencoders that were trained, even to
a train loss of 1e-3 only, differed by 0.2 and more; those of fully connected ones that were not, by 0.03 at most."""

SIDES = (None, 16, 8, 4)
"""Of the noise that is shown: as it is, or smoothed from so many pixels a side."""


@torch.no_grad()
def reacts(autoencoder: Autoencoder, image: Tensor) -> bool:
    """Whether outputs differ when very different images are shown: black, white, and noise, sharp and smooth.

    It takes two to six evaluations, one image at a time: two where the first outputs differ.

    Args:
        autoencoder: f.
        image: (1, C, H, W), for its shape, type and device.

    >>> image = torch.zeros(1, 1, 8, 8)
    >>> reacts(torch.sin, image), reacts(lambda images: 0.5 + images / 100, image)
    (True, False)
    """
    first = autoencoder(torch.zeros_like(image)).float()
    for shown in _images(image):
        difference = (autoencoder(shown).float() - first).square().mean().sqrt()
        if not bool(difference <= LARGEST_DIFFERENCE):  # NaN is no picture
            return True
    return False


def _images(like: Tensor) -> Iterator[Tensor]:
    yield torch.ones_like(like)
    for seed, side in enumerate(SIDES):
        size = like.shape[-2:] if side is None else (side, side)
        generator = torch.Generator(like.device).manual_seed(seed)
        noise = torch.rand(1, like.shape[1], *size, generator=generator, device=like.device)
        yield functional.interpolate(noise, size=like.shape[-2:], mode="bicubic").clamp(0, 1).to(like.dtype)

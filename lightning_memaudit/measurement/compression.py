"""What a codec left in an image: JPEG rounds the frequencies of blocks of 8 pixels to multiples of steps."""

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 8

_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps at quality 50: table K.1 of the standard (ITU-T T.81), which the Independent JPEG Group scales by quality."""
_QUALITIES = torch.arange(10.0, 99.0, dtype=torch.float64)
"""From 99 on hardly any step is above 1, which 8 bits per pixel round away."""
_RED_GREEN_BLUE = (0.299, 0.587, 0.114)
_ROUNDING = 0.4
"""Standard deviation of what rounding pixels to 8 bits, after a change of colors, leaves of a frequency."""
_MOST_BLOCKS = 64
"""So many blocks of an image tell its quality, however large it is."""
_DECIDED = 3.0
"""By so much the better fit of a quality counts more than the next, as a power of e."""


def not_measured(images: Tensor) -> Tensor:
    """NaN for each of images (B, C, *spatial): (B,)."""
    return torch.full_like(images.flatten(1)[:, 0], torch.nan)


def jpeg_grid(images: Tensor) -> Tensor:
    """How much fine detail is in blocks of 8 pixels, beside blocks off that grid, in powers of 2: (B,).

    JPEG rounds away fine detail within its blocks, and leaves edges between them, so that images which were compressed
    strongly are below others, whatever they show. Mean absolute coefficients of the cosine transform above the
    diagonal, of the mean over the channels of images (B, C, *spatial), along the last two axes; NaN where these are
    shorter than 12 pixels.
    """
    if _has_no_grid(images):
        return not_measured(images)
    gray, middle = images.mean(1), BLOCK // 2
    on, off = (_fine_detail(one) for one in (gray, gray[..., middle:, middle:]))
    return ((on + 1e-3) / (off + 1e-3)).log2()


def jpeg_quality(images: Tensor) -> Tensor:
    """Which quality of JPEG explains the values of images in [0, 1] at 8 bits best, from 10 to 98: (B,).

    After JPEG, frequencies of the blocks of 8 pixels lie near multiples of the steps that belong to its quality. The
    mean of all qualities, each weighted by how well its steps fit the lower frequencies of images (B, C, *spatial);
    somewhere between for images without such steps. NaN where the last two axes are shorter than 12 pixels.
    """
    if _has_no_grid(images):
        return not_measured(images)
    every = images.unfold(-2, BLOCK, BLOCK).unfold(-2, BLOCK, BLOCK)
    number = math.prod(every.shape[2:-2])
    places = torch.linspace(0, number - 1, min(number, _MOST_BLOCKS), dtype=torch.float64).round().long()
    some: tuple[Any, ...] = (slice(None), slice(None), *torch.unravel_index(places, every.shape[2:-2]))
    values = 255 * every[some].cpu().double()  # as many digits as it takes to come out the same everywhere
    if images.shape[1] == len(_RED_GREEN_BLUE):
        blocks = torch.einsum("bcnij,c->bnij", values, torch.tensor(_RED_GREEN_BLUE, dtype=torch.float64))
    else:
        blocks = values.mean(1)
    waves, place = _waves(blocks), torch.arange(BLOCK)
    is_low = (place[:, None] + place >= 1) & (place[:, None] + place <= 5)
    found = (waves @ blocks @ waves.T)[..., is_low]
    fits = torch.stack([_fit(found, steps) for steps in _steps(_QUALITIES)[:, is_low]], 1)
    return (torch.softmax(_DECIDED * fits, 1) @ _QUALITIES).to(images)


def _steps(qualities: Tensor) -> Tensor:
    """Steps (N, 8, 8) of the qualities (N,), as the Independent JPEG Group has them."""
    scale = torch.where(qualities < 50, (5000 / qualities).floor(), 200 - 2 * qualities)
    table = torch.tensor(_LUMINANCE, dtype=torch.float64).view(BLOCK, BLOCK)
    return ((table * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)


def _fit(found: Tensor, steps: Tensor) -> Tensor:
    """How near the frequencies (B, N, K) lie to multiples of their steps (K,), in standard errors: (B,).

    Those near 0 fit any steps, and those of steps as small as rounding none: they count for little.
    """
    multiples = found / steps
    weights = (1 - torch.exp(-((2 * multiples) ** 2))) * torch.exp(-2 * (math.pi * _ROUNDING / steps) ** 2)
    near = (weights * torch.cos(2 * math.pi * multiples)).sum((1, 2))
    return near / (weights.square().sum((1, 2)) + 1).sqrt()


def _fine_detail(images: Tensor) -> Tensor:
    """Mean absolute coefficients of blocks from the first pixel on, of images (B, *, H, W): (B,)."""
    waves, place = _waves(images), torch.arange(BLOCK, device=images.device)
    blocks = images.unfold(-2, BLOCK, BLOCK).unfold(-2, BLOCK, BLOCK)
    is_fine = place[:, None] + place >= BLOCK - 1
    return (waves @ blocks @ waves.T)[..., is_fine].flatten(1).abs().mean(1)


def _waves(like: Tensor) -> Tensor:
    """The cosine transform of 8 values, (8, 8), of the type and on the device of a tensor."""
    place = torch.arange(BLOCK, device=like.device)
    waves = torch.cos(math.pi / BLOCK * (place.to(like) + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def _has_no_grid(images: Tensor) -> bool:
    return images.ndim < 4 or min(images.shape[-2:]) < BLOCK + BLOCK // 2

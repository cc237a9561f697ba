"""What comes back of an image without the autoencoder: the best that anyone could have filled in.

A recovery that is no closer to the truth than these says nothing of memory, however close it is.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from lightning_memaudit.measurement.degradations import Degraded
from lightning_memaudit.measurement.metrics import hidden_psnr
from lightning_memaudit.measurement.saved_recoveries import as_kept
from lightning_memaudit.recovery import BlindRecovery, Recovery
from lightning_memaudit.recovery.checks import LEAST_EVALUATIONS
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.methods.registry import METHODS, Method, recover, uses_autoencoder
from lightning_memaudit.results.names import INPAINTER


def baseline_psnr(degraded: Degraded, images: Tensor, method: Method, inpainted: Recovery | None) -> Tensor:
    """PSNR over the missing pixels of the best of three fillings, none of which calls the autoencoder.

    Inpainting, where it ran; the interpolation that a recovery starts from; and the audited method with the identity
    in the autoencoder's place, which brings back what the method owes to itself.

    Args:
        degraded: The observations and their true masks.
        images: The truth, (B, C, *spatial) in [0, 1].
        method: The audited one.
        inpainted: What the inpainter made of the same observations; None where it did not run.

    Returns:
        (B,) in dB; NaN where nothing is missing, as behind a blur.

    >>> from lightning_memaudit.measurement.degradations import parse_degradation
    >>> ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    >>> degraded = parse_degradation("random-0.5")(ramp, [0], 0)
    >>> bool(baseline_psnr(degraded, ramp, BlindRecovery(), None) > 20)  # smooth images need no autoencoder
    True
    """
    if isinstance(method, BlindRecovery):
        method = replace(method, certification=None)  # nothing is claimed of these
    fillings = [interpolate(degraded.observed, degraded.mask).clamp(0, 1)]
    if uses_autoencoder(method):
        fillings.append(recover(method, torch.clone, degraded.observed, degraded.mask).image)
    if inpainted is not None:
        fillings.append(inpainted.image)
    # At the precision of the recoveries that they are compared with.
    return torch.stack([hidden_psnr(as_kept(filling), images, degraded.mask) for filling in fillings]).amax(0)


def baselines_again(degraded: Degraded, images: Tensor, inpainted: Recovery | None, method: Method | None) -> Tensor:
    """The same from saved arrays; without the method the best of the other fillings, which the baseline is not below.

    Args:
        degraded: The observations and their true masks.
        images: The truth, (B, C, *spatial).
        inpainted: What the inpainter made of the observations; None where it did not run.
        method: The audited one, or None where it cannot be made again.
    """
    return baseline_psnr(degraded, images, METHODS[INPAINTER]() if method is None else method, inpainted)


def inpainted_again(degraded: Degraded) -> Recovery:
    """What the inpainter makes of observations and true masks."""
    return recover(METHODS[INPAINTER](), torch.clone, degraded.observed, degraded.mask)


def method_as_it_comes(name: str, described: str | None) -> Method | None:
    """The package's method of a name, if that is how a run describes the one that it audited with; else None.

    It may have been bounded in its evaluations, as ``max_seconds`` does.

    >>> method_as_it_comes("blind", "BlindRecovery(max_evaluations=17)") is None
    True
    >>> method_as_it_comes("blind", repr(BlindRecovery(max_evaluations=60))).max_evaluations
    60
    """
    method = METHODS[name]() if name in METHODS else None
    bound = re.search(r"\bmax_evaluations=(\d{1,9})\b", described or "")
    if bound is not None and isinstance(method, BlindRecovery) and int(bound[1]) >= LEAST_EVALUATIONS:
        method = replace(method, max_evaluations=int(bound[1]))
    return method if repr(method) == described else None

"""What is measured of every image: the one table that measuring, rows, judgement and loggers read.

A new quantity is a function in ``measurement/metrics.py`` and a line here.
"""

from dataclasses import dataclass
from typing import Literal

MAX_PSNR = 120.0
"""PSNR of identical images, in dB: a mean squared error below 1e-12 is that of the arithmetic."""


@dataclass(frozen=True)
class Quantity:
    """A number or a flag of every image, pattern and method.

    Attributes:
        name: Column of the measurements, and key in ``images.jsonl``.
        unit: For people.
        failed: Its value where the method failed on the image.
        summary: Goes into ``audits.jsonl`` as ``<name>_mean`` or ``<name>_median`` over the images that have it.
        saved: Goes into ``images.jsonl``.
        in_tables: Loggers show it in their tables: of images, and its summary in that of rates.

    >>> [one.name for one in QUANTITIES if one.unit == "dB"]
    ['psnr', 'hidden_psnr', 'reconstruction_psnr']
    """

    name: str
    unit: str = ""
    failed: float | bool | int = float("nan")
    summary: Literal["mean", "median"] | None = None
    saved: bool = True
    in_tables: tuple[Literal["images", "rates"], ...] = ()

    @property
    def is_flag(self) -> bool:
        """Whether it is yes or no."""
        return isinstance(self.failed, bool)

    @property
    def is_number(self) -> bool:
        """Whether it is a real number, NaN where there is none."""
        return isinstance(self.failed, float)


QUANTITIES = (
    Quantity("psnr", "dB", summary="mean", in_tables=("images", "rates")),
    Quantity("hidden_psnr", "dB", summary="mean", in_tables=("images", "rates")),
    Quantity("ssim", summary="mean", in_tables=("rates",)),
    Quantity("mask_accuracy", "share", summary="mean", in_tables=("images",)),
    Quantity("score", "mean squared error", summary="median", in_tables=("images",)),
    Quantity("reconstruction_psnr", "dB", summary="mean", in_tables=("images",)),
    Quantity("certified", failed=False, in_tables=("images",)),
    Quantity("diverged", failed=False, in_tables=("images",)),
    Quantity("failed", failed=True),
    Quantity("num_evaluations", "evaluations", failed=0),
    Quantity("expected_error", "mean squared error", saved=False),
    Quantity("gain", "share", saved=False),
)
NUMBERS = tuple(one.name for one in QUANTITIES if one.is_number and one.saved)
"""Real numbers in ``images.jsonl``."""
FLAGS = tuple(one.name for one in QUANTITIES if one.is_flag)

"""What is measured of every image: the one table that measuring, rows, judgement and loggers read.

A new quantity is a function and its line in ``METRICS``, both in ``measurement/metrics.py``, and a line here. With that
it is in the results files and the loggers' tables. The page and the terminal show what their templates choose.
"""

from dataclasses import dataclass
from typing import Literal

MAX_PSNR = 120.0
"""PSNR of identical images, in dB: a mean squared error below 1e-12 is that of the arithmetic."""


@dataclass(frozen=True)
class Quantity:
    """A number, a count or a flag of every image, pattern and method.

    Attributes:
        name: Column of the measurements, and key in ``images.jsonl``.
        unit: For people.
        failed: Its value where the method failed on the image. Its type is that of the quantity: float for a real
            number, int for a count, bool for a flag.
        summary: Goes into ``audits.jsonl`` as ``<name>_mean`` or ``<name>_median`` over the images that have it.
        saved: Goes into ``images.jsonl``.
        in_tables: Loggers show it in their table of images, and its summary in that of rates.

    Raises:
        ValueError: A table shall show what is not saved or not summed up.

    >>> Quantity("largest_error", failed=float("nan"), summary="mean").kind
    <class 'float'>
    """

    name: str
    unit: str = ""
    failed: float | bool | int = float("nan")
    summary: Literal["mean", "median"] | None = None
    saved: bool = True
    in_tables: tuple[Literal["images", "rates"], ...] = ()

    def __post_init__(self) -> None:
        if "images" in self.in_tables and not self.saved:
            raise ValueError(f"quantity {self.name!r}: a table of images shows what is saved; set saved=True")
        if "rates" in self.in_tables and self.summary is None:
            raise ValueError(f"quantity {self.name!r}: a table of rates shows summaries; set summary='mean'")

    @property
    def kind(self) -> type:
        """``float``, ``int`` or ``bool``."""
        return type(self.failed)


QUANTITIES = (
    Quantity("psnr", "dB", summary="mean", in_tables=("images", "rates")),
    Quantity("hidden_psnr", "dB", summary="mean", in_tables=("images", "rates")),
    Quantity("baseline_psnr", "dB", summary="mean"),
    Quantity("recovery_gain", "dB", summary="median", in_tables=("images", "rates")),
    Quantity("ssim", summary="mean", in_tables=("rates",)),
    Quantity("mask_accuracy", "share", summary="mean", in_tables=("images",)),
    Quantity("score", "mean squared error", summary="median", in_tables=("images",)),
    Quantity("reconstruction_psnr", "dB", summary="mean", in_tables=("images",)),
    Quantity("brightness", "mean of the image's values"),
    Quantity("contrast", "standard deviation of the image's values"),
    Quantity("roughness", "root mean square difference of neighbouring pixels"),
    Quantity("value_range", "largest less smallest of the image's values"),
    Quantity("vertical_balance", "mean of the lower half less that of the upper half"),
    Quantity("direction", "how much more neighbours differ down the image than across it, from -1 to 1"),
    Quantity("horizontal_balance", "mean of the right half less that of the left half"),
    Quantity("slant", "whether edges rise or fall from left to right, from -1 to 1"),
    *(
        Quantity(f"horizontal_wave_{number}", f"mean of the image's values times {number} half waves across it")
        for number in (3, 5, 7)
    ),
    Quantity("color", "root mean square of the channels' distance from their mean"),
    Quantity("color_balance", "mean of the last channel less that of the first"),
    Quantity("color_contrast", "contrast of the last channel less that of the first"),
    Quantity("jpeg_grid", "fine detail in blocks of 8 pixels beside that off their grid, in powers of 2"),
    Quantity("jpeg_quality", "quality of JPEG whose steps fit best, from 10 to 98"),
    Quantity("sharpness", "third differences of neighbours beside first ones, in powers of 2"),
    Quantity("skewness", "third moment of the image's values by their standard deviation"),
    Quantity("edge_skewness", "the same of the differences of neighbours, summed over the axes"),
    Quantity("detail_balance", "how much rougher the second half is than the first, in powers of 2, over the axes"),
    Quantity("parity", "how much more neighbours differ within pairs than between, in powers of 2, over the axes"),
    Quantity("certified", failed=False, in_tables=("images",)),
    Quantity("diverged", failed=False, in_tables=("images",)),
    Quantity("failed", failed=True),
    Quantity("repeated", "shows a member or a control that counts", failed=False),
    Quantity("num_evaluations", "evaluations", failed=0),
    Quantity("expected_error", "mean squared error", saved=False),
    Quantity("gain", "share", saved=False),
)
REFERENCE = ("reference_psnr", "reference_score")
"""Numbers that only an audit with reference models has: their own PSNR of the intact image, in dB, and their blind
score of the same degraded image by the audited method; means over the models, of the latter the geometric one."""
NUMBERS = (*(one.name for one in QUANTITIES if one.kind is float and one.saved), *REFERENCE)
"""Real numbers in ``images.jsonl``; null where there is none."""
COUNTS = tuple(one.name for one in QUANTITIES if one.kind is int and one.saved)
FLAGS = tuple(one.name for one in QUANTITIES if one.kind is bool and one.saved)

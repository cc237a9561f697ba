"""What the autoencoder itself makes of intact images, and whether that can be a reconstruction of them at all.

An output in another range than the images, logits, another answer at every call, or one that depends on the other
images of the batch make every rate of recovery meaningless, while each of them looks like an autoencoder that has not
learned its images, or like one that has. Numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DIFFERENCE = 2e-3
"""Two calls on the same image may differ by so much of its output's range (root mean square). Other orders of a sum in
one layer make up to 5e-4 in bfloat16, and 1e-4 in float16; and what is smaller, 54 dB below the range, spoils no
recovery."""

LARGEST_ROUNDING = 0.05
"""So much may be the rounding of another batch size: 2e-3 behind twenty layers in bfloat16 whose sums have another
order, 4e-3 where parts of the sums are rounded too, 0.04 where large activations cancel out; in float16 an eighth of
that. So beyond :data:`MAX_DIFFERENCE` and up to this, batches of one size are compared instead, which round alike."""

SMALL_ERROR = 0.01
"""Below this mean squared error (20 dB) the outputs resemble the images as they are."""

UNTRAINED_PSNR = 15.0
"""Below this the autoencoder's own output does not resemble its training images (mean squared error above 0.03)."""

CLOSER = 10.0
"""So many times the mean squared error must shrink for another reading of the outputs to be what was meant."""

NOT_DETERMINISTIC, OUTPUT_RANGE, OUTPUT_LOGITS = "not_deterministic", "output_range", "output_logits"
NOT_FINITE, DEPENDS_ON_BATCH = "not_finite", "depends_on_batch"

_VALUES_AT_ONCE = 2**20

REMEDIES: dict[str, tuple[str, str, str]] = {
    NOT_DETERMINISTIC: (
        "the autoencoder answers the same images differently each time",
        "no iteration can settle on an image.",
        "Audit what does not draw random numbers: in a run, reconstruct=<a function (module, images)> that decodes the "
        "mean instead of a sample, with no masks or noise.",
    ),
    DEPENDS_ON_BATCH: (
        "the autoencoder's output for an image depends on the images beside it",
        "members and controls, which are never beside each other, come back differently for that alone.",
        "Audit what answers every image by itself: evaluation mode (model.eval()), where batch statistics are those of "
        "the training; in a run, reconstruct=<a function (module, images)> that calls a model with attention or "
        "normalization over the batch image by image.",
    ),
    NOT_FINITE: (
        "the outputs are NaN or infinite",
        "nothing can be recovered with such weights.",
        "Audit weights from before the training diverged: a lower learning rate, a higher precision or clipped "
        "gradients keep it from doing so.",
    ),
    OUTPUT_RANGE: (
        "the outputs are not in the range of the images",
        "taken as they are, the outputs are no reconstructions.",
        "Audit a function that maps the output to [0, 1], as said: in a run, reconstruct=<a function (module, "
        "images)>; or mean and std, where the model was trained on images normalized so.",
    ),
    OUTPUT_LOGITS: (
        "the outputs are logits, not images",
        "taken as they are, the outputs are no reconstructions.",
        "Audit a function that applies the sigmoid: in a run, reconstruct=<a function (module, images)> that returns "
        "torch.sigmoid of the output.",
    ),
}
"""For a verdict, by code: what is wrong in one clause, what follows from it, and what to do."""

_KNOWN_MAPS = {
    (0.5, 0.5): "(output + 1) / 2",
    (1.0, 0.5): "output + 0.5",
    (2.0, -1.0): "2 · output - 1",
    (1 / 255, 0.0): "output / 255",
}
"""Slope and offset of maps to [0, 1] from ranges that images are often brought to: [-1, 1], [-0.5, 0.5], 8 bits; and
from [0.5, 1], which undoing the first makes of images in [0, 1]."""


class Doubt(NamedTuple):
    """Why the outputs are no reconstructions, or what was trained on is not what was audited.

    Attributes:
        code: ``not_finite``, ``not_deterministic``, ``depends_on_batch``, ``output_range`` or ``output_logits``; of a
            training those of :mod:`lightning_memaudit.results.training_doubts`.
        text: What was seen, as a clause for people.

    >>> images = np.linspace(0, 1, 64).reshape(4, 1, 4, 4)
    >>> [doubt] = doubts_about(OutputSums.of(2 * images - 1, images))
    >>> doubt.code, doubt.text.partition(" would")[0]
    ('output_range', 'outputs lie in [-1, 1], and (output + 1) / 2')
    """

    code: str
    text: str


@dataclass(frozen=True)
class OutputSums:
    """Sums over images x and the autoencoder's outputs f(x), in double precision; they add up over processes.

    Attributes:
        count: Number of values in each channel.
        sums: (C, 7), over all values of a channel: f, x, f^2, x^2, f x, (f - x)^2, (sigmoid(f) - x)^2; none before
            the first image.
        low: Smallest output.
        high: Largest output.
        difference: Between two calls on the same batch, of the image that differs most: root mean square, as a share of
            its output's range.
        batch_difference: The same between calls on batches of other images beside it, where two calls on the same batch
            do not differ.
        num_not_finite: Images whose output holds NaN or infinite values; they are left out of all else.

    >>> images = np.random.default_rng(0).random((6, 3, 8, 8))
    >>> halves = [OutputSums.of(images[rows] / 2, images[rows]) for rows in (slice(2), slice(2, 6))]
    >>> whole, joined = OutputSums.of(images / 2, images), OutputSums.join(halves)
    >>> np.allclose(joined.sums, whole.sums), joined.count == whole.count, joined.high == whole.high
    (True, True, True)
    """

    count: int = 0
    sums: NDArray[np.float64] | None = None
    low: float = float("inf")
    high: float = float("-inf")
    difference: float = 0.0
    num_not_finite: int = 0
    batch_difference: float = 0.0

    @classmethod
    def of(cls, outputs: "NDArray[np.floating]", images: "NDArray[np.floating]") -> "OutputSums":
        """Of a batch: both (B, C, *spatial). Images whose output is not finite are left out."""
        at_once = max(1, _VALUES_AT_ONCE // max(1, images[:1].size))
        if len(images) > at_once:
            begins = range(0, len(images), at_once)
            return cls.join([cls.of(outputs[i : i + at_once], images[i : i + at_once]) for i in begins])
        finite = np.isfinite(outputs).all(tuple(range(1, outputs.ndim)))
        f, x = (array[finite].astype(np.float64) for array in (outputs, images))
        num_not_finite = int(len(finite) - finite.sum())
        if not f.size:
            return cls(num_not_finite=num_not_finite)
        with np.errstate(over="ignore"):  # far below zero: the sigmoid is 0
            sigmoid = 1 / (1 + np.exp(-f))
        terms = (f, x, f * f, x * x, f * x, (f - x) ** 2, (sigmoid - x) ** 2)
        sums = np.stack([term.sum((0, *range(2, term.ndim))) for term in terms], 1)
        return cls(f[:, 0].size, sums, float(f.min()), float(f.max()), num_not_finite=num_not_finite)

    @staticmethod
    def join(parts: Sequence["OutputSums"]) -> "OutputSums":
        """Of the images of all parts."""
        some = [part.sums for part in parts if part.sums is not None]
        return OutputSums(
            sum(part.count for part in parts),
            np.sum(some, axis=0) if some else None,
            min((part.low for part in parts), default=float("inf")),
            max((part.high for part in parts), default=float("-inf")),
            max((part.difference for part in parts), default=0.0),
            sum(part.num_not_finite for part in parts),
            max((part.batch_difference for part in parts), default=0.0),
        )


def differences_of_calls(first: "NDArray[np.floating]", second: "NDArray[np.floating]") -> NDArray[np.float64]:
    """How much two outputs (B, C, *spatial) for the same images differ, (B,): root mean square, a share of the range.

    The range is that of the image's outputs and 0, and not below that of images, 1: rounding is relative to the values.
    NaN counts as no difference: it is a fault of its own.

    >>> ones = np.ones((2, 1, 4, 4))
    >>> differences_of_calls(ones, ones + [[[[0.0]]], [[[1.0]]]]).tolist()
    [0.0, 0.5]
    """
    found = np.zeros(len(first))
    for row, pair in enumerate(zip(first, second, strict=True)):
        both = np.stack(pair).astype(np.float64)
        if both.size and np.isfinite(both).all():
            spread = max(1.0, both.max(initial=0.0) - both.min(initial=0.0))
            found[row] = np.sqrt(np.square(both[0] - both[1]).mean()) / spread
    return found


def doubts_about(outputs: OutputSums) -> list[Doubt]:
    """What speaks against taking the outputs for reconstructions; nothing where they look like images.

    Nor is anything said of outputs that just carry little of the images, as those of a network before its training.
    """
    doubts = []
    if outputs.num_not_finite:
        doubts.append(Doubt(NOT_FINITE, f"{outputs.num_not_finite} images come out as NaN or infinite values"))
    if outputs.difference > MAX_DIFFERENCE:
        doubts.append(
            Doubt(
                NOT_DETERMINISTIC,
                f"two calls on the same images differ by {outputs.difference:.1%} of the outputs' range (root mean "
                "square of the image that differs most)",
            )
        )
    elif outputs.batch_difference > MAX_DIFFERENCE:
        doubts.append(
            Doubt(
                DEPENDS_ON_BATCH,
                f"outputs for an image beside other images differ by {outputs.batch_difference:.1%} of their range "
                "(root mean square of the image that differs most)",
            )
        )
    if outputs.sums is None:
        return doubts
    fit = _Fit.of(outputs.sums / outputs.count)
    if fit.error <= SMALL_ERROR:
        return doubts
    where = f"outputs lie in [{outputs.low:.3g}, {outputs.high:.3g}], and "
    # Of images that are black and white alone, two values of the output are mapped to two of the images exactly.
    if fit.sigmoid_error <= max(fit.affine_error, 1e-4):
        if CLOSER * fit.sigmoid_error < fit.error and fit.sigmoid_error < 0.5 * fit.variance:
            closer = _times(fit.error, fit.sigmoid_error)
            doubts.append(Doubt(OUTPUT_LOGITS, f"{where}sigmoid(output) would be {closer} closer to the images"))
    elif CLOSER * fit.affine_error < fit.error and _is_a_change_of_range(fit):
        closer = _times(fit.error, fit.affine_error)
        doubts.append(Doubt(OUTPUT_RANGE, f"{where}{_in_words(fit)} would be {closer} closer to the images"))
    return doubts


class _Fit(NamedTuple):
    """The outputs as they are, and through the best affine map of each channel; all are means over all values."""

    slope: NDArray[np.float64]
    offset: NDArray[np.float64]
    error: float
    affine_error: float
    sigmoid_error: float
    variance: float  # of the images: the error of the best constants

    @classmethod
    def of(cls, means: NDArray[np.float64]) -> "_Fit":
        f, x, ff, xx, fx, error, sigmoid_error = means.T
        variance, their_variance, covariance = xx - x * x, ff - f * f, fx - f * x
        varies = their_variance > 1e-12 * np.maximum(ff, 1e-12)
        slope = np.divide(covariance, their_variance, out=np.zeros_like(f), where=varies)
        left = np.maximum(variance - slope * covariance, 0)
        chosen = variance > 1e-6  # a channel that is the same everywhere fits any map
        return cls(
            slope[chosen],
            (x - slope * f)[chosen],
            float(error.mean()),
            float(left.mean()),
            float(sigmoid_error.mean()),
            float(variance.mean()),
        )


def _is_a_change_of_range(fit: _Fit) -> bool:
    """Whether the affine map says that the images are there, only in another range.

    Any network that passes images through, even one that nobody has trained, may scale them somehow. So the less
    common the map is, the more of the images must be there: half of their variance for well-known ranges; nine tenths
    where the outputs look standardized; and else 99%, but not all, as an untrained 1 × 1 convolution has it.
    """
    if not len(fit.slope):
        return False
    share = fit.affine_error / fit.variance
    if _known(fit) is not None:
        return share < 0.5
    standardized = ((fit.slope >= 0.1) & (fit.slope <= 0.6) & (fit.offset >= -0.02) & (fit.offset <= 0.9)).all()
    return bool((standardized and share < 0.1) or ((fit.slope > 0).all() and 1e-9 < share < 0.01))


def _known(fit: _Fit) -> str | None:
    for (slope, offset), words in _KNOWN_MAPS.items():
        if (np.abs(fit.slope / slope - 1) < 0.1).all() and (np.abs(fit.offset - offset) < 0.05).all():
            return words
    return None


def _in_words(fit: _Fit) -> str:
    """The map, such as ``0.25 · output + 0.5``, or with one number for each channel."""
    if (known := _known(fit)) is not None:
        return known
    slope, offset = (_number(values) for values in (fit.slope, fit.offset))
    return f"{slope} · output + {offset}".replace("+ -", "- ")


def _number(values: NDArray[np.float64]) -> str:
    if np.ptp(values) < 0.01 * np.abs(values).max():
        return f"{values.mean():.3g}"
    numbers = ", ".join(f"{value:.3g}" for value in values[:4])
    return f"[{numbers}{', ...' if len(values) > 4 else ''}]"


def _times(error: float, smaller: float) -> str:
    return "more than 1000 times" if error > 1000 * smaller else f"{error / smaller:.0f} times"

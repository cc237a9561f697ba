"""Input checks shared by the recovery methods: one line, the argument, the value, the mend."""

from collections.abc import Sequence

from torch import Tensor

from lightning_memaudit.recovery.spatial import MOST_AXES


def check_images(name: str, images: Tensor) -> None:
    """Raise unless ``images`` is a finite floating-point batch (B, C, *spatial) of at least one image.

    Raises:
        ValueError: It is not.
    """
    if not 1 <= images.ndim - 2 <= MOST_AXES:
        raise ValueError(
            f"{name} has shape {tuple(images.shape)}: pass a batch of images (B, C, *spatial) with one, two or three "
            "spatial axes, such as (B, C, H, W)"
        )
    if lacks_an_axis(images.shape):
        raise ValueError(
            f"{name} has shape {tuple(images.shape)}, which may be images without an axis for number or channels: "
            "pass (B, C, H, W), or signals (B, C, L) of more values than four times their channels"
        )
    if not images.numel():
        raise ValueError(f"{name} has shape {tuple(images.shape)}: pass at least one image")
    if not images.is_floating_point():
        raise ValueError(f"{name} has dtype {images.dtype}: pass floating-point images in [0, 1]")
    if not bool(images.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values: pass finite images in [0, 1]")


def check_plane(method: str, images: Tensor) -> None:
    """Raise unless ``images`` (B, C, *spatial) have two spatial axes, for a method that knows no others.

    Raises:
        ValueError: They have another number of them.
    """
    if images.ndim != 4:
        raise ValueError(
            f"{method} is for images (B, C, H, W), these have {images.ndim - 2} spatial axes: leave it out of methods"
        )


def lacks_an_axis(shape: Sequence[int]) -> bool:
    """Whether (B, C, L) is rather (B, H, W) or (C, H, W): signals have few channels, or many values each.

    >>> lacks_an_axis((16, 28, 28)), lacks_an_axis((3, 64, 64)), lacks_an_axis((16, 12, 1000)), lacks_an_axis((8, 2, 8))
    (True, True, False, False)
    """
    return len(shape) == 3 and shape[1] > 4 and 4 * shape[1] >= shape[2]


def check_mask(mask: Tensor, images: Tensor) -> None:
    """Raise unless ``mask`` is (B, 1 or C, *spatial) for ``images`` (B, C, *spatial), with values in [0, 1].

    Raises:
        ValueError: It is not.
    """
    batch, channels, *size = images.shape
    if tuple(mask.shape) not in {(batch, 1, *size), (batch, channels, *size)}:
        raise ValueError(f"mask has shape {tuple(mask.shape)}: pass {(batch, 1, *size)} or {(batch, channels, *size)}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask holds values outside [0, 1]: pass 1 where observed, 0 where missing")


def check_counts(**counts: int) -> None:
    """Raise unless every one of these numbers, given by the names of their arguments, is at least 1.

    Raises:
        ValueError: One is not.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_wandering(wandering: int) -> None:
    """Raise unless the number of iterations after which what comes no closer may leave is 0 or more.

    Raises:
        ValueError: It is below 0, or NaN.
    """
    if not wandering >= 0:
        raise ValueError(f"wandering={wandering}: must be 0, for never, or more, such as 40")


def check_penalties(penalties: tuple[float, ...]) -> None:
    """Raise unless there is at least one penalty and all are positive and finite.

    Raises:
        ValueError: They are not.
    """
    if not penalties or not all(0 < penalty < float("inf") for penalty in penalties):
        raise ValueError(f"penalties={list(penalties)}: pass one or more positive numbers, such as [0.1]")


LEAST_EVALUATIONS = 5
"""One to score the start, one ADMM iteration, one for its score, and two for the gain."""


def check_max_evaluations(max_evaluations: int | None) -> None:
    """Raise unless the evaluations suffice to score a start, to make an iteration and score it, and for the gain.

    None leaves their number to the method.

    Raises:
        ValueError: ``max_evaluations`` is below :data:`LEAST_EVALUATIONS`.
    """
    if max_evaluations is not None and max_evaluations < LEAST_EVALUATIONS:
        raise ValueError(f"max_evaluations={max_evaluations}: must be at least {LEAST_EVALUATIONS}")


def check_noise(noise: float | None, estimated: bool = False) -> None:
    """Raise unless ``noise`` is 0 or more and finite, or None where it can be ``estimated``.

    Raises:
        ValueError: It is not.
    """
    if noise is None and estimated:
        return
    if noise is None or not 0 <= noise < float("inf"):
        either = ", or None to estimate it" if estimated else ""
        raise ValueError(f"noise={noise}: pass a standard deviation of 0 or more{either}")

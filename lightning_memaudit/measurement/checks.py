"""Whether images and autoencoder are what an audit needs, known before it starts."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.own_output import in_other_batches, output_sums
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.checks import check_images
from lightning_memaudit.results.own_output import (
    DEPENDS_ON_BATCH,
    NOT_DETERMINISTIC,
    OUTPUT_LOGITS,
    OUTPUT_RANGE,
    OutputSums,
    doubts_about,
)


@dataclass(frozen=True)
class Mends:
    """What to change where a check fails, in the words of whoever calls it: by the arguments that there are.

    Every text completes a message; ``{name}`` stands for ``members`` or ``controls``. The defaults are for a run.

    Attributes:
        values: The images are not in [0, 1].
        symmetric: Continues it, where they may be in [-1, 1].
        eight_bits: Continues it, where they may go up to 255.
        units: Continues it, where they may be in units of their own.
        standardized: Continues it, where each may be normalized by itself, by numbers that nothing undoes.
        call: The autoencoder raises an error.
        kind: It returns no tensor.
        real: It returns complex numbers.
        shape: It returns another shape.
        outputs: What it returns is no reconstruction, by the code of the doubt.
        explains_itself: Whether a ValueError of the autoencoder says itself what to change.

    >>> try:
    ...     check_values("members", torch.full((1, 1, 2, 2), 255.0), Mends(eight_bits="; {name} / 255"))
    ... except ValueError as error:
    ...     print(str(error).rpartition("; ")[2])
    members / 255
    """

    values: str = "pass images in [0, 1], or mean and std to undo their normalization"
    symmetric: str = "; mean=[0.5], std=[0.5] if they are in [-1, 1]"
    eight_bits: str = "; std=[0.00392157] if they go up to 255"
    units: str = "; data_range=[<lowest>, <highest possible value>] if they are in units such as Hounsfield's"
    standardized: str = "; data_range=[<lowest>, <highest possible value>] if each image is normalized by itself"
    call: str = (
        "pass reconstruct=<a method, or a function (module, images), or (module, batch), the parameter called batch>, "
        "or flatten=True if it takes flat images; members= and controls= where it takes tiles or other parts of them"
    )
    kind: str = "pass output=<index, key or attribute> that selects the reconstruction"
    real: str = "pass reconstruct=<a function (module, images) that returns real numbers>"
    shape: str = "it must return a reconstruction of the same shape; pass reconstruct=<a function (module, images)>"
    outputs: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType(
            {
                NOT_DETERMINISTIC: "pass reconstruct=<a function (module, images) that draws no random numbers, such "
                "as one that decodes the mean, or masks nothing>",
                DEPENDS_ON_BATCH: "pass reconstruct=<a function (module, images) that answers each image by itself>",
                OUTPUT_RANGE: "pass reconstruct=<a function (module, images) that maps the output to [0, 1]>",
                OUTPUT_LOGITS: "pass reconstruct=<a function (module, images) that applies the sigmoid>",
            }
        )
    )
    explains_itself: bool = True


UNITS = 30.0
"""Values that span more are not just normalized by a mean and a standard deviation."""

RUN_MENDS = Mends()
"""For images and models of a run, which the callback's arguments describe."""

FUNCTION_MENDS = Mends(
    values="pass images in [0, 1]",
    symmetric="; ({name} + 1) / 2 if they are in [-1, 1]",
    eight_bits="; {name} / 255 if they go up to 255",
    units="; ({name} - lowest) / (highest - lowest), of the values that are possible",
    standardized="; ({name} - lowest) / (highest - lowest), of the values that are possible",
    call="pass a function of images (B, C, *spatial), such as lambda x: model(x.flatten(1)).view_as(x) for a model of "
    "flat ones",
    kind="pass a function that returns the reconstruction alone, such as lambda x: model(x)[0]",
    real="pass a function that returns real numbers, such as lambda x: model(x).real",
    shape="pass a function that returns the same shape, such as lambda x: model(x).view_as(x) for flat outputs",
    outputs=MappingProxyType(
        {
            NOT_DETERMINISTIC: "pass a function that draws no random numbers, such as one that decodes the mean, "
            "or masks nothing",
            DEPENDS_ON_BATCH: "call model.eval() first, or pass a function that answers each image by itself",
            OUTPUT_RANGE: "pass a function that maps the output to [0, 1]",
            OUTPUT_LOGITS: "pass a function that applies the sigmoid, such as lambda x: model(x).sigmoid()",
        }
    ),
    explains_itself=False,
)
"""For a function and tensors of images, as ``audit()`` takes them."""


def check_values(name: str, images: Tensor, mends: Mends = RUN_MENDS) -> None:
    """Raise unless ``images`` is a finite batch (B, C, *spatial) in [0, 1]; the message says how to bring it there.

    Raises:
        ValueError: It is not.
    """
    check_images(name, images)
    low, high = float(images.min()), float(images.max())
    if low >= -1e-4 and high <= 1 + 1e-4:
        return
    mend = mends.values
    if -1 - 1e-4 <= low < 0 and high <= 1 + 1e-4:
        mend += mends.symmetric
    elif low >= 0 and 2 < high <= 255:
        mend += mends.eight_bits
    elif high - low > UNITS:
        mend += mends.units
    elif low < 0:
        mend += mends.standardized
    raise ValueError(f"{name} has values in [{low:.4g}, {high:.4g}]: {mend.format(name=name)}")


@torch.no_grad()
def check_group(
    group: Group,
    autoencoder: Autoencoder | ConditionalAutoencoder,
    num_images: int = 2,
    mends: Mends = RUN_MENDS,
) -> None:
    """Check what can be known before an audit with the first images: shapes, range, finite output.

    It warns where the output can be no reconstruction of the members: it is another one at every call or beside other
    images, or in another range. Of a network that has learned nothing yet, the range cannot be told.

    Args:
        group: The images.
        autoencoder: f, (B, C, *spatial) to the same shape; for a group with conditions what gives one for each.
        num_images: How many of the images are tried.
        mends: What the messages tell people to change.

    Raises:
        ValueError: Something is off.
    """
    if not len(group.images):
        raise ValueError(f"{group.name} holds no images: pass at least one")
    first = group.first(num_images)
    check_values(group.name, first.images[slice(0, num_images)], mends)
    seen = []
    for block in first.blocks(autoencoder, num_images):
        call = _checked(block.autoencoder, group.name, mends)
        output = call(block.images)
        if group.name == "members":
            seen += [output_sums(output, block.images), in_other_batches(call, block.images, output)]
    for doubt in doubts_about(OutputSums.join(seen)):
        warnings.warn(f"{group.name}: {doubt.text}; {mends.outputs[doubt.code]}", stacklevel=3)


def _checked(autoencoder: Autoencoder, name: str, mends: Mends) -> Autoencoder:
    """The autoencoder, whose failures and results that are no images raise an error that says what to change."""

    def call(images: Tensor) -> Tensor:
        try:
            output = autoencoder(images)
        except (AuditStopped, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if isinstance(error, ValueError) and mends.explains_itself:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"the autoencoder fails on {name} of shape {tuple(images.shape)} ({reason}): {mends.call}"
            ) from error
        _check_output(output, images, name, mends)
        return output

    return call


def _check_output(output: object, images: Tensor, name: str, mends: Mends) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(f"the autoencoder returned {type(output).__name__} for {name}: {mends.kind}")
    if output.is_complex():
        raise ValueError(f"the autoencoder returned {output.dtype} for {name}: {mends.real}")
    if output.shape != images.shape:
        raise ValueError(
            f"the autoencoder returned shape {tuple(output.shape)} for {name} of shape {tuple(images.shape)}: "
            f"{mends.shape}"
        )
    if not bool(output.isfinite().all()):
        raise ValueError(f"the autoencoder returned NaN or infinite values for {name}: check its weights")

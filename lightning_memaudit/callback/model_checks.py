"""What a model sees, and whether it does what an audit needs: known from a few calls."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.keys import select
from lightning_memaudit.callback.model import HalvingBatches, ModelCall, ModuleAutoencoder, image_keys
from lightning_memaudit.callback.reading.group_reading import ReadGroup
from lightning_memaudit.callback.reading.items import is_called_label
from lightning_memaudit.callback.seen import Normalization, Seen
from lightning_memaudit.measurement.checks import check_group
from lightning_memaudit.measurement.extraction import check_extraction
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan, check_degradations
from lightning_memaudit.measurement.processes import AuditStopped

LARGEST_IN_DOUBT = 2.0
"""Outputs up to this may be images in [0, 1], or bytes of a network that is not trained yet."""


_IN_DOUBT = {
    True: (
        "the model takes bytes, and whether it returns bytes or numbers in [0, 1] cannot be known: pass "
        "reconstruct=lambda module, images: 255 * module(images) where it returns numbers in [0, 1], and "
        "reconstruct=lambda module, images: module(images) where it returns bytes"
    ),
    False: (
        "the model takes integers, and whether it returns values in their range or numbers in [0, 1] cannot be known: "
        "pass reconstruct=<a function (module, images) that brings what it returns to the range of the images>, such "
        "as lambda module, images: 4000 * module(images) - 1000 with data_range=[-1000, 3000], and "
        "reconstruct=lambda module, images: module(images) where it returns values in their range"
    ),
}


def check_model(found: Inspection, plan: Plan, autoencoder: HalvingBatches, caller: Caller) -> None:
    """Check the model and the degradations with the first images, then say all that is wrong.

    Args:
        found: The images.
        plan: What is to be measured.
        autoencoder: The model.
        caller: Who calls it.

    Raises:
        ValueError: With every problem of images and model.
    """
    for read in found.reads:
        few, before = few_images(read.group), len(found.problems.messages)
        with found.problems.caught():
            check_group(few, autoencoder)
        if read.source.gives_batches and len(found.problems.messages) > before:
            found.problems.add(read.source.mend_of_single_items)
        with found.problems.caught():
            check_degradations(plan, few)
    with found.problems.caught():
        check_extraction(found.groups, plan)
    if found.problems.messages and isinstance(autoencoder.call, ModuleAutoencoder):
        members = few_images(found.groups[0])
        images = members.images[slice(0, 2)]
        try:
            autoencoder(images)
        except AuditStopped:
            raise
        except Exception:
            suggestion = caller.suggestion(autoencoder.call.seen, images)
            if suggestion:
                found.problems.add(suggestion)
    found.problems.raise_all()


def few_images(group: Group, count: int = 2) -> Group:
    """The first images of a group, whatever their range."""
    first = group.first(count)
    return replace(first, images=first.images[slice(0, count)].clamp(0, 1))


def what_the_model_sees(
    read: ReadGroup, call: Callable[[Any], Any] | None, how: ModelCall, pl_module: nn.Module
) -> tuple[Seen, ModelCall]:
    """What the model gets of an image in [0, 1], and how it is called, with the output where that was found.

    What the batch holds, unless that cannot be: a model that takes no integers gets numbers in [0, 1], for then
    ``training_step`` scales them; one that takes no (B, *spatial, C) gets (B, C, *spatial); one that takes only flat
    images, and returns such, gets these. Of several outputs it is the only one that may be images. The first training
    batch shows whether that is so.

    Args:
        read: The members.
        call: The model's own call, on what it gets; None does not try, and takes the model to get floating-point
            numbers in the layout of the batch.
        how: How the model is called.
        pl_module: The model.

    Raises:
        ValueError: The model takes integers, and whether it returns values in their range cannot be known.
    """
    conditional, output = how.takes_batch(pl_module), how.output
    known, images = read.format, read.group.images[slice(0, 1 if conditional else 2)].clamp(0, 1)

    def result_of(given: Tensor, flat: bool = how.flatten) -> Any:
        nonlocal output
        given, layout = given.flatten(1) if flat else given, given.shape
        if call is None:
            return given if given.is_floating_point() else None
        try:
            before = given.clone()
            result = call(read.group.conditions[0].batch_with(given) if conditional else given)  # type: ignore[index, union-attr]
            if how.output is not None or isinstance(result, Tensor):
                return select(result, how.output, "output")
            fitting = image_keys(result, (given.shape, layout), given, before)
            if len(fitting) != 1 or is_called_label(fitting):
                return result
            output = fitting[0]
            return select(result, output, "output")
        except AuditStopped:
            raise
        except Exception:
            return None

    def laid_out(given: Tensor) -> Tensor:
        return given.movedim(1, -1) if channels_last else given

    normalization, dtype, channels_last = (
        known.normalization,
        known.dtype,
        known.layout.channels_last and not how.flatten,
    )
    if not dtype.is_floating_point:
        # As they stand in the batch, for a model that scales them itself.
        stored = normalization
        if dtype == torch.uint8:  # what is known of bytes is of 255ths
            stored = Normalization(normalization.mean, [one / 255 for one in normalization.std or [1.0]])
        as_numbers = laid_out(images if stored.is_identity else stored.apply(images)).round()
        from_integers = None if dtype == torch.bool else result_of(as_numbers.to(dtype))
        normalization, dtype = Normalization(), torch.float32
        if isinstance(from_integers, Tensor):
            if how.reconstruct == "forward" and float(from_integers.abs().max()) <= LARGEST_IN_DOUBT:
                raise ValueError(_IN_DOUBT[known.dtype == torch.uint8])
            normalization = stored
            from_numbers = result_of(as_numbers)
            alike = isinstance(from_numbers, Tensor) and torch.equal(from_integers, from_numbers)
            dtype = torch.float32 if alike else known.dtype  # rounding less where the model takes both alike
    layouts = (channels_last, False)
    tries = [(last, kind) for last in layouts for kind in (dtype, torch.float32)]
    # A network that was cast by hand, to whose numbers training_step casts too.
    tries += [(last, kind) for kind in (torch.float64, torch.bfloat16, torch.float16) for last in layouts]
    found: tuple[bool, torch.dtype] | None = None
    for last, kind in dict.fromkeys(tries):
        given = (images.movedim(1, -1) if last else images).to(kind)
        result = result_of(given)
        # A network that flattens takes either layout: the right one is what it returns.
        if isinstance(result, Tensor) and result.shape == given.shape:
            found = last, kind
            break
        found = found or (None if result is None else (last, kind))
    flat = False
    if found is not None:
        channels_last, dtype = found
    elif call is not None and not how.flatten:
        result = result_of(laid_out(images).to(dtype), flat=True)
        flat = isinstance(result, Tensor) and result.shape == images.flatten(1).shape
    return Seen(normalization, channels_last, flat, dtype), replace(how, output=output)

"""Which of the images in a batch the model is really given: a batch of several dataloaders holds those of each."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_memaudit.callback.batch_content import are_members
from lightning_memaudit.callback.input_watch import like_images
from lightning_memaudit.callback.inspection import Inspection, listed
from lightning_memaudit.callback.reading.affine import fit_exact
from lightning_memaudit.callback.reading.group_reading import ReadGroup
from lightning_memaudit.callback.reading.items import tensors_in

LEAST_ROWS, MOST_ROWS, MOST_OF_ROWS = 6, 64, 0.75
"""Images from which it shows that a layer gets changed versions of them, and how many must be most like their own."""


def other_images(batch: Any, read: ReadGroup) -> dict[tuple[Any, ...], Tensor]:
    """Copies of what else of a batch the model may get, as (B, C, *spatial), by the place in the batch.

    These are the images beside the audited ones, and those of the other train dataloaders.

    Args:
        batch: As ``training_step`` gets it.
        read: The members.
    """
    source, form, found = read.source, read.format, {}
    beside = [(*source.path, *path) for path in form.beside]
    for path, tensor in tensors_in(batch):
        is_other = path in beside or any(path[: len(other)] == other for other in source.others)
        if is_other and tensor.ndim > 1 and len(tensor) and tensor[0].numel() == torch.Size(form.shape).numel():
            with suppress(ValueError, RuntimeError):
                found[path] = form.in_unit_range(read.arranged(tensor)).clone()
    return found


def follow_members(batch: Any, found: Inspection) -> None:
    """Let members that were passed be looked for where the batches hold them: they may be another dataloader's."""
    read = found.reads[0]
    if not read.source.given or not read.source.others:
        return
    for path in (read.source.path, *read.source.others):
        placed = _at(read, path)
        images = placed.images_in(batch)
        if images is not None and images.shape[1:] == read.format.shape and are_members(images, found):
            found.reads[0] = placed
            return


def _at(read: ReadGroup, path: tuple[Any, ...]) -> ReadGroup:
    """The same members, whose images stand in the batch of the train dataloader at this place."""
    source = read.source
    others = tuple(one for one in (source.path, *source.others) if one != path)
    return replace(read, source=replace(source, path=path, others=others))


def really_given(
    images: Tensor,
    others: Mapping[tuple[Any, ...], Tensor],
    found: Inspection,
    values: Sequence[Tensor],
    refuse: Callable[[str, str], None],
) -> Tensor:
    """The audited images of a batch, which the model must be given; where members were passed, another dataloader's.

    Args:
        images: The audited ones (B, C, *spatial).
        others: See :func:`other_images`.
        found: The members; it learns of which dataloader they are.
        values: What a layer got in the first calls.
        refuse: Called with what is wrong and with the mend where the model is given others in all of these calls.
    """
    read = found.reads[0]
    place = _place_given(images, others, read, values)
    if place is None:
        return images
    loader = _loader_of(place, read)
    if not read.source.given or loader is None:
        refuse(*_refusal(place, read))
        return images
    found.reads[0] = _at(read, loader)
    return others[place]


def _place_given(
    images: Tensor, others: Mapping[tuple[Any, ...], Tensor], read: ReadGroup, values: Sequence[Tensor]
) -> tuple[Any, ...] | None:
    """The place of the others that the model is given; None for the audited ones."""
    if not others or any(_shows(images, one, exactly=True) for one in values):
        return None
    exact = (path for path, other in others.items() if any(_shows(other, one, exactly=True) for one in values))
    found = next(exact, None)
    if found is not None or any(_shows(images, one) for one in values):
        return found
    of_loaders = {path: one for path, one in others.items() if _loader_of(path, read) is not None}
    return next((path for path, other in of_loaders.items() if any(_shows(other, one) for one in values)), None)


def _loader_of(path: tuple[Any, ...], read: ReadGroup) -> tuple[Any, ...] | None:
    """The place of the other train dataloader that these images are of; None for those beside the audited ones."""
    return next((other for other in read.source.others if path[: len(other)] == other), None)


def _refusal(path: tuple[Any, ...], read: ReadGroup) -> tuple[str, str]:
    """What is wrong where the model is given the images at this place, and not those that are audited; and the mend."""
    source, mine = read.source, (*read.source.path, *read.format.place)
    given = f"training_step gives the model the images at {listed(path)} of its batches"
    if (other := _loader_of(path, read)) is not None:
        return (
            f"{given}, which are those of the train dataloader {listed(other)}, and the audit would give it those of "
            f"the train dataloader {listed(source.path)}",
            f"pass members=<the data set of {listed(other)}>",
        )
    key = listed(path[len(source.path) :])
    return f"{given}, and the audit would give it those at {listed(mine)}", f"pass image_key={key}"


def _shows(images: Tensor, seen: Tensor, exactly: bool = False) -> bool:
    """Whether a layer got these images; unless exactly, changed ones, each most like its own."""
    rows = like_images(images, seen)
    if rows is not None and fit_exact(images[: len(rows)].to(rows.device), rows) is not None:
        return True
    if exactly or not seen.is_floating_point() or seen[:1].numel() != images[:1].numel():
        return False
    count = min(len(images), len(seen), MOST_ROWS)
    both = [some[:count].to(seen.device).flatten(1).float() for some in (images, seen)]
    # Of what is flipped or moved the values are the same.
    return count >= LEAST_ROWS and (_match(*both) or _match(*(one.sort(1).values for one in both)))


def _match(one: Tensor, other: Tensor) -> bool:
    """Whether most rows are most like their own, by what they do not have in common."""
    one, other = (nn.functional.normalize(rows - rows.mean(0), dim=1) for rows in (one, other))
    own = (one @ other.T).argmax(0) == torch.arange(len(one), device=one.device)
    return float(own.float().mean()) >= MOST_OF_ROWS

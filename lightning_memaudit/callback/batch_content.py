"""Whether the first training batch holds images like those that the audit has read: no others, in no other range."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.reading.affine import Affine, between_moments, fit_exact
from lightning_memaudit.callback.reading.items import tensors_in
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes

MOST_COMPARED, MOST_TRIED = 256, 8
"""Members that images of the first batch are compared with, for a change of range; and how many of those images."""

MOST_VALUES = 2**26
"""All values of those members: fewer large volumes are compared."""

FAR_OUTSIDE = 0.5
"""How far beyond [0, 1] noise and augmentation may bring images of a training batch."""


def check_range(images: Tensor, found: Inspection) -> None:
    """Raise where the images of a batch, brought to [0, 1] like those that were read, are far outside.

    Raises:
        ValueError: They are.
    """
    low, high = float(images.min()), float(images.max())
    if low < -FAR_OUTSIDE or high > 1 + FAR_OUTSIDE:
        raise ValueError(
            f"members: where the audited images are in [0, 1], those of the training's first batch are in "
            f"[{low:.4g}, {high:.4g}]: {_mend(found)}"
        )


def check_content(images: Tensor, batch: Any, found: Inspection) -> None:
    """The batch must hold images that are known to be trained on, or look like them.

    Args:
        images: (B, C, *spatial) of the batch, in [0, 1].
        batch: As ``training_step`` gets it.
        found: What was read; it learns whether a warning was given.

    Raises:
        ValueError: They are in another range than those that were read.
    """
    read, compared = found.reads[0], found.compared
    fitting = max(MOST_TRIED, MOST_VALUES // torch.Size(read.format.shape).numel())
    members = read.group.images[slice(0, min(MOST_COMPARED, fitting))]
    digests = image_hashes(Group.whole("members", images.clamp(0, 1)))
    known = set(found.hashes["members"]) if read.source.given else found.trained
    if known.intersection(digests):
        return
    other = None if read.random else same_but_for_range(images, members)
    about = None if other is not None else between_moments(members, images)
    # Members that were passed may be prepared as training_step does it, which no mean and deviation tells.
    other = about if not read.source.given and about is not None else other
    if other is not None and not other.is_identity:
        raise ValueError(
            f"members: the training's first batch holds {other.words('image')} of the images that the audit reads "
            f"(mean {float(images.mean()):.3g} and standard deviation {float(images.std()):.3g} against "
            f"{float(members.mean()):.3g} and {float(members.std()):.3g}): {_mend(found)}"
        )
    complete = compared is not None and compared.note is None
    if read.source.given:
        complete = read.num_available == len(known)
    # The audit has read them before the run's precision rounds them; batch by batch they are compared with room.
    is_rounded = any(one.dtype in (torch.float16, torch.bfloat16) for _, one in tensors_in(batch))
    if complete and other is None and not (read.random or found.changed or is_rounded):
        found.changed = True
        if read.source.given:
            rank_zero_warn(
                "members: none of the images of the training's first batch is one of those that were passed as "
                f"members{_unlike(members, images) if about is not None else ''}: unless training_step makes those of "
                "them, the audit measures other images than the training gets; pass members=<a data set of images as "
                "they are trained on>"
            )
            return
        rank_zero_warn(
            "members: none of the images of the training's first batch is one that the audit has read from its "
            "dataloader: something changes them on the way, as augmentation in a hook does; the audit measures "
            "the images without it"
        )


def are_members(images: Tensor, found: Inspection) -> bool:
    """Whether some of these images (B, C, *spatial), in [0, 1], are members."""
    if not bool(images.isfinite().all()):
        return False
    return not set(found.hashes["members"]).isdisjoint(image_hashes(Group.whole("members", images.clamp(0, 1))))


def are_prepared(images: Tensor, seen: Tensor, found: Inspection) -> bool:
    """Whether members were passed as the model gets them, not as they stand in the training's batches.

    Args:
        images: (B, C, *spatial) of a batch, in [0, 1].
        seen: What the model got of them, in [0, 1] as far as it can be.
        found: The members.
    """
    return found.reads[0].source.given and (are_members(seen, found) or not are_members(images, found))


def _unlike(members: Tensor, images: Tensor) -> str:
    ours, theirs = (f"mean {float(one.mean()):.3g} and deviation {float(one.std()):.3g}" for one in (members, images))
    return f" (these have {ours}, and those {theirs})"


def _mend(found: Inspection) -> str:
    hooks = (
        f"where {' or '.join(found.hooks)} does otherwise in training than in validation, let it do the same in both, "
        "for the audit reads members and controls as validation does; otherwise "
    )
    return (
        f"{hooks if found.hooks and not found.reads[0].source.given else ''}pass members and controls whose images are "
        "as they stand in the training's own batches, and mean and std that undo its normalization"
    )


def same_but_for_range(images: Tensor, members: Tensor) -> Affine | None:
    """The affine map from some member to some of the images, wherever their pixels have gone; None if there is none.

    Both are (B, C, *spatial), of any number.

    >>> members = torch.rand(5, 1, 8, 8)
    >>> same_but_for_range(0.9 * members[2:3].flip(-1) + 0.05, members).words("image")
    '(image + 0.055556) / 1.1111'
    """
    if images.shape[1:] != members.shape[1:]:
        return None
    ordered = [one.flatten(2).sort().values for one in (members, images[:MOST_TRIED].to(members.device))]
    found = []
    for image in ordered[1]:
        maps = (fit_exact(member[None], image[None]) for member in ordered[0])
        found += [next((one for one in maps if one is not None and all(slope > 0 for slope in one.slope)), None)]
    there = [one for one in found if one is not None]
    # The brightness that augmentation draws for every image is no range.
    alike = len(there) >= min(2, len(images)) and all(one.close_to(there[0], 2e-3) for one in there)
    return there[0] if alike else None

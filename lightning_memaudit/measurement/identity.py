"""Which images are the same, by their content at 8 bits per value: a control must not be a member."""

import hashlib
from collections.abc import Sequence

import torch

from lightning_memaudit.measurement.checks import RUN_MENDS, Mends, check_values
from lightning_memaudit.measurement.groups import Group

_NAMED = 3
"""How many of the images that are in both groups a message names."""


def image_hashes(group: Group, block_size: int = 512, mends: Mends = RUN_MENDS) -> list[str]:
    """Check that all images are finite and in [0, 1], and return the SHA-256 of each at 8 bits per value.

    Args:
        group: The images.
        block_size: Images read at once.
        mends: What the messages tell people to change.

    Raises:
        ValueError: An image holds values that it must not.
    """
    hashes = []
    block_size = group.at_once(block_size)
    for begin in range(0, len(group.images), block_size):
        images = group.images[begin : begin + block_size]
        check_values(group.name, images, mends)
        block = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        hashes += [hashlib.sha256(image.tobytes()).hexdigest() for image in block]
    return hashes


def check_disjoint(
    members: Sequence[str], controls: Sequence[str], mend: str = "pass controls=<a data set without them>"
) -> None:
    """Raise when a control is also a member, by content; the message names the first of them.

    Args:
        members: Hash of each member, see :func:`image_hashes`.
        controls: Likewise.
        mend: What to do about it.

    Raises:
        ValueError: At least one image is in both groups.

    >>> check_disjoint(["a", "b", "c"], ["d", "c"])
    Traceback (most recent call last):
    ValueError: 1 of the controls are identical to members (controls[1] is members[2]): a control must not have been \
trained on; pass controls=<a data set without them>
    """
    places = {digest: place for place, digest in reversed(list(enumerate(members)))}
    shared = [(place, places[digest]) for place, digest in enumerate(controls) if digest in places]
    if shared:
        first = ", ".join(f"controls[{control}] is members[{member}]" for control, member in shared[:_NAMED])
        more = ", ..." if len(shared) > _NAMED else ""
        raise ValueError(
            f"{len(shared)} of the controls are identical to members ({first}{more}): a control must not have been "
            f"trained on; {mend}"
        )

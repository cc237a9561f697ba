"""Whether the autoencoder passes images through: then an attack by its fixed points has nothing to hold on to."""

from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.reason_words import Reason, decibels

ALIKE_DB = 3.0
"""Own outputs within so many dB, twice the squared error, are about as good: the threshold may lie between them."""


def passes_images_through(judgement: Judgement) -> bool:
    """Whether images that it has never seen come out of the autoencoder about as good as they would have to.

    Most of them reach the threshold; or their median is within 3 dB of the threshold and of the median of the training
    images. For where the threshold stands within a small gap between the two says nothing of memory. Images that come
    out worse than training images by more may be those that were not stored, and images that come out far below the
    threshold do not pass through, however training images do.
    """
    controls, members = judgement.reconstruction.get("controls"), judgement.reconstruction["members"]
    if controls is None or not controls.reaching.num:
        return False
    if 2 * controls.reaching.count >= controls.reaching.num:
        return True
    unseen, seen = controls.median_psnr, members.median_psnr
    if unseen is None or seen is None:
        return False
    return unseen >= judgement.threshold_db - ALIKE_DB and abs(unseen - seen) <= ALIKE_DB


def identity_like(judgement: Judgement) -> Reason:
    """That images pass through."""
    members, controls = judgement.reconstruction["members"], judgement.reconstruction["controls"]
    level = f"{judgement.threshold_db:g} dB"
    if 2 * controls.reaching.count >= controls.reaching.num:
        near = f"most of the unseen ones at {level} or more"
    else:
        near = f"within {ALIKE_DB:g} dB of each other and of the threshold of {level}, which tells nothing between them"
    return Reason(
        "identity_like",
        "the autoencoder also reproduces images it has never seen",
        f"Unseen images come out at a median of {decibels(controls.median_psnr)}, training images at "
        f"{decibels(members.median_psnr)}, {near}: the autoencoder passes images through, as networks with skip "
        "connections do, and this attack has nothing to hold on to. That it stores nothing is not shown.",
        "Audit without the skip connections if they are yours to remove, or use another attack.",
    )

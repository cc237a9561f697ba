"""Match the fixed points of an autoencoder with members and controls. The search itself sees neither."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.batches import images_at_once, per_image_mean
from lightning_memaudit.recovery.extraction import Extraction, FixedPointSearch
from lightning_memaudit.recovery.spatial import axes, patch_means, resized, spatial
from lightning_memaudit.results.extraction import MARGIN_DB, ExtractionReport, Nearest
from lightning_memaudit.results.quantities import MAX_PSNR

COARSE = 4
"""A trivial copy of an image is its mean color, or means over so many patches along every axis, interpolated."""


def extract(
    autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], plan: Plan, processes: Processes
) -> ExtractionReport:
    """Which members and controls come out of f by themselves. Every process makes the same search, and matches its own.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        groups: Of each this process's share.
        plan: Its number of starts, threshold, seed and number of pictures are used.
        processes: Those that share the audit.

    Raises:
        ValueError: f is given something else with each image: there is none to give it with noise.
    """
    check_extraction(groups, plan)
    search = FixedPointSearch(plan.extraction, seed=int(plan.seed))
    f = cast(Autoencoder, autoencoder)
    parts = processes.share(partial(search_and_match, f, groups, search, plan.threshold_db))
    return extraction_report(search, parts, plan.threshold_db, plan.save_recoveries)


def check_extraction(groups: Sequence[Group], plan: Plan) -> None:
    """Refuse an extraction from an autoencoder that needs more than the image.

    Raises:
        ValueError: It is asked for, and images have conditions.
    """
    if plan.extraction and any(group.conditions is not None for group in groups):
        raise ValueError(
            f"extraction={plan.extraction}: the model takes more than the image, and noise has no label to go with it: "
            "pass extraction=0, or a reconstruct that takes images alone"
        )


def nearest_images(points: Tensor, group: Group, threshold_db: float, block_size: int = 512) -> Nearest:
    """To every fixed point the nearest image of a group.

    Args:
        points: The fixed points, (K, C, *spatial) on the CPU.
        group: The images.
        threshold_db: PSNR in dB from which the image itself is kept too.
        block_size: Images compared at once.
    """
    number = len(points)
    least = torch.full((number,), torch.inf, dtype=torch.float64)
    row_of = torch.full((number,), -1, dtype=torch.int64)
    for first, images in _blocks(group, block_size):
        for part in torch.split(torch.arange(number), images_at_once(block_size, points)):
            distances = _mean_squares(points[part], images)
            value, row = distances.min(1)
            better = value < least[part]
            least[part[better]], row_of[part[better]] = value[better], row[better] + first
    # Between images of float values cdist loses digits where it matters: the winners are compared in full.
    trivial = torch.full((number,), torch.inf, dtype=torch.float64)
    truth = {}
    rows = row_of.tolist()
    for point, row in enumerate(rows):
        if row < 0:
            continue
        image = group.images[slice(row, row + 1)].cpu().float()
        least[point] = per_image_mean((points[point : point + 1] - image).double().square())[0]
        trivial[point] = trivial_error(image)[0]
        if least[point] <= 10 ** (-threshold_db / 10):
            truth[point] = image[0].numpy()
    return Nearest(
        group.name,
        _decibels(least),
        _decibels(trivial),
        np.asarray([int(group.positions[row]) if row >= 0 else -1 for row in rows], dtype=np.int64),
        np.asarray([int(group.indices[row]) if row >= 0 else -1 for row in rows], dtype=np.int64),
        [group.labels([row])[0] if row >= 0 else "" for row in rows],
        truth,
        len(group.images),
    )


def trivial_error(images: Tensor) -> Tensor:
    """Mean squared error of the nearest trivial copy of each image, (B,): one color, or a few smooth patches."""
    means = images.mean(axes(images), keepdim=True)
    coarse = resized(patch_means(images, COARSE), spatial(images))
    errors = [per_image_mean((copy - images).double().square()) for copy in (means, coarse)]
    return torch.minimum(*errors)


def search_and_match(
    autoencoder: Autoencoder, groups: Sequence[Group], search: FixedPointSearch, threshold_db: float
) -> tuple[Extraction, list[Nearest]]:
    """Search the fixed points of f, (B, C, *spatial), then compare them with this process's part of every group."""
    images = groups[0].images[slice(0, 1)]
    found = search(autoencoder, images.shape[1:], images.device)
    return found, [nearest_images(found.images, group, threshold_db) for group in groups]


def extraction_report(
    search: FixedPointSearch, parts: list[tuple[Extraction, list[Nearest]]], threshold_db: float, num_pictures: int
) -> ExtractionReport:
    """Join what all processes have matched. They have made the same search, and that of the first is reported."""
    found = parts[0][0]
    summary = {
        "threshold_db": threshold_db,
        "margin_db": MARGIN_DB,
        "max_starts": search.num_starts,
        "num_starts": found.num_starts,
        "num_settled": found.num_settled,
        "num_diverged": found.num_diverged,
        "num_fixed_points": len(found.images),
        "num_evaluations": found.num_evaluations,
        "identity_like": found.identity_like,
        "complete": found.complete,
        "seed": search.seed,
    }
    nearest = [one for _, matched in parts for one in matched]
    return ExtractionReport.of(summary, nearest, found.basin.tolist(), found.images.numpy(), num_pictures)


def _blocks(group: Group, block_size: int) -> Iterator[tuple[int, Tensor]]:
    block_size = group.at_once(block_size)
    for first in range(0, len(group.images), block_size):
        yield first, group.images[slice(first, first + block_size)].cpu().float()


def _mean_squares(points: Tensor, images: Tensor) -> Tensor:
    flat, others = points.flatten(1).double(), images.flatten(1).double()
    return torch.cdist(flat, others).square() / flat.shape[1]


def _decibels(errors: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    return (-10 * errors.clamp_min(10 ** (-MAX_PSNR / 10)).log10()).numpy()

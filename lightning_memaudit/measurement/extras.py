"""Measurements beyond the audit's own, one row per image; each has a JSON file of its own in the run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_memaudit.measurement import largest_missing as missing
from lightning_memaudit.measurement import proximal
from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.methods.registry import METHODS
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.rows import Row


@dataclass(frozen=True)
class ExtraMeasurement:
    """A measurement of single images beyond the audit's own, and the JSON file that it is written to.

    Attributes:
        file: Name of its file in the run folder.
        settings: What it was made with; goes into the file.
        measure: From the autoencoder and a group of images to one row per image, with ``group``, ``image``,
            ``name`` and ``position``.

    >>> import torch
    >>> def measure(autoencoder, group):
    ...     means = autoencoder(group.images).mean((1, 2, 3)).tolist()
    ...     return [{**group.place(row), "mean": mean} for row, mean in enumerate(means)]
    >>> brightness = ExtraMeasurement("brightness.json", settings={}, measure=measure)
    >>> brightness.measure_all(lambda images: images / 2, [Group.whole("members", torch.ones(2, 1, 8, 8))])[1]
    {'group': 'members', 'image': 1, 'name': '1', 'position': 1, 'mean': 0.5}
    """

    file: str
    settings: dict[str, Any]
    measure: Callable[[Autoencoder | ConditionalAutoencoder, Group], list[Row]]

    def measure_all(self, autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group]) -> list[Row]:
        """The rows of every group."""
        return [row for group in groups for row in self.measure(autoencoder, group)]

    def write(self, folder: Path, parts: Sequence[Sequence[Row]]) -> None:
        """Write the rows of all processes, in the order of groups and positions, replacing the file in one step."""
        rows = [row for part in parts for row in part]
        rows.sort(key=lambda row: (row["group"] != "members", row["position"]))
        write_json(folder / self.file, {**self.settings, "images": rows})


def extra_measurements(plan: Plan) -> list[ExtraMeasurement]:
    """The measurements beyond the audit's own that a plan asks for."""
    extras = [proximal_extra(plan.num_proximal)] if plan.num_proximal else []
    return extras + ([largest_missing_extra(plan)] if plan.find_largest_missing else [])


def proximal_extra(num_images: int, num_steps: int = 40, tolerance: float = 1e-3) -> ExtraMeasurement:
    """How far the autoencoder is from a proximal map at the first images of each group.

    See :func:`~lightning_memaudit.measurement.proximal.proximal_diagnostic`.

    Args:
        num_images: Images per group, the first by position.
        num_steps: Dimension of the Krylov spaces.
        tolerance: How far from exact still counts in the verdicts.
    """

    def measure(autoencoder: Autoencoder | ConditionalAutoencoder, group: Group) -> list[Row]:
        # A process holds every n-th position, in order: those wanted come first.
        count = sum(position < num_images for position in group.positions)
        if not count:
            return []
        rows: dict[int, Row] = {}
        for block in group.first(count).blocks(autoencoder, count):
            report = proximal.proximal_diagnostic(block.autoencoder, block.images, num_steps, tolerance)
            rows |= {row: group.place(row) | numbers for row, numbers in zip(block.rows, report.rows, strict=True)}
        return [rows[row] for row in sorted(rows)]

    return ExtraMeasurement(proximal.FILE, {"num_steps": num_steps, "tolerance": tolerance}, measure)


def largest_missing_extra(plan: Plan, num_rounds: int = 6) -> ExtraMeasurement:
    """The largest missing fraction from which the plan's primary method still gets each image back, and an inpainter.

    Args:
        plan: Its methods, threshold, seed and block size are used.
        num_rounds: Bisections per image: the fraction is precise to ``2 ** -num_rounds``.
    """
    name = plan.primary

    def measure(autoencoder: Autoencoder | ConditionalAutoencoder, group: Group) -> list[Row]:
        method, inpainter = plan.methods[name], METHODS[INPAINTER]()
        settings = (plan.threshold_db, plan.seed, num_rounds, plan.block_size)
        return missing.largest_missing(autoencoder, group, method, *settings, inpainter=inpainter)

    resolution = 2.0**-num_rounds
    settings = {"method": name, "inpainter": INPAINTER, "threshold_db": plan.threshold_db, "resolution": resolution}
    return ExtraMeasurement(missing.FILE, settings, measure)

"""Measurements beyond the audit's own: per image, and each with a JSON file of its own in the run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_memaudit.measurement import largest_missing as missing
from lightning_memaudit.measurement import proximal
from lightning_memaudit.measurement.plan import Group, Plan
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.names import primary_method
from lightning_memaudit.results.rows import Row


@dataclass(frozen=True)
class ExtraMeasurement:
    """One such measurement.

    Attributes:
        file: Name of its file in the run folder.
        settings: What it was made with; goes into the file.
        measure: From the autoencoder and a group of images to one row per image, with ``group``, ``image`` and
            ``position``.
    """

    file: str
    settings: dict[str, Any]
    measure: Callable[[Autoencoder, Group], list[Row]]

    def measure_all(self, autoencoder: Autoencoder, groups: Sequence[Group]) -> list[Row]:
        """The rows of every group."""
        return [row for group in groups for row in self.measure(autoencoder, group)]

    def write(self, folder: Path, parts: Sequence[Sequence[Row]]) -> None:
        """Write the rows of all processes, in the order of groups and positions, replacing the file in one step."""
        rows = [row for part in parts for row in part]
        rows.sort(key=lambda row: (row["group"] != "members", row["position"]))
        write_json(folder / self.file, {**self.settings, "images": rows})


def extra_measurements(plan: Plan) -> list[ExtraMeasurement]:
    """Those that a plan asks for."""
    extras = [proximal_extra(plan.num_proximal)] if plan.num_proximal else []
    return extras + ([largest_missing_extra(plan)] if plan.find_largest_missing else [])


def proximal_extra(num_images: int, num_steps: int = 40, tolerance: float = 1e-3) -> ExtraMeasurement:
    """How far the autoencoder is from a proximal map at the first images of each group."""

    def measure(autoencoder: Autoencoder, group: Group) -> list[Row]:
        # A process holds every n-th position, in order: those wanted come first.
        count = sum(position < num_images for position in group.positions)
        if not count:
            return []
        report = proximal.proximal_diagnostic(autoencoder, group.images[slice(0, count)], num_steps, tolerance)
        places = [
            {"group": group.name, "image": int(index), "position": int(position)}
            for index, position in zip(group.indices[:count], group.positions[:count], strict=True)
        ]
        return [place | numbers for place, numbers in zip(places, report.rows, strict=True)]

    return ExtraMeasurement(proximal.FILE, {"num_steps": num_steps, "tolerance": tolerance}, measure)


def largest_missing_extra(plan: Plan, num_rounds: int = 6) -> ExtraMeasurement:
    """The largest missing fraction from which the primary method still gets each image back."""
    name = primary_method(list(plan.methods))

    def measure(autoencoder: Autoencoder, group: Group) -> list[Row]:
        return missing.largest_missing(
            autoencoder, group, plan.methods[name], plan.threshold_db, plan.seed, num_rounds, plan.block_size
        )

    settings = {"method": name, "threshold_db": plan.threshold_db, "resolution": 2.0**-num_rounds}
    return ExtraMeasurement(missing.FILE, settings, measure)

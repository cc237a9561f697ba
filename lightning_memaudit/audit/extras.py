"""Measurements beyond the audit's own: per image, and each with a JSON file of its own in the run folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_memaudit.audit import largest_missing as missing
from lightning_memaudit.audit import proximal
from lightning_memaudit.audit.measure import Group, Plan
from lightning_memaudit.audit.methods import primary_method
from lightning_memaudit.recovery import Autoencoder

Row = dict[str, Any]


@dataclass(frozen=True)
class Extra:
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


def proximal_extra(num_images: int, num_steps: int = 40, tolerance: float = 1e-3) -> Extra:
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

    return Extra(proximal.FILE, {"num_steps": num_steps, "tolerance": tolerance}, measure)


def largest_missing_extra(plan: Plan, threshold_db: float, num_rounds: int = 6) -> Extra:
    """The largest missing fraction from which the primary method still gets each image back."""
    name = primary_method(list(plan.methods))

    def measure(autoencoder: Autoencoder, group: Group) -> list[Row]:
        method = plan.methods[name]
        return missing.largest_missing(autoencoder, group, method, threshold_db, plan.seed, num_rounds, plan.block_size)

    settings = {"method": name, "threshold_db": threshold_db, "resolution": 2.0**-num_rounds}
    return Extra(missing.FILE, settings, measure)


def write_extra(path: Path, settings: dict[str, Any], parts: Sequence[Sequence[Row]]) -> None:
    """Write the rows of all processes, in the order of groups and positions, replacing the file in one step."""
    rows = [row for part in parts for row in part]
    rows.sort(key=lambda row: (row["group"] != "members", row["position"]))
    temporary = path.with_name(path.name + ".tmp")
    content = json.dumps({**settings, "images": rows}, indent=1, allow_nan=False)
    temporary.write_text(content + "\n", encoding="utf-8")
    temporary.replace(path)

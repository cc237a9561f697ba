"""What a long audit has measured so far, block by block: after a kill only the block in progress is measured again.

Blocks lie in a folder of their own beside the results, which is removed once the audit is whole::

    unfinished/key.txt          what was audited, by hash: blocks of anything else are of no use, and removed
    unfinished/0-0003.npz       the fourth block of the first process
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lightning_memaudit.results.cells import Array, Cell
from lightning_memaudit.results.files import save_arrays
from lightning_memaudit.results.own_output import OutputSums

FOLDER = "unfinished"
_KEY = "key.txt"


@dataclass
class BlockParts:
    """What was measured of some images of a group.

    Attributes:
        cells: One per pattern and method.
        saved: Arrays of the images whose recoveries are kept, by the names of the results file.
        error_sum: Sum over the images x of the mean squared error between f(x) and x.
        outputs: What f makes of the images.

    >>> parts = BlockParts([Cell("members", "half", "blind", {"name": np.array(["a"], dtype=object)}, 0.5)])
    >>> again = BlockParts.of_arrays(parts.to_arrays())
    >>> again.cells[0].columns["name"].tolist(), again.cells[0].seconds
    (['a'], 0.5)
    """

    cells: list[Cell] = field(default_factory=list)
    saved: dict[str, Array] = field(default_factory=dict)
    error_sum: float = 0.0
    outputs: list[OutputSums] = field(default_factory=list)

    def to_arrays(self) -> dict[str, Array]:
        """As arrays by name, none of objects."""
        about = {
            "cells": [[cell.group, cell.pattern, cell.method, cell.seconds] for cell in self.cells],
            "error_sum": self.error_sum,
            "outputs": [{**asdict(one), "sums": None} for one in self.outputs],
        }
        arrays: dict[str, Array] = {"about": np.array(json.dumps(about))}
        for number, cell in enumerate(self.cells):
            for name, column in cell.columns.items():
                arrays[f"cell/{number}/{name}"] = column.astype(np.str_) if column.dtype.hasobject else column
        arrays |= {f"saved/{name}": array for name, array in self.saved.items()}
        for number, one in enumerate(self.outputs):
            if one.sums is not None:
                arrays[f"sums/{number}"] = one.sums
        return arrays

    @classmethod
    def of_arrays(cls, arrays: dict[str, Array]) -> "BlockParts":
        """What :meth:`to_arrays` was called on."""
        about = json.loads(str(arrays["about"]))
        cells = []
        for number, (group, pattern, method, seconds) in enumerate(about["cells"]):
            begin = f"cell/{number}/"
            columns = {name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)}
            columns["name"] = columns["name"].astype(np.object_)
            cells.append(Cell(group, pattern, method, columns, seconds))
        saved = {name.removeprefix("saved/"): array for name, array in arrays.items() if name.startswith("saved/")}
        outputs = [
            OutputSums(**{**one, "sums": arrays.get(f"sums/{number}")}) for number, one in enumerate(about["outputs"])
        ]
        return cls(cells, saved, about["error_sum"], outputs)


@dataclass
class KeptBlocks:
    """The blocks of one process in the folder of an audit that is not whole yet.

    Attributes:
        path: The folder of the results.
        key: Of all that the blocks depend on: weights, images, settings, versions.
        rank: Of the process.

    >>> Path("results").mkdir()
    >>> kept = KeptBlocks(Path("results"), key="weights, images, settings")
    >>> kept.save(0, [BlockParts(error_sum=0.5)])
    >>> KeptBlocks(Path("results"), key="weights, images, settings").load(0)[0].error_sum
    0.5
    >>> KeptBlocks(Path("results"), key="other weights").load(0) is None
    True
    """

    path: Path
    key: str
    rank: int = 0

    def load(self, number: int) -> list[BlockParts] | None:
        """A block, of every group that has a part in it; None where it is not kept, or was torn by a kill."""
        folder = self.path / FOLDER
        try:
            if (folder / _KEY).read_text(encoding="utf-8") != self.key:
                return None
            with np.load(folder / self._name(number), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return [BlockParts.of_arrays(_behind(arrays, f"{part}/")) for part in range(int(arrays["parts"]))]
        except (OSError, BadZipFile, ValueError, KeyError, EOFError):
            return None

    def save(self, number: int, parts: Iterable[BlockParts]) -> None:
        """Keep a block, where there is room for it; those that were kept with another key are removed."""
        with suppress(OSError):  # an audit that cannot be kept in parts is done all the same
            self._save(number, parts)

    def _save(self, number: int, parts: Iterable[BlockParts]) -> None:
        folder = self.path / FOLDER
        folder.mkdir(exist_ok=True)  # in a folder that was removed meanwhile nothing is kept
        key = folder / _KEY
        if not key.is_file() or key.read_text(encoding="utf-8") != self.key:
            for other in folder.glob("*.npz"):
                other.unlink(missing_ok=True)
            key.write_text(self.key, encoding="utf-8")
        arrays: dict[str, Array] = {}
        count = 0
        for count, part in enumerate(parts, start=1):
            arrays |= {f"{count - 1}/{name}": array for name, array in part.to_arrays().items()}
        # Written as it comes: what a kill tears is not taken for a block, and only measured again.
        with (folder / self._name(number)).open("wb") as file:
            save_arrays(file, {**arrays, "parts": np.array(count)})

    def _name(self, number: int) -> str:
        return f"{self.rank}-{number:04d}.npz"


def _behind(arrays: dict[str, Array], begin: str) -> dict[str, Array]:
    return {name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)}

"""The per-image rows of the results files as columns."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.cells import Cell, is_recovered
from lightning_memaudit.results.quantities import FLAGS, NUMBERS

Row = Mapping[str, Any]
_NUMBERS = ("image", "position", *NUMBERS)
_FLAGS = ("recovered", *FLAGS)


class ImageColumns:
    """The per-image rows of one audit as columns: ``columns[group, pattern, method][name]`` is an array (n,).

    Numbers are float64, NaN where a row has none; flags are bool. Images are in the order of their positions.

    Args:
        rows: Of ``images.jsonl``, all of one audit.

    >>> row = {"group": "members", "pattern": "half", "method": "blind"}
    >>> columns = ImageColumns([row | {"position": 1, "psnr": 31.5}, row | {"position": 0, "psnr": None}])
    >>> columns["members", "half", "blind"]["psnr"].tolist()
    [nan, 31.5]
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        collected: dict[tuple[str, str, str], dict[str, array[float]]] = {}
        for row in rows:
            key = (row["group"], row["pattern"], row["method"])
            columns = collected.setdefault(key, {name: array("d") for name in _NUMBERS + _FLAGS})
            for name in _NUMBERS:
                value = row.get(name)
                columns[name].append(np.nan if value is None else value)
            if row.get("score") is None and row.get("diverged"):
                columns["score"][-1] = np.inf  # JSON has no infinity
            for name in _FLAGS:
                columns[name].append(bool(row.get(name)))
        self._columns: dict[tuple[str, str, str], dict[str, NDArray[Any]]] = {}
        for key, columns in collected.items():
            order = np.argsort(np.asarray(columns["position"]), kind="stable")
            self._columns[key] = {name: np.asarray(values)[order] for name, values in columns.items()}
            for name in _FLAGS:
                self._columns[key][name] = self._columns[key][name].astype(bool)

    @classmethod
    def of_cells(cls, cells: Iterable[Cell], threshold_db: float) -> "ImageColumns":
        """The columns that the rows of these cells would give, without making the rows."""
        found: dict[tuple[str, str, str], dict[str, NDArray[Any]]] = {}
        for cell in cells:
            order = np.argsort(np.asarray(cell.columns["position"]), kind="stable")
            columns: dict[str, NDArray[Any]] = {
                name: np.asarray(cell.columns[name], dtype=np.float64)[order]
                for name in _NUMBERS
                if name in cell.columns
            }
            # As in the files, where what is not finite is not there; but for the score of what diverged.
            for name in columns:
                if name != "score":
                    columns[name][~np.isfinite(columns[name])] = np.nan
            columns |= {
                name: np.asarray(cell.columns[name]).astype(bool)[order] for name in FLAGS if name in cell.columns
            }
            columns["recovered"] = is_recovered(cell, threshold_db)[order]
            found[cell.group, cell.pattern, cell.method] = columns
        return cls.of_columns(found)

    @classmethod
    def of_columns(cls, columns: Mapping[tuple[str, str, str], dict[str, NDArray[Any]]]) -> "ImageColumns":
        """Columns by group, pattern and method, ordered by position; those that are not there are NaN or False."""
        made = cls([])
        for key, some in columns.items():
            count = len(some["position"])
            absent: dict[str, NDArray[Any]] = {name: np.full(count, np.nan) for name in _NUMBERS if name not in some}
            absent |= {name: np.zeros(count, dtype=bool) for name in _FLAGS if name not in some}
            made._columns[key] = {**some, **absent}
        return made

    def distinct(self) -> "ImageColumns":
        """Without the images that show what another shows that counts."""
        return self.of_columns(
            {
                key: {name: values[~columns["repeated"]] for name, values in columns.items()}
                for key, columns in self._columns.items()
            }
        )

    def __getitem__(self, key: tuple[str, str, str]) -> dict[str, NDArray[Any]]:
        return self._columns[key]

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self._columns

    def methods(self) -> list[str]:
        """Methods in the order of the rows."""
        return list(dict.fromkeys(method for _, _, method in self._columns))

    def patterns(self) -> list[str]:
        """Patterns in the order of the rows."""
        return list(dict.fromkeys(pattern for _, pattern, _ in self._columns))

    def groups(self) -> list[str]:
        """Groups in the order of the rows."""
        return list(dict.fromkeys(group for group, _, _ in self._columns))

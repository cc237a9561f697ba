"""The results files of a run, read: see :mod:`lightning_memaudit.results.run_folder` for what they are.

A folder may come from elsewhere. Links in it are not followed, and names in its files are refused where they are none.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np

from lightning_memaudit.results.chain import CHAIN, SEAL
from lightning_memaudit.results.files import is_own, read_json
from lightning_memaudit.results.lines import Row, read_lines
from lightning_memaudit.results.names import DEFAULT_NAME, check_name
from lightning_memaudit.results.shapes import check_arrays, check_row, check_run
from lightning_memaudit.results.superseded import ASIDE

Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[Any]]"]

RUN, AUDITS, IMAGES, RECOVERIES = "run.json", "audits.jsonl", "images.jsonl", "recoveries"
CONFIG, OWN_CONFIG = "config.yaml", "run_config.yaml"
"""Lightning's own beside the folder, which a new run replaces, and the copy in it, which stays with the results."""
MANIFEST = "report.sha256"
"""Hashes of the page and the figures that were written with ``report.json``, as ``sha256sum -c`` reads them."""
CONCLUSIONS = (
    *("report.json", "report.html", "report-without-pictures.html", "report.pdf", "report-without-pictures.pdf"),
    *(MANIFEST, "figures", "proximal.json", "largest_missing.json"),
)
"""What is made after the last audit, and is true of no other history."""


class SavedRecoveries(NamedTuple):
    """The recoveries that a run folder keeps.

    Attributes:
        audit: Number of the audit that they are of.
        path: The file.
        arrays: By name, such as ``members/truth`` or ``members/half/blind/image``.

    >>> from lightning_memaudit.results.run_folder import RunFolder
    >>> folder = RunFolder("memaudit")
    >>> folder.append_audit([{"audit": 3, "step": 500}], [], {"members/truth": np.zeros((2, 1, 25, 25))})
    >>> saved = folder.newest_recoveries()
    >>> saved.audit, saved.path.name, saved.arrays["members/truth"].shape
    (3, 'audit-0003.npz', (2, 1, 25, 25))
    """

    audit: int
    path: Path
    arrays: Arrays


_NO_ARRAYS = (
    *(ValueError, EOFError, AttributeError, KeyError, TypeError, NotImplementedError, MemoryError, OverflowError),
    *(RecursionError, SyntaxError, BadZipFile, zlib.error),
)
"""What numpy raises of a file that is none of its own."""

_Reader = TypeVar("_Reader", bound="RunReader")


def folders_below(path: Path) -> str:
    """What to pass in place of a folder that only has runs in its folders: some of these by name, if there are any."""
    found = (file.parent for depth in ("*/*", "*/*/*") for file in path.glob(f"{depth}/{AUDITS}"))
    named = sorted(str(one) for one in found if not one.name.startswith(ASIDE) and not one.is_symlink())
    some = ", ".join(named[:4]) + (f" or one of {len(named) - 4} more" if len(named) > 4 else "")
    return f"{'one of ' if len(named) > 1 else ''}{some}" if named else "the folder of an audited run"


class RunReader:
    """Reads the results files of one run; the constructor touches nothing.

    Args:
        path: The folder that holds ``audits.jsonl``.

    >>> from lightning_memaudit.results.run_folder import RunFolder
    >>> RunFolder("runs/a/memaudit").append_audit([{"audit": 0, "step": 500}], image_rows=[], recoveries={})
    >>> RunReader.find("runs/a").audited()
    {(0, 500)}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def find(cls: type[_Reader], path: str | Path) -> _Reader:
        """The results folder at ``path``, which may also be the run's root folder with one of any name in it.

        Where a run has several, ``memaudit``, the default name of the callback, is meant.

        Raises:
            FileNotFoundError: There is no such folder, or no results in it.
            ValueError: There are the results of several callbacks, none of them by the default name.
        """
        path = Path(path)
        for candidate in (path, path / DEFAULT_NAME):
            if (candidate / AUDITS).is_file():
                if candidate != path and candidate.is_symlink():
                    raise ValueError(f"{candidate} is a symbolic link: pass the folder that it stands for")
                return cls(candidate)
        if not path.exists():
            raise FileNotFoundError(f"run folder {path} does not exist: pass the folder of a run")
        if not path.is_dir():
            of_run = (path.parent / AUDITS).is_file()
            which = path.parent if of_run else "that of a run; of a page on several, each one"
            raise FileNotFoundError(f"{path} is no folder: pass {which}")
        folders = (file.parent for file in path.glob(f"*/{AUDITS}"))
        named = sorted(one for one in folders if not one.name.startswith(ASIDE) and not one.is_symlink())
        if len(named) > 1:
            raise ValueError(f"run folder {path} holds several results: pass one of {', '.join(map(str, named))}")
        if not named:
            raise FileNotFoundError(f"run folder {path} holds no {AUDITS}: pass {folders_below(path)}")
        return cls(named[0])

    def run(self) -> Row:
        """``run.json``, without its seal.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is not a JSON object.
        """
        return {key: value for key, value in self.sealed_run().items() if key != SEAL}

    def sealed_run(self) -> Row:
        """``run.json`` as it is; raises as :meth:`run` does."""
        self._check_folder()
        path = self.path / RUN
        if not is_own(path):
            raise FileNotFoundError(f"{path} does not exist: restore it, or run the audit again")
        try:
            content = read_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): restore it, or run the audit again") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds a {type(content).__name__}, not an object: run the audit again")
        check_run(content, path)
        return content

    def audits(self) -> list[Row]:
        """The rows of all complete audits, in the order they were written, without their chain.

        Raises:
            FileNotFoundError: The folder or ``audits.jsonl`` is not there.
            ValueError: A line that is not the last cannot be read, or a name in it is none.
        """
        return [{key: value for key, value in row.items() if key != CHAIN} for row in self.chained_audits()]

    def chained_audits(self) -> list[Row]:
        """The rows of all complete audits as they are; raises as :meth:`audits` does."""
        self._check_folder()
        path = self.path / AUDITS
        if not is_own(path):
            raise FileNotFoundError(f"{path} does not exist: no audit was completed in this folder")
        rows = list(_named_well(path))
        complete = complete_audits(rows)
        return [row for row in rows if row["audit"] in complete]

    def audited(self) -> set[tuple[int, int]]:
        """Number and step of every complete audit; none when nothing was written yet."""
        if not (self.path / AUDITS).is_file():
            return set()
        return {(row["audit"], row["step"]) for row in self.audits()}

    def images(self, audit: int | None = None) -> list[Row]:
        """Per-image rows of one complete audit, or of all; empty when there is no ``images.jsonl``.

        Raises:
            FileNotFoundError: The folder or ``audits.jsonl`` is not there.
            ValueError: A line that is not the last cannot be read, or a name in it is none.
        """
        return list(self.iterate_images(audit))

    def iterate_images(self, audit: int | None = None) -> Iterator[Row]:
        """As :meth:`images`, one row at a time, for runs with very many images."""
        committed = {row["audit"] for row in self.audits()}
        path = self.path / IMAGES
        if not is_own(path):
            return
        for row in _named_well(path):
            if row["audit"] in committed and audit in (None, row["audit"]):
                yield row

    def newest_recoveries(self) -> "SavedRecoveries | None":
        """The arrays of the newest complete audit that saved any; None when none did.

        Raises:
            ValueError: They cannot be read.
        """
        committed = {row["audit"] for row in self.audits()}
        saved = [path for path in self._saved() if audit_number(path) in committed]
        if not saved:
            return None
        path = max(saved, key=audit_number)
        is_own(path)
        try:
            return SavedRecoveries(audit_number(path), path, _arrays(path))
        except _NO_ARRAYS as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be read ({reason}): restore it, or run the audit again") from error

    def _saved(self) -> list[Path]:
        folder = self.path / RECOVERIES
        if folder.is_symlink():
            raise ValueError(f"{folder} is a symbolic link: put the folder itself there")
        return sorted(path for path in folder.glob("audit-*.npz") if path.stem.removeprefix("audit-").isdecimal())

    def _check_folder(self) -> None:
        if not self.path.is_dir():
            raise FileNotFoundError(f"run folder {self.path} does not exist: pass the folder of a run")

    def config(self) -> Path | None:
        """The config of the run: the copy in the folder; None where there is none.

        Where a version that made no copy wrote ``run.json``, it is the file beside the folder; of a later run that may
        be another's. A link is neither: what it stands for may be anything, and would be shown in the report.
        """
        try:
            copies = SEAL in self.sealed_run()
        except (FileNotFoundError, ValueError):
            copies = False
        places = (self.path / OWN_CONFIG, *(() if copies else (self.path.parent / CONFIG,)))
        return next((one for one in places if one.is_file() and not one.is_symlink()), None)

    def belongs_to(self, run_id: str | None) -> bool:
        """Whether the results may be those of this run: ``run.json`` names it, or no run at all."""
        try:
            written = self.run().get("run_id")
        except (FileNotFoundError, ValueError):
            return True
        return None in (written, run_id) or written == run_id

    def concluded(self, name: str) -> bool:
        """Whether a file that is made after the last audit is there, and no older than that audit."""
        file, audits = self.path / name, self.path / AUDITS
        return file.is_file() and audits.is_file() and file.stat().st_mtime_ns >= audits.stat().st_mtime_ns


def complete_audits(rows: Sequence[Row]) -> set[int]:
    """Numbers of the audits all of whose rows are there; the rows say how many they should be."""
    counts = Counter(row["audit"] for row in rows)
    return {row["audit"] for row in rows if counts[row["audit"]] >= row.get("num_rows", 0)}


def audit_number(path: Path) -> int:
    """Of a file of recoveries."""
    return int(path.stem.rpartition("-")[2])


def _named_well(path: Path) -> Iterator[Row]:
    """The rows of a file; what is a name in them becomes part of paths, arrays and metrics.

    Raises:
        ValueError: A name is none.
    """
    checked: set[Any] = set()
    for row, _ in read_lines(path):
        for key in ("group", "pattern", "method"):
            name = row.get(key, "none")
            if not isinstance(name, str):
                raise ValueError(f"{path} holds {key}={name!r}, which is no name: restore the file from a copy")
            if name not in checked:
                check_name(name, f"{path} holds {key}={name!r}")
                checked.add(name)
        check_row(row, path)
        yield row


def _arrays(path: Path) -> Arrays:
    """The arrays of a file, which holds them as they are: what unfolds to more than its size is none of it."""
    with np.load(path, allow_pickle=False) as arrays:
        if sum(entry.file_size for entry in arrays.zip.infolist()) > path.stat().st_size:
            raise ValueError("its arrays are compressed, and results are not")
        found: Arrays = {name: arrays[name] for name in arrays.files}
    check_arrays(found)
    return found

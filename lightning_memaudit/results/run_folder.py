"""The results files of a run: written so that a kill at any moment loses at most the audit in progress.

A run folder holds::

    run.json                    what was audited, with which settings and versions; replaced in one step
    audits.jsonl                one line per audit, group, pattern and method; these make an audit count
    images.jsonl                one line per audit, group, image, pattern and method
    recoveries/audit-0003.npz   the newest audit's first images: truth, observed, mask, what came back

An audit is written in this order: arrays (to a temporary file, then renamed), ``images.jsonl``,
``audits.jsonl``. The last is the commit: whatever belongs to an audit that is not there is ignored by the
reader and removed by :meth:`RunFolder.prepare`. JSON never holds NaN or infinity; they become null. Numpy and
json only, no torch.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_memaudit.results.files import plain, replacing, write_json
from lightning_memaudit.results.names import DEFAULT_NAME

Row = dict[str, Any]
Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[Any]]"]

RUN, AUDITS, IMAGES, RECOVERIES = "run.json", "audits.jsonl", "images.jsonl", "recoveries"
SCHEMA_VERSION = 1
ASIDE = "superseded-"
"""Beginning of the names of the folders in a results folder that keep what another history replaced."""
_ROWS_PER_WRITE = 2000


class SavedRecoveries(NamedTuple):
    """The recoveries that a run folder keeps.

    Attributes:
        audit: Number of the audit that they are of.
        path: The file.
        arrays: By name, such as ``members/truth`` or ``members/half/blind/image``.

    >>> folder = RunFolder("memaudit")
    >>> folder.append_audit([{"audit": 3, "step": 500}], [], {"members/truth": np.zeros((2, 1, 25, 25))})
    >>> saved = folder.newest_recoveries()
    >>> saved.audit, saved.path.name, saved.arrays["members/truth"].shape
    (3, 'audit-0003.npz', (2, 1, 25, 25))
    """

    audit: int
    path: Path
    arrays: Arrays


class RunFolder:
    """Reads and writes the results files of one run.

    The constructor touches nothing. Reading needs only read access; the first :meth:`append_audit` or an
    explicit :meth:`prepare` makes the folder and removes what a kill left behind.

    Args:
        path: The folder that holds ``audits.jsonl``, usually ``<default_root_dir>/<name of the callback>``.

    >>> folder = RunFolder("runs/a/memaudit")
    >>> folder.append_audit([{"audit": 0, "step": 500, "recovery_rate": 0.75}], image_rows=[], recoveries={})
    >>> RunFolder.find("runs/a").audits()[0]["recovery_rate"], folder.audited()
    (0.75, {(0, 500)})
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._prepared = False

    @classmethod
    def find(cls, path: str | Path) -> "RunFolder":
        """The results folder at ``path``, which may also be the run's root folder with one of any name in it.

        Where a run has several, ``memaudit``, the default name of the callback, is meant.

        Raises:
            FileNotFoundError: There is no such folder, or no results in it.
            ValueError: There are the results of several callbacks, none of them by the default name.
        """
        path = Path(path)
        for candidate in (path, path / DEFAULT_NAME):
            if (candidate / AUDITS).is_file():
                return cls(candidate)
        if not path.exists():
            raise FileNotFoundError(f"run folder {path} does not exist: pass the folder of a run")
        named = sorted(file.parent for file in path.glob(f"*/{AUDITS}") if not file.parent.name.startswith(ASIDE))
        if len(named) > 1:
            raise ValueError(f"run folder {path} holds several results: pass one of {', '.join(map(str, named))}")
        if not named:
            raise FileNotFoundError(f"run folder {path} holds no {AUDITS}: pass the folder of an audited run")
        return cls(named[0])

    # Reading

    def run(self) -> Row:
        """``run.json``.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is not a JSON object.
        """
        self._check_folder()
        path = self.path / RUN
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: restore it, or run the audit again")
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): restore it, or run the audit again") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds a {type(content).__name__}, not an object: run the audit again")
        return content

    def audits(self) -> list[Row]:
        """The rows of all complete audits, in the order they were written.

        Raises:
            FileNotFoundError: The folder or ``audits.jsonl`` is not there.
            ValueError: A line that is not the last cannot be read.
        """
        self._check_folder()
        path = self.path / AUDITS
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: no audit was completed in this folder")
        rows = [row for row, _ in _read_lines(path)]
        complete = _complete(rows)
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
            ValueError: A line that is not the last cannot be read.
        """
        return list(self.iterate_images(audit))

    def iterate_images(self, audit: int | None = None) -> Iterator[Row]:
        """As :meth:`images`, one row at a time, for runs with very many images."""
        committed = {row["audit"] for row in self.audits()}
        path = self.path / IMAGES
        if not path.is_file():
            return
        for row, _ in _read_lines(path):
            if row["audit"] in committed and audit in (None, row["audit"]):
                yield row

    def newest_recoveries(self) -> "SavedRecoveries | None":
        """The arrays of the newest complete audit that saved any; None when none did."""
        committed = {row["audit"] for row in self.audits()}
        saved = [path for path in self._saved() if _audit_number(path) in committed]
        if not saved:
            return None
        path = max(saved, key=_audit_number)
        with np.load(path, allow_pickle=False) as arrays:
            return SavedRecoveries(_audit_number(path), path, {name: arrays[name] for name in arrays.files})

    def _saved(self) -> list[Path]:
        return sorted((self.path / RECOVERIES).glob("audit-*.npz"))

    def _check_folder(self) -> None:
        if not self.path.is_dir():
            raise FileNotFoundError(f"run folder {self.path} does not exist: pass the folder of a run")

    # Writing

    def prepare(self) -> None:
        """Make the folder, check that it can be written to, and remove what a kill left behind.

        A torn last line is cut, and whatever belongs to an audit that was not completed is removed.

        Raises:
            NotADirectoryError: Something else is at this path.
            PermissionError: The folder cannot be made or written to.
        """
        try:
            (self.path / RECOVERIES).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"results folder {self.path} cannot be made, a file is in its way: pass another dirpath"
            ) from error
        except OSError as error:
            raise PermissionError(
                f"results folder {self.path} cannot be written to ({error.strerror}): pass another dirpath"
            ) from error
        for leftover in [*self.path.glob("*.tmp"), *(self.path / RECOVERIES).glob("*.tmp")]:
            leftover.unlink()
        committed = self._repair_audits()
        _keep_lines(self.path / IMAGES, lambda row: row["audit"] in committed)
        for path in self._saved():
            if _audit_number(path) not in committed:
                path.unlink()
        self._prepared = True

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Write ``run.json``, replacing the old one in one step."""
        if not (self._prepared and self.path.is_dir()):
            self.prepare()
        write_json(self.path / RUN, {"schema_version": SCHEMA_VERSION, **plain(content)})

    def append_audit(
        self,
        audit_rows: Sequence[Mapping[str, Any]],
        image_rows: Iterable[Mapping[str, Any]],
        recoveries: "Mapping[str, np.ndarray[tuple[int, ...], np.dtype[Any]]]",
    ) -> None:
        """Append one audit: all of it, or after a kill nothing of it.

        An audit whose number is taken begins another history: of a run started anew, or resumed from an
        older checkpoint. The old files are then copied to ``superseded-1``, ``superseded-2``, ...; only the
        audits before this number stay.

        Args:
            audit_rows: The rows of ``audits.jsonl``, all of one audit.
            image_rows: The rows of ``images.jsonl``; may be a generator.
            recoveries: Arrays by name; they replace those of the audit before, unless there are none.

        Raises:
            ValueError: No rows, or rows of different audits.
        """
        numbers = {int(row["audit"]) for row in audit_rows}
        if len(numbers) != 1:
            raise ValueError(f"audit_rows are of audits {sorted(numbers)}: pass the rows of one audit")
        number = numbers.pop()
        if not (self._prepared and self.path.is_dir()):
            self.prepare()
        self._prepared = False  # until all is written: after a full disk the next audit begins by removing what is torn
        self._supersede(number)
        if recoveries:
            with replacing(self.path / RECOVERIES / f"audit-{number:04d}.npz") as file:
                np.savez(file, allow_pickle=False, **recoveries)
        _append(self.path / IMAGES, image_rows)
        _append(self.path / AUDITS, [{**row, "num_rows": len(audit_rows)} for row in audit_rows])
        if recoveries:
            for path in self._saved():
                if _audit_number(path) != number:
                    path.unlink()
        self._prepared = True

    def _repair_audits(self) -> set[int]:
        path = self.path / AUDITS
        if not path.is_file():
            return set()
        complete = _complete([row for row, _ in _read_lines(path)])
        _keep_lines(path, lambda row: row["audit"] in complete)
        return complete

    def _supersede(self, number: int) -> None:
        path = self.path / AUDITS
        if not path.is_file() or all(row["audit"] < number for row, _ in _read_lines(path)):
            return
        taken = [int(other.name.rpartition("-")[2]) for other in self.path.glob(f"{ASIDE}*")]
        aside = self.path / f"{ASIDE}{max(taken, default=0) + 1}"
        aside.mkdir()
        for name in (RUN, IMAGES, AUDITS):
            if (self.path / name).is_file():
                shutil.copy2(self.path / name, aside / name)
        shutil.copytree(self.path / RECOVERIES, aside / RECOVERIES)
        # audits.jsonl first: without their commit, the images that a kill here would leave are ignored.
        for name in (AUDITS, IMAGES):
            _keep_lines(self.path / name, lambda row: row["audit"] < number)
        for saved in self._saved():
            if _audit_number(saved) >= number:
                saved.unlink()


def _complete(rows: Sequence[Row]) -> set[int]:
    """Numbers of the audits all of whose rows are there; the rows say how many they should be."""
    counts = Counter(row["audit"] for row in rows)
    return {row["audit"] for row in rows if counts[row["audit"]] >= row.get("num_rows", 0)}


def _read_lines(path: Path) -> Iterator[tuple[Row, bytes]]:
    """Yield every line as an object and as bytes; skip a torn last one.

    Raises:
        ValueError: A line that is not the last is not an object with an audit number.
    """
    with path.open("rb") as file:
        lines = enumerate(file, start=1)
        for number, line in lines:
            try:
                row = json.loads(line)
                row["audit"]
            except (ValueError, TypeError, KeyError) as error:
                if next(lines, None) is None:
                    return
                raise ValueError(
                    f"{path} is corrupt at line {number}: remove that line, or restore the file from a copy"
                ) from error
            yield row, line if line.endswith(b"\n") else line + b"\n"


def _keep_lines(path: Path, keep: Any) -> None:
    """Keep the whole lines whose row satisfies ``keep``; the file is replaced only if that changes it."""
    if not path.is_file():
        return
    size = sum(len(line) for row, line in _read_lines(path) if keep(row))
    if size == path.stat().st_size:
        return
    with replacing(path) as file:
        file.writelines(line for row, line in _read_lines(path) if keep(row))


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows and wait until they are on the disk; few enough to fit go in a single write."""
    rows = iter(rows)
    with path.open("ab", buffering=0) as file:
        while chunk := list(islice(rows, _ROWS_PER_WRITE)):
            text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in chunk)
            view = memoryview(text.encode())
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def _audit_number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])

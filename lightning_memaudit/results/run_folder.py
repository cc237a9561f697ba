"""The results files of a run: written so that a kill at any moment loses at most the audit in progress.

A run folder holds::

    run.json                    what was audited, with which settings and versions; replaced in one step
    audits.jsonl                one line per audit, group, pattern and method; these make an audit count
    images.jsonl                one line per audit, group, image, pattern and method
    recoveries/audit-0003.npz   the newest audit's first images: truth, observed, mask, what came back
    run_config.yaml             the config of the run, where there was one beside the folder
    superseded-1/               all this, and the report, of an earlier run or another history of this one
    .lock                       held while a run writes here

A run begins with :meth:`RunFolder.begin`. An audit is written in this order: arrays (to a temporary file, then
renamed), ``images.jsonl``, ``audits.jsonl``. The last is the commit: whatever belongs to an audit that is not
there is ignored by the reader and removed by :meth:`RunFolder.prepare`. JSON never holds NaN or infinity; they
become null. Numpy and json only, no torch.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_memaudit.results.files import plain, replacing, write_json
from lightning_memaudit.results.folder_lock import FolderLock
from lightning_memaudit.results.lines import Row, append_lines, keep_lines, read_lines
from lightning_memaudit.results.names import DEFAULT_NAME
from lightning_memaudit.results.superseded import ASIDE, UNFINISHED, discard, set_aside

Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[Any]]"]

RUN, AUDITS, IMAGES, RECOVERIES = "run.json", "audits.jsonl", "images.jsonl", "recoveries"
CONFIG, OWN_CONFIG = "config.yaml", "run_config.yaml"
"""Lightning's own beside the folder, which a new run replaces, and the copy in it, which stays with the results."""
CONCLUSIONS = ("report.json", "report.html", "figures", "proximal.json", "largest_missing.json")
"""What is made after the last audit, and is true of no other history."""
SCHEMA_VERSION = 1


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
        self._lock: FolderLock | None = None

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
        rows = [row for row, _ in read_lines(path)]
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
        for row, _ in read_lines(path):
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

    def config(self) -> Path | None:
        """The config of the run: the copy in the folder, else the file beside it; None where there is neither."""
        places = (self.path / OWN_CONFIG, self.path.parent / CONFIG)
        return next((one for one in places if one.is_file()), None)

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

    # Writing

    def lock(self) -> None:
        """Keep other runs out until :meth:`unlock` or the end of this process; makes the folder.

        Raises:
            NotADirectoryError: Something else is at this path.
            PermissionError: Another run writes here, or the folder cannot be made or written to.
        """
        self._make()
        lock = FolderLock(self.path)
        lock.acquire()
        self._lock = lock

    def unlock(self) -> None:
        """Let other runs in again."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _make(self) -> None:
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

    def prepare(self) -> None:
        """Make the folder, check that it can be written to, and remove what a kill left behind.

        A torn last line is cut, and whatever belongs to an audit that was not completed is removed.

        Raises:
            NotADirectoryError: Something else is at this path.
            PermissionError: The folder cannot be made or written to.
        """
        self._make()
        discard(self.path / UNFINISHED)
        for leftover in [*self.path.glob("*.tmp"), *(self.path / RECOVERIES).glob("*.tmp")]:
            leftover.unlink()
        committed = self._repair_audits()
        keep_lines(self.path / IMAGES, lambda row: row["audit"] in committed)
        for path in self._saved():
            if _audit_number(path) not in committed:
                path.unlink()
        self._prepared = True

    def begin(self, num_audits: int = 0, run_id: str | None = None) -> None:
        """Make room for a run, before it writes anything.

        What is here of another run, or of this one after the checkpoint that it is resumed from, is set aside whole in
        ``superseded-1``, ``superseded-2``, ...; the audits that the checkpoint knows of stay. The config of the run,
        which lies beside the folder, is copied into it.

        Args:
            num_audits: Audits that the run has done before; 0 for a new one.
            run_id: Tells runs apart; with another in ``run.json`` none of the audits here are this run's.

        Raises:
            OSError: There is no room to set results aside; nothing was changed.
        """
        if not (self._prepared and self.path.is_dir()):
            self.prepare()
        self._supersede(num_audits if self.belongs_to(run_id) else 0)
        discard(self.path / OWN_CONFIG)
        config = self.config()
        if config is not None:
            with replacing(self.path / OWN_CONFIG) as file:
                file.write(config.read_bytes())

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
        older checkpoint. What is here is then set aside as by :meth:`begin`; only the audits before this number stay.

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
        append_lines(self.path / IMAGES, image_rows)
        append_lines(self.path / AUDITS, [{**row, "num_rows": len(audit_rows)} for row in audit_rows])
        if recoveries:
            for path in self._saved():
                if _audit_number(path) != number:
                    path.unlink()
        self._prepared = True

    def _repair_audits(self) -> set[int]:
        path = self.path / AUDITS
        if not path.is_file():
            return set()
        complete = _complete([row for row, _ in read_lines(path)])
        keep_lines(path, lambda row: row["audit"] in complete)
        return complete

    def _supersede(self, number: int) -> None:
        """Set everything aside if there are audits of this number or higher, then remove those and the conclusions."""
        path = self.path / AUDITS
        if not path.is_file() or all(row["audit"] < number for row, _ in read_lines(path)):
            return
        files = {self.path / name: name for name in (RUN, IMAGES, AUDITS, RECOVERIES, *CONCLUSIONS)}
        config = self.config()
        set_aside(self.path, files | ({} if config is None else {config: OWN_CONFIG}))
        for name in CONCLUSIONS:
            discard(self.path / name)
        # audits.jsonl first: without their commit, the images that a kill here would leave are ignored.
        for name in (AUDITS, IMAGES):
            keep_lines(self.path / name, lambda row: row["audit"] < number)
        for saved in self._saved():
            if _audit_number(saved) >= number:
                saved.unlink()


def _complete(rows: Sequence[Row]) -> set[int]:
    """Numbers of the audits all of whose rows are there; the rows say how many they should be."""
    counts = Counter(row["audit"] for row in rows)
    return {row["audit"] for row in rows if counts[row["audit"]] >= row.get("num_rows", 0)}


def _audit_number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])

"""The results files of a run: written so that a kill at any moment loses at most the audit in progress.

A run folder holds::

    run.json                    what was audited, with which settings and versions; replaced in one step
    audits.jsonl                one line per audit, group, pattern and method; these make an audit count
    images.jsonl                one line per audit, group, image, pattern and method
    recoveries/audit-0003.npz   the newest audit's first images: truth, observed, mask, what came back
    run_config.yaml             the config of the run, where there was one beside the folder
    unfinished/                 blocks of an audit in progress, of many images
    superseded-1/               all this, and the report, of an earlier run or another history of this one
    .lock                       held while a run writes here

A run begins with :meth:`RunFolder.begin`. An audit is written in this order: arrays (to a temporary file, then
renamed), ``images.jsonl``, ``audits.jsonl``. The last is the commit: whatever belongs to an audit that is not
there is ignored by the reader and removed by :meth:`RunFolder.prepare`. JSON never holds NaN or infinity; they
become null. Numpy and json only, no torch.

Hashes chain the audits, see :mod:`lightning_memaudit.results.chain`; readers get the rows without them.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lightning_memaudit.results.chain import SEAL, audit_sha256, by_audit, chained, sealed
from lightning_memaudit.results.files import is_own, plain, replacing, save_arrays, write_json
from lightning_memaudit.results.folder_lock import FolderLock
from lightning_memaudit.results.hashes import file_sha256
from lightning_memaudit.results.kept_blocks import FOLDER as KEPT_BLOCKS
from lightning_memaudit.results.lines import Row, append_lines, keep_lines, read_lines
from lightning_memaudit.results.run_reader import (
    AUDITS,
    CONCLUSIONS,
    CONFIG,
    IMAGES,
    MANIFEST,
    OWN_CONFIG,
    RECOVERIES,
    RUN,
    Arrays,
    RunReader,
    SavedRecoveries,
    audit_number,
    complete_audits,
)
from lightning_memaudit.results.superseded import UNFINISHED, discard, set_aside

SCHEMA_VERSION = 1


class RunFolder(RunReader):
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
        super().__init__(path)
        self._prepared = False
        self._lock: FolderLock | None = None

    def lock(self) -> None:
        """Keep other runs out until :meth:`unlock` or the end of this process; makes the folder.

        Raises:
            NotADirectoryError: Something else is at this path.
            PermissionError: Another run writes here, or the folder cannot be made or written to.
            ValueError: A results file is a link.
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
            for name in (RUN, AUDITS, IMAGES):
                is_own(self.path / name)
            self._saved()
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
            ValueError: A results file is a link.
        """
        self._make()
        discard(self.path / UNFINISHED)
        for leftover in [*self.path.glob("*.tmp"), *(self.path / RECOVERIES).glob("*.tmp")]:
            leftover.unlink()
        committed = self._repair_audits()
        keep_lines(self.path / IMAGES, lambda row: row["audit"] in committed)
        for path in self._saved():
            if audit_number(path) not in committed:
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
        config = self.path.parent / CONFIG
        if config.is_file() and not config.is_symlink():
            with replacing(self.path / OWN_CONFIG) as file:
                file.write(config.read_bytes())

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Write ``run.json``, replacing the old one in one step."""
        if not (self._prepared and self.path.is_dir()):
            self.prepare()
        rows = self.chained_audits() if is_own(self.path / AUDITS) else []
        config = self.path / OWN_CONFIG
        digest = file_sha256(config) if is_own(config) else None
        write_json(self.path / RUN, sealed({"schema_version": SCHEMA_VERSION, **plain(content)}, _newest(rows), digest))

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
        before = _newest(self.chained_audits()) if is_own(self.path / AUDITS) else []
        file_of_recoveries = self.path / RECOVERIES / f"audit-{number:04d}.npz"
        if recoveries:
            with replacing(file_of_recoveries) as file:
                save_arrays(file, recoveries)
        images = append_lines(self.path / IMAGES, image_rows)
        rows = chained(
            [{**row, "num_rows": len(audit_rows)} for row in audit_rows],
            audit_sha256(before) if before else None,
            images,
            file_sha256(file_of_recoveries) if recoveries else None,
        )
        append_lines(self.path / AUDITS, rows)
        self._seal(rows)
        if recoveries:
            for path in self._saved():
                if audit_number(path) != number:
                    path.unlink()
        shutil.rmtree(self.path / KEPT_BLOCKS, ignore_errors=True)
        self._prepared = True

    def _seal(self, newest: Sequence[Row]) -> None:
        """Say in ``run.json``, where there is one, which audit is the newest; after a kill it may name one before."""
        with suppress(FileNotFoundError, ValueError):
            run = self.sealed_run()
            write_json(self.path / RUN, sealed(run, newest, (run.get(SEAL) or {}).get("config")))

    def _repair_audits(self) -> set[int]:
        path = self.path / AUDITS
        if not path.is_file():
            return set()
        complete = complete_audits([row for row, _ in read_lines(path)])
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
            if audit_number(saved) >= number:
                saved.unlink()


def _newest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the last audit in the file."""
    return by_audit(rows)[-1] if rows else []


__all__ = [
    "AUDITS",
    "CONCLUSIONS",
    "CONFIG",
    "IMAGES",
    "MANIFEST",
    "OWN_CONFIG",
    "RECOVERIES",
    "RUN",
    "Arrays",
    "RunFolder",
    "SavedRecoveries",
]

"""Files of one JSON object per line, each with the number of its audit, that survive a kill at any byte."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_memaudit.results.files import AmbiguousJSON, plain, read_json, replacing

Row = dict[str, Any]
_ROWS_PER_WRITE = 2000
_MOST_AUDITS = 10**9
"""No run audits so often: a higher number is not one that was counted."""


def read_lines(path: Path) -> Iterator[tuple[Row, bytes]]:
    """Yield every line as an object and as bytes; skip a torn last one.

    Raises:
        ValueError: A line that is not the last is not an object with an audit number, or any line is one that a kill
            cannot have left.
    """
    with path.open("rb") as file:
        lines = enumerate(file, start=1)
        for number, line in lines:
            try:
                row = read_json(line)
                audit = row["audit"]
                if type(audit) is not int or not 0 <= audit < _MOST_AUDITS:
                    raise AmbiguousJSON(f"audit={audit!r:.40} is no number of an audit")
            except AmbiguousJSON as error:
                raise ValueError(
                    f"{path} is corrupt at line {number}: {error}; restore the file from a copy"
                ) from error
            except (ValueError, TypeError, KeyError) as error:
                if next(lines, None) is None:
                    return
                raise ValueError(
                    f"{path} is corrupt at line {number}: remove that line, or restore the file from a copy"
                ) from error
            yield row, line if line.endswith(b"\n") else line + b"\n"


def keep_lines(path: Path, keep: Callable[[Row], bool]) -> None:
    """Keep the whole lines whose row satisfies ``keep``; the file is replaced only if that changes it."""
    if not path.is_file():
        return
    size = sum(len(line) for row, line in read_lines(path) if keep(row))
    if size == path.stat().st_size:
        return
    if not size:
        path.unlink()
        return
    with replacing(path) as file:
        file.writelines(line for row, line in read_lines(path) if keep(row))


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Append rows and wait until they are on the disk; few enough to fit go in a single write.

    Returns:
        SHA-256 of the lines.
    """
    rows = iter(rows)
    digest = hashlib.sha256()
    with path.open("ab", buffering=0) as file:
        while chunk := list(islice(rows, _ROWS_PER_WRITE)):
            text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in chunk)
            view = memoryview(text.encode())
            digest.update(view)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return digest.hexdigest()

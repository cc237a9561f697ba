"""Files that are whole or not there, and values that JSON can hold."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def plain(value: Any, otherwise: Callable[[Any], Any] = lambda value: value) -> Any:
    """Plain Python for JSON: numpy scalars become numbers, tuples lists, paths text, NaN and infinities null.

    Args:
        value: Anything.
        otherwise: What becomes of a value of any other type; as it is, json refuses it.

    >>> plain({"psnr": np.float32(30), "score": float("inf"), "shape": (1, 25, 25)})
    {'psnr': 30.0, 'score': None, 'shape': [1, 25, 25]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, otherwise) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, otherwise) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, bool | int | float | str) or value is None else otherwise(value)


def write_json(path: Path, content: Any, ascii_only: bool = True) -> Path:
    """Write a JSON value, which must be plain, in one step.

    Args:
        path: The file to replace or to make.
        content: The value.
        ascii_only: Escape all other characters, among them those of file names that are no text at all.

    Raises:
        ValueError: It holds NaN or an infinity.
        TypeError: It holds what JSON does not know.
    """
    return write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=ascii_only) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text in one step, as UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())
    return path


def is_own(path: Path) -> bool:
    """Whether there is a file at ``path`` itself, such as a results folder holds.

    Folders come from elsewhere, too: what a link in one stands for is nobody's results, and reading a pipe never ends.

    Raises:
        ValueError: There is a link, a folder, a pipe or a device.

    >>> _ = Path("numbers.txt").write_text("1 2 3")
    >>> is_own(Path("numbers.txt")), is_own(Path("letters.txt"))
    (True, False)
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a symbolic link" if path.is_symlink() else "no regular file"
        raise ValueError(f"{path} is {kind}: results are plain files; put the file itself there, or remove it")
    return path.is_file()


class replacing:
    """Open a temporary file beside ``path`` that takes its place when all went well, else vanishes.

    It is on the disk before it takes the place, so that a loss of power leaves the old file or the new one. A link
    stays, and the file that it stands for is replaced; a pipe or a device is written to as it is.

    Args:
        path: The file to replace or to make.

    >>> with replacing(Path("numbers.txt")) as file:
    ...     _ = file.write(b"1 2 3")
    >>> Path("numbers.txt").read_text()
    '1 2 3'
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        is_stream = self.path.exists() and not self.path.is_file()
        self.temporary = None if is_stream else self.path.with_name(self.path.name + ".tmp")

    def __enter__(self) -> BinaryIO:
        self.file: BinaryIO = (self.temporary or self.path).open("wb")
        return self.file

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self.file.flush()
                if self.temporary is not None:
                    os.fsync(self.file.fileno())
                    self.file.close()
                    self.temporary.replace(self.path)
        finally:
            with suppress(OSError):  # closing writes what is left, and on a full disk fails again
                self.file.close()
            if self.temporary is not None:
                self.temporary.unlink(missing_ok=True)

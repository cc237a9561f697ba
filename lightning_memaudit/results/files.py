"""Files that are whole or not there, and values that JSON can hold."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DEEPEST = 64


class AmbiguousJSON(ValueError):
    """A text that readers of JSON may understand in different ways, or not at all: nothing here writes such.

    >>> read_json('{"outcome": "memorized", "outcome": "not_memorized"}')
    Traceback (most recent call last):
    lightning_memaudit.results.files.AmbiguousJSON: the key 'outcome' is there twice
    """


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text that can be read in one way only.

    Args:
        text: As text, or as bytes in UTF-8, -16 or -32.

    Raises:
        AmbiguousJSON: A key is there twice, a number is beyond the range of double precision, or values lie too deep.
        ValueError: It is no JSON, which knows no NaN and no infinity.

    >>> read_json('{"psnr": [30.0, null]}')
    {'psnr': [30.0, None]}
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise AmbiguousJSON(f"it is nested deeper than {_DEEPEST} levels") from None
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        raise AmbiguousJSON(f"it is nested deeper than {_DEEPEST} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
    return bool(level)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise AmbiguousJSON(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return values


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise AmbiguousJSON(f"the number {digits[:30]} is beyond all range")
    return number


def _whole(digits: str) -> int:
    if len(digits) > 300:
        raise AmbiguousJSON(f"the number {digits[:30]}... is beyond all range")
    return int(digits)


def _refuse(constant: str) -> None:
    """NaN and infinities are no JSON, and nothing here writes them."""
    raise ValueError(constant)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_real, parse_int=_whole, parse_constant=_refuse)


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


def save_arrays(file: BinaryIO, arrays: "Mapping[str, np.ndarray[Any, Any]]") -> None:
    """Write arrays, and raise ValueError where one would be pickled: whoever reads it would have to run its code."""
    # NumPy before 2.3, the newest for Python 3.10, has no argument for this, and takes it for one more array.
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"{name} holds objects: pass arrays of numbers or text")
    save: Any = np.savez  # its types take any array for that argument
    save(file, **arrays)

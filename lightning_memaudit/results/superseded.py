"""What another history replaces in a results folder is kept in a folder of its own within it."""

import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

ASIDE = "superseded-"
"""Beginning of the names of the folders in a results folder that keep what another history replaced."""
UNFINISHED = ".superseding"
"""Name of such a folder while it is being filled; what a kill leaves of it is removed by the next run."""


def set_aside(folder: Path, results: Mapping[Path, str]) -> Path:
    """Copy files and folders into ``superseded-1``, ``superseded-2``, ...: all of them, or after a kill nothing.

    Where the newest of these holds them all already, as after a kill before they were removed, that is all.

    Args:
        folder: The results folder.
        results: Files and folders to copy, where they are there, and what their copies are called.

    Returns:
        The folder with the copies.

    Raises:
        OSError: They cannot be copied; the results are as they were.
    """
    there = {path: name for path, name in results.items() if path.exists()}
    numbers = [one.name.removeprefix(ASIDE) for one in folder.glob(f"{ASIDE}*")]
    newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    aside = folder / f"{ASIDE}{newest}"
    if newest and all(_is_copied(path, aside / name) for path, name in there.items()):
        return aside
    unfinished = folder / UNFINISHED
    try:
        discard(unfinished)
        unfinished.mkdir()
        for path, name in there.items():
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, unfinished / name)
        for file in unfinished.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
    except OSError as error:
        discard(unfinished)
        raise OSError(
            f"the results of an earlier run in {folder} cannot be set aside ({error.strerror or error}): make room, or "
            "pass another dirpath or name"
        ) from error
    return unfinished.rename(folder / f"{ASIDE}{newest + 1}")


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_copied(original: Path, copy: Path) -> bool:
    if not original.is_dir():
        return copy.is_file() and filecmp.cmp(original, copy, shallow=False)
    return all(_is_copied(file, copy / file.relative_to(original)) for file in original.rglob("*") if file.is_file())

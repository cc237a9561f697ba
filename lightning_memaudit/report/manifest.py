"""``report.sha256``: hashes of the page and the figures, written after them. ``sha256sum -c report.sha256`` reads it.

They are not in ``report.json``, whose own hash is on the page.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_memaudit.results.files import is_own, write_text
from lightning_memaudit.results.hashes import file_sha256
from lightning_memaudit.results.run_folder import MANIFEST, RunFolder

PAGES = tuple(f"report{kind}.{ending}" for ending in ("html", "pdf") for kind in ("", "-without-pictures"))
"""The pages and what is printed of them, relative to the folder."""

_LINE = re.compile(rf"([0-9a-f]{{64}})  ({'|'.join(map(re.escape, PAGES))}|figures/[A-Za-z0-9_.+-]*[A-Za-z0-9_+-])")


def write_manifest(folder: RunFolder, files: Sequence[Path]) -> Path:
    """Write the hashes of files that are in the folder, in one step."""
    lines = [f"{file_sha256(file)}  {file.relative_to(folder.path).as_posix()}\n" for file in files]
    return write_text(folder.path / MANIFEST, "".join(lines))


def add_to_manifest(folder: RunFolder, file: Path) -> None:
    """Write down the hash of one more file that is in the folder."""
    others = [folder.path / name for name in read_manifest(folder)]
    write_manifest(folder, [*(other for other in others if other != file), file])


def read_manifest(folder: RunFolder) -> dict[str, str]:
    """Hashes by the names of the files, relative to the folder; none where no manifest is there.

    Raises:
        ValueError: A line is not one that :func:`write_manifest` writes.
    """
    path = folder.path / MANIFEST
    if not is_own(path):
        return {}
    hashes = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{path} holds {line[:100]!r}, which is no hash and name: make it again with `report`")
        hashes[found[2]] = found[1]
    return hashes

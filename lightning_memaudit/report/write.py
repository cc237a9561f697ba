"""Write everything that a run's results allow: figures, ``report.json``, the page, and their hashes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_memaudit.report.document import (
    REPORT,
    Document,
    build_document,
    check_schema,
    read_document,
    write_document,
)
from lightning_memaudit.report.html import render
from lightning_memaudit.report.manifest import PAGES, read_manifest, write_manifest
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.results.files import is_own, write_text
from lightning_memaudit.results.hashes import file_sha256
from lightning_memaudit.results.run_folder import MANIFEST, RunFolder
from lightning_memaudit.results.superseded import discard

HTML, BARE_HTML, FIGURES = "report.html", "report-without-pictures.html", "figures"
ALWAYS_DRAWN = "recovery-against-loss"
"""The figure that every run has."""


class WrittenReport(NamedTuple):
    """What was written.

    Attributes:
        document: The content of ``report.json``.
        json: Its path.
        html: Path of ``report.html``, or of ``report-without-pictures.html`` where that was asked for.
        figures: Paths of the figures that were drawn.
        view: What was read and drawn for them.

    >>> import torch
    >>> from lightning_memaudit.measurement.engine import audit
    >>> folder = RunFolder("memaudit")
    >>> folder.write_run({"model": {"class": "identity", "num_parameters": 0}})
    >>> audit(lambda x: x, torch.rand(4, 1, 8, 8), patterns=["half"], methods=["biharmonic"]).append_to(folder)
    >>> report = write_report(folder, figures=False)
    >>> report.document["verdict"]["outcome"], report.json.name, report.html.name
    ('inconclusive', 'report.json', 'report.html')
    """

    document: Document
    json: Path
    html: Path
    figures: list[Path]
    view: RunView


def write_report(
    folder: RunFolder,
    figures: bool = True,
    pictures: bool = True,
    formats: Sequence[str] = ("png",),
    anew: bool = True,
) -> WrittenReport:
    """Write the report of one run into its results folder; needs no torch.

    Args:
        folder: The results.
        figures: Also draw the figures.
        pictures: Show images, which are training data. Without them ``report-without-pictures.html`` is written, and
            only figures that show none; the run's own page keeps its pictures, where it is there.
        formats: Of the figures: ``png``, ``pdf``, ``svg``.
        anew: Draw page and figures also where they are those that were written with this very report.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: They cannot be read, or a file of the report is a link.
    """
    document = build_document(folder)
    check_schema(document)
    _refuse_links(folder)
    before = _written_before(folder)
    is_same = bool(before) and _is_written(folder, document)
    view = RunView(folder, document)
    html = folder.path / (HTML if pictures else BARE_HTML)
    asked = {html, *(folder.path / FIGURES / f"{ALWAYS_DRAWN}.{ending}" for ending in formats if figures)}
    if not anew and is_same and asked <= before:
        return WrittenReport(document, folder.path / REPORT, html, [], view)
    # The hashes of page and figures come last: what a kill leaves has none, and is not taken for a whole report.
    discard(folder.path / MANIFEST)
    path = write_document(folder, document)
    pages = []
    for name, shown in ((HTML, True), (BARE_HTML, False)):
        page = folder.path / name
        if shown == pictures or is_own(page):  # a page that is there is made again, too
            shown = shown and (pictures or _shows_pictures(page))
            pages.append(write_html([folder], [document], page, shown, [view]))
    drawn: list[Path] = []
    if figures:
        from lightning_memaudit.report.figures import write_figures

        drawn = write_figures(view, formats, pictures)
    others = before - {*pages, *drawn}
    if figures and not is_same:
        for file in [file for file in others if file.parent.name == FIGURES]:
            file.unlink()  # of an earlier report, and written by us
    write_manifest(folder, [*pages, *drawn, *(sorted(others) if is_same else [])])
    return WrittenReport(document, path, html, drawn, view)


def _written_before(folder: RunFolder) -> set[Path]:
    """The page and figures of the last report that are there, as they were written."""
    try:
        hashes = read_manifest(folder)
    except ValueError:
        return set()
    files = {folder.path / name: digest for name, digest in hashes.items()}
    return {file for file, digest in files.items() if is_own(file) and file_sha256(file) == digest}


def _is_written(folder: RunFolder, document: Document) -> bool:
    """Whether ``report.json`` says this already."""
    try:
        return read_document(folder) == document
    except (FileNotFoundError, ValueError):
        return False


def _shows_pictures(page: Path) -> bool:
    return '<img src="data:' in page.read_text(encoding="utf-8", errors="replace")


def _refuse_links(folder: RunFolder) -> None:
    """Raise ValueError where a file that is about to be written would be another one, elsewhere."""
    figures = folder.path / FIGURES
    if figures.is_symlink():
        raise ValueError(f"{figures} is a symbolic link: put a folder there, or remove it")
    ours = [folder.path / name for name in (REPORT, MANIFEST, *PAGES)]
    for path in (*ours, *(path for path in figures.glob("*") if path.suffix in (".png", ".pdf", ".svg"))):
        is_own(path)


def write_html(
    folders: Sequence[RunFolder],
    documents: Sequence[Document],
    path: Path,
    pictures: bool = True,
    views: Sequence[RunView] = (),
) -> Path:
    """Write one HTML report on one run or several.

    Args:
        folders: The results of each run.
        documents: Their ``report.json``, in the same order.
        path: The file; its folder is made where it is missing.
        pictures: Show images; they are training data.
        views: Of the same runs, where there are any already.

    Raises:
        ValueError: There is no run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, render(folders, documents, pictures, (), views))

"""Write everything that a run's results allow: figures, ``report.json``, ``report.html``, and their hashes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_memaudit.report.document import REPORT, Document, build_document, check_schema, write_document
from lightning_memaudit.report.html import render
from lightning_memaudit.report.manifest import write_manifest
from lightning_memaudit.results.files import is_own, write_text
from lightning_memaudit.results.run_folder import MANIFEST, RunFolder
from lightning_memaudit.results.superseded import discard

HTML, FIGURES = "report.html", "figures"


class WrittenReport(NamedTuple):
    """What was written.

    Attributes:
        document: The content of ``report.json``.
        json: Its path.
        html: Path of ``report.html``.
        figures: Paths of the PNG figures.

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


def write_report(folder: RunFolder, figures: bool = True, pictures: bool = True) -> WrittenReport:
    """Write the report of one run into its results folder; needs no torch.

    Args:
        folder: The results.
        figures: Also draw the PNG figures.
        pictures: Show images in the HTML; they are training data.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: They cannot be read, or a file of the report is a link.
    """
    document = build_document(folder)
    check_schema(document)
    _refuse_links(folder)
    # The hashes of page and figures come last: what a kill leaves has none, and is not taken for a whole report.
    discard(folder.path / MANIFEST)
    path = write_document(folder, document)
    html = write_html([folder], [document], folder.path / HTML, pictures)
    drawn: list[Path] = []
    if figures:
        from lightning_memaudit.report.figures import write_figures

        drawn = write_figures(folder)
    write_manifest(folder, [html, *drawn])
    return WrittenReport(document, path, html, drawn)


def _refuse_links(folder: RunFolder) -> None:
    """Raise ValueError where a file that is about to be written would be another one, elsewhere."""
    figures = folder.path / FIGURES
    if figures.is_symlink():
        raise ValueError(f"{figures} is a symbolic link: put a folder there, or remove it")
    for path in (folder.path / REPORT, folder.path / HTML, folder.path / MANIFEST, *figures.glob("*.png")):
        is_own(path)


def write_html(folders: Sequence[RunFolder], documents: Sequence[Document], path: Path, pictures: bool = True) -> Path:
    """Write one HTML report on one run or several.

    Args:
        folders: The results of each run.
        documents: Their ``report.json``, in the same order.
        path: The file; its folder is made where it is missing.
        pictures: Show images; they are training data.

    Raises:
        ValueError: There is no run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, render(folders, documents, pictures))

"""Write everything that a run's results allow: figures, ``report.json``, ``report.html``."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_memaudit.report.document import Document, build_document, check_schema, write_document
from lightning_memaudit.report.html import render
from lightning_memaudit.results.files import write_text
from lightning_memaudit.results.run_folder import RunFolder

HTML = "report.html"


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
    >>> audit(lambda images: images, torch.rand(4, 1, 8, 8), None, ["half"], ["biharmonic"]).append_to(folder)
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
        ValueError: They cannot be read.
    """
    document = build_document(folder)
    check_schema(document)
    path = write_document(folder, document)
    html = write_html([folder], [document], folder.path / HTML, pictures)
    drawn: list[Path] = []
    if figures:
        from lightning_memaudit.report.figures import write_figures

        drawn = write_figures(folder)
    return WrittenReport(document, path, html, drawn)


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

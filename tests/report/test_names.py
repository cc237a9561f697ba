"""Images are called by their names everywhere; whatever a name holds, it is shown and does nothing."""

import io
import json
import re
import unicodedata
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from forgery import resign
from named_images import ODD_NAMES, name_images
from rich.console import Console
from run_folder_fixture import make_run_folder

from lightning_memaudit.report.document import build_document, check_schema, read_document
from lightning_memaudit.report.figures import strips
from lightning_memaudit.report.labels import MAX_LENGTH, image_name, printable, saved_names, shortened
from lightning_memaudit.report.paper_figures import fraction_figure
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.terminal import print_verdict
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_html, write_report

LONG = next(name for name in ODD_NAMES if len(name) > 200)
COUNT = len(ODD_NAMES) + 2


def run_folder(path, **options):
    return make_run_folder(path, num_images=COUNT, num_controls=COUNT, train_losses=(1e-5,), **options)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = name_images(run_folder(tmp_path_factory.mktemp("named")))
    run = folder.run()
    run["near_duplicates"] |= {"members": [0, 3], "psnr_db": 5.0}  # by another measure than today's
    folder.write_run(run)
    for file in ("largest_missing.json", "proximal.json"):
        rows = [{"group": "members", "image": i, "position": i, "largest_missing": 0.5} for i in range(3)]
        (folder.path / file).write_text(json.dumps({"images": rows}))
    return folder, write_report(folder, figures=False)


class Cells(HTMLParser):
    """The heads of the rows of the table of images, as a browser shows them, with the titles in them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside, self.titles = [], False, []
        self.feed(text[text.index('<table class="sortable names">') :])

    def handle_starttag(self, tag, attributes):
        if tag == "th" and ("scope", "row") in attributes:
            self.inside = True
            self.rows.append("")
        if self.inside:
            self.titles += [value for name, value in attributes if name == "title"]
            assert tag in ("th", "bdi"), "a name became markup"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "th"
        if tag == "table":
            self.handle_data = lambda data: None
            self.handle_starttag = lambda tag, attributes: None

    def handle_data(self, data):
        if self.inside:
            self.rows[-1] += data


def expected(position):
    name = ODD_NAMES[position].strip() if position < len(ODD_NAMES) else ""
    return name or str(position)


def test_the_document_names_every_image(named):
    document = read_document(named[0])
    check_schema(document)
    members = [image for image in document["images"] if image["group"] == "members"]
    plain = [name for name in ODD_NAMES if "\udcff" not in name and name.strip()]
    assert {image["name"] for image in members} > set(plain)
    assert members[0] | {"image": 0, "name": "cats/0017.jpg"} == members[0]
    assert document["near_duplicates"]["names"]["members"] == ["cats/0017.jpg", ODD_NAMES[3]]
    for extra in ("largest_missing", "proximal"):
        assert [row["name"] for row in document[extra]["images"]] == list(ODD_NAMES[:3])
    assert is_true(verify(named[0]))


def test_a_run_without_names_is_reported_as_it_always_was(tmp_path):
    folder = run_folder(tmp_path)
    document = write_report(folder, figures=False).document
    assert not any("name" in image for image in document["images"])
    assert "names" not in document["near_duplicates"]
    assert is_true(verify(folder))
    heads = Cells((folder.path / "report.html").read_text()).rows
    assert heads == [f"{group} {i}" for group in ("member", "control") for i in range(COUNT)]


def test_the_page_shows_names_as_text(named):
    text = named[1].html.read_text()
    page = Cells(text)
    assert page.rows[:COUNT] == [f"member {shortened(expected(i))}" for i in range(COUNT)]
    assert LONG in page.titles
    assert max(map(len, page.rows)) <= len("control ") + MAX_LENGTH
    assert "<script>alert" not in text
    assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert f"member {ODD_NAMES[0]}, the truth" in text or f"member <bdi>{ODD_NAMES[0]}</bdi>" in text


def test_figures_draw_names_as_they_are(named, tmp_path):
    """No mathematics, no error, no warning of signs that the font lacks."""
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An older matplotlib calls what pyparsing gives up.
        warnings.filterwarnings("default", category=DeprecationWarning, module="matplotlib")
        for names in (("$a_{$ and $\\frac$", "猫.jpg"), ("_%_#", "x" * 300)):
            folder = make_run_folder(tmp_path / names[0][:2], num_images=2, num_controls=0, train_losses=(1e-5,))
            name_images(folder, names)
            drawn += strips(RunView(folder, build_document(folder))).values()
        for figure in drawn:
            figure.savefig(io.BytesIO())
    texts = [text for figure in drawn for text in figure.axes[0].texts]
    assert not any(text.get_parse_math() for text in texts)
    labels = [text.get_text() for text in texts if "\nmember" in text.get_text()]
    shown = {label.split("\n", 1)[1].removeprefix("member")[1:] for label in labels}
    assert shown == {"$a_{$ and $\\frac$", "\N{REPLACEMENT CHARACTER}.jpg (1)", "_%_#", shortened("x" * 300, 22)}


@pytest.mark.usefixtures("drawn")
def test_runs_of_any_name_are_compared(tmp_path):
    options = {"num_images": 2, "num_controls": 0, "methods": ("blind",), "train_losses": (1e-5,)}
    names = ("$a_{$", "_hidden", "猫\x1b[31m")
    folders = [make_run_folder(tmp_path / name, patterns=("random-0.5", "random-0.9"), **options) for name in names]
    for folder, name in zip(folders, names, strict=True):
        run = folder.run()
        run["model"]["hyperparameters"]["root"] = f"{name}\udcff"
        folder.write_run(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An older matplotlib calls what pyparsing gives up.
        warnings.filterwarnings("default", category=DeprecationWarning, module="matplotlib")
        documents = [build_document(folder) for folder in folders]
        text = write_html(folders, documents, tmp_path / "all.html").read_text()
        figure = fraction_figure(folders)
        figure.savefig(io.BytesIO())
    chart = text[text.index("Share of members found memorized against") :]
    legend = re.findall(r"<text[^>]*>(.*?)</text>", chart[: chart.index("</svg>")])
    shown = ["$a_{$", "_hidden", "\N{REPLACEMENT CHARACTER}\\x1b[31m"]
    assert [words for words in legend if words in shown] == shown
    assert [panel.get_title(loc="left").split("\n")[0] for panel in figure.axes] == shown


def verdict_lines(document, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_verdict(document, Console(file=file, width=500, force_terminal=False))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def test_the_terminal_names_what_came_back_and_obeys_no_name(named):
    document = named[1].document
    text = verdict_lines(document)
    assert "Training images that came back: cats/0017.jpg" in text
    assert "[red]markup[/red] [/] {{ 7 * 7 }}.png" in text
    assert "\\x1b[31mred" in text
    assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert "all in the report" in text
    images = [image | {"name": "猫"} for image in document["images"]]
    assert "\\u732b" in verdict_lines({**document, "images": images}, "ascii"), "a terminal that has no such sign"
    untouched = [image | {"memorized": False} for image in document["images"]]
    assert "Came back" not in verdict_lines({**document, "images": untouched})


def test_verify_finds_an_exchanged_name(named, tmp_path):
    folder = name_images(run_folder(tmp_path))
    write_report(folder, figures=False)
    assert is_true(verify(folder))
    saved = folder.newest_recoveries()
    saved.arrays["members/names"][[0, 1]] = saved.arrays["members/names"][[1, 0]]
    np.savez(saved.path, **saved.arrays)
    resign(folder)
    write_report(folder, figures=False)
    (wrong,) = [check for check in verify(folder) if check.passed is False]
    assert "image 0 is cats/0017.jpg, in the arrays <b>bold</b>" in wrong.detail


def test_what_has_no_name_that_one_can_see_goes_by_its_index():
    arrays = {"members/indices": np.array([7, 9]), "members/names": np.array(["a", "\t"])}
    assert saved_names(arrays, "members") == ["a", "9"]
    assert saved_names({}, "controls") == []
    assert [image_name({"image": 3, "name": name}) for name in (None, "", " ", "b")] == ["3", "3", "3", "b"]


@pytest.mark.parametrize("length", [5, 6, 40])
def test_shortened_keeps_both_ends(length):
    name = "".join(chr(ord("a") + i % 26) for i in range(100))
    text = shortened(name, length)
    head, tail = text.split("…")
    assert len(text) == length
    assert name.startswith(head)
    assert name.endswith(tail)
    assert shortened(name[:length], length) == name[:length]
    assert printable("family \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}") == "family \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"

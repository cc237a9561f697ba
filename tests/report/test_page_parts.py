"""What the page says beside the numbers, how its charts are drawn, and which images its strips call what."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from run_folder_fixture import make_run_folder

from lightning_memaudit.cli.main import main
from lightning_memaudit.report import pdf
from lightning_memaudit.report.annex import annex
from lightning_memaudit.report.charts import image_chart
from lightning_memaudit.report.comparison import comparison_chart
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.selection import choose_examples
from lightning_memaudit.report.style import METHOD_STYLES, NOT_RECOVERED, RECOVERED
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_html, write_report


def rows_of(rates):
    """Rows of three audits in which methods have the rates given, with controls at zero."""
    for method, group, values in rates:
        for audit, rate in enumerate(values):
            yield {"audit": audit, "pattern": "random-0.5", "method": method, "group": group, "threshold_db": 30.0} | {
                "recovery_rate": rate,
                "ci_low": max(0, rate - 0.1),
                "ci_high": min(1, rate + 0.1),
                "train_loss": 10.0 ** -(audit + 1),
            }


def test_the_audited_method_is_on_top_where_methods_tie():
    same = (0.0, 0.5, 1.0)
    rates = [(method, "members", same) for method in ("known_mask", "paper_blind", "blind")]
    rates += [(method, "controls", (0.0, 0.0, 0.0)) for method in ("known_mask", "paper_blind", "blind")]
    (panel,) = rate_figure(list(rows_of(rates)), primary="blind").axes
    widest, top = {}, {}
    for line in panel.lines:
        assert set(line.get_ydata()) <= set(same), "no value is moved"
        if line.get_linestyle() == "-" and len(line.get_xdata()) > 1:
            color = line.get_color()
            widest[color] = max(widest.get(color, 0), line.get_linewidth())
            top[color] = max(top.get(color, 0), line.get_zorder())
    blind, paper, known = (METHOD_STYLES[name][0] for name in ("blind", "paper_blind", "known_mask"))
    assert top[blind] > max(top[paper], top[known])
    assert widest[blind] < min(widest[paper], widest[known])
    assert widest[paper] != widest[known], "each of those that tie is seen"
    dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1, "the same controls of all methods are one line"
    assert dashed[0].get_zorder() > top[blind]
    assert dashed[0].get_color() not in {color for color, _ in METHOD_STYLES.values()}


def test_lines_are_wider_only_where_they_tie():
    rates = [("blind", "members", (0.0, 0.5, 1.0)), ("known_mask", "members", (0.0, 0.5, 0.6))]
    (panel,) = rate_figure(list(rows_of(rates)), primary="blind").axes
    known = [line for line in panel.lines if line.get_color() == METHOD_STYLES["known_mask"][0]]
    wide = [sorted(line.get_ydata()) for line in known if line.get_linestyle() == "-" and line.get_linewidth() > 2]
    assert wide == [[0.0, 0.5]]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, ["the only one"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (4, ["best", "median", "worst"]),
        (5, ["best", "upper quarter", "median", "lower quarter", "worst"]),
        (8, ["best", "upper quarter", "median", "lower quarter", "2nd worst", "worst"]),
    ],
)
def test_images_of_a_strip_are_called_what_they_are(count, words):
    pictures = np.zeros((count, 1, 4, 4))
    arrays = {f"{group}/indices": np.arange(count) for group in ("members", "controls")}
    parts = ("truth", "half/observed", "half/blind/image")
    arrays |= {f"{group}/{name}": pictures for group in ("members", "controls") for name in parts}
    row = {"pattern": "half", "method": "blind", "diverged": False, "mask_accuracy": None, "recovered": False}
    rows = [
        row | {"group": group, "image": image, "psnr": 50.0 - image}
        for group in ("members", "controls")
        for image in range(count)
    ]
    examples = choose_examples(arrays, rows, "half", ["blind"])
    assert [one.why for one in examples if one.group == "members"] == words
    places = {one.why: one.image for one in examples if one.group == "members"}
    assert places.get("best", 0) == 0
    assert places.get("worst", count - 1) == count - 1
    controls = [one.why for one in examples if one.group == "controls"]
    assert controls == (["the only one"] if count == 1 else ["best", "worst"] if count == 2 else ["best", "median"])


@pytest.mark.usefixtures("drawn")
def test_what_is_beyond_a_chart_is_counted_in_it(finished):
    document = json.loads(json.dumps(finished[1].document))
    for image in document["images"]:
        image["psnr"] = dict.fromkeys(image["psnr"], 25.0)
    first, second, *_ = [image for image in document["images"] if image["group"] == "members"]
    pattern = next(iter(first["psnr"]))
    first["psnr"][pattern], second["psnr"][pattern] = 61.0, 99.0
    chart = image_chart(document, "x")
    assert f"{pattern}: 2 of 24 members are above 60 dB" in chart
    assert ">2 above</text>" in chart
    first["psnr"][pattern] = second["psnr"][pattern] = 59.0
    assert "above 60 dB" not in image_chart(document, "x")


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("number", [2, 12])
def test_every_run_compared_has_a_panel_of_its_own(finished, number):
    names = [f"run $_{index}" for index in range(number)]
    chart = comparison_chart([finished[1].document] * number, names, "x")
    assert all(f">{name}</text>" in chart for name in names)
    ElementTree.fromstring(chart)


def test_one_meaning_of_colours_on_page_and_figures(finished):
    text = finished[1].html.read_text()
    light = re.search(r"--bad: (#\w+)", text)[1], re.search(r"--soft: (#\w+)", text)[1]
    assert tuple(color.upper() for color in light) == (RECOVERED, NOT_RECOVERED)
    assert re.search(r"\.got img \{[^}]*solid var\(--bad\)", text)
    assert re.search(r"\.not img \{[^}]*dashed var\(--soft\)", text), "told without colour, too"


def test_observed_recovered_and_truth_come_first(finished):
    text = finished[1].html.read_text()
    assert text.index("<h2>At a glance</h2>") < text.index("<svg")
    heads = re.findall(r'<table class="strip[^"]*">\s*<thead>(.*?)</thead>', text, re.DOTALL)
    assert len(heads) > 1
    for head in heads:
        assert re.findall(r"<th[^>]*>(.*?)</th>", head)[:3] == ["observed", "blind", "truth"]
    for row in re.findall(r'<tr><th scope="row">(?:best|worst), member.*?</tr>', text):
        alts = re.findall(r'alt="([^"]*)"', row)
        assert "degraded by" in alts[0]
        assert ", by blind" in alts[1]
        assert "the truth" in alts[2]


def test_the_annex_is_of_the_report(finished, tmp_path):
    document = finished[1].document
    text = finished[1].html.read_text()
    parts = {part.question: " ".join(part.sentences) for part in annex(document)}
    assert all(question in text for question in parts)
    assert "24 training images were tried" in parts["With which power?"]
    # The rule of three, nearly: none of 24 leaves up to 1 - 0.025^(1/24).
    assert f"{1 - 0.025 ** (1 / 24):.1%}" in parts["With which power?"]
    assert "1 in 25 cannot" in parts["With which power?"]
    assert document["verdict"]["headline"] in parts["What was found?"]
    assert all(sentence in parts["What does it not show?"] for sentence in document["limits"])
    assert "no SHA-256 of its weights was recorded" in parts["What was tested?"]
    audited = {**document, "judgement": {**document["judgement"], "weights_sha256": "af" * 32}}
    assert f"its weights have the SHA-256 {'af' * 32}" in annex(audited)[0].sentences[0]
    alone = write_report(make_run_folder(tmp_path, num_controls=0, train_losses=(1e-4,)), figures=False).document
    assert "No images that were not trained on" in " ".join(annex(alone)[3].sentences)


@pytest.mark.slow
def test_figures_in_every_format_are_the_same_when_drawn_again(run):
    assert main(["report", str(run.path), "--figures", "png,pdf,svg"]) == 0
    figures = {path.name: path.read_bytes() for path in (run.path / "figures").iterdir()}
    assert {name.rpartition(".")[2] for name in figures} == {"png", "pdf", "svg"}
    assert len(figures) % 3 == 0
    assert main(["report", str(run.path), "--figures", "[svg, png, pdf]"]) == 0
    assert figures == {path.name: path.read_bytes() for path in (run.path / "figures").iterdir()}
    assert {check.name: check.passed for check in verify(run)}["page and figures are as they were written"] is True
    assert main(["report", str(run.path), "--figures", "gif"]) == 2


def test_without_a_browser_one_line_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", lambda _: None)
    monkeypatch.setattr(pdf, "_PLACES", ())
    before = (run.path / "report.html").stat().st_mtime_ns
    assert main(["report", str(run.path), "--pdf"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "--pdf: no browser" in error
    assert (run.path / "report.html").stat().st_mtime_ns == before


def test_what_only_a_screen_can_do_is_not_on_paper(finished):
    """Chromium repeats the head of a table on each page only if nothing in it is a box, as a button is."""
    rules = finished[1].html.read_text().partition("@media print {")[2].partition("</style>")[0]
    assert "th button { display: contents; }" in rules
    assert re.search(r"\.click, details:not\(\.all, \[open\]\) { display: none; }", rules)
    assert re.search(r"h1, h2, h3, [^{]+{ break-after: avoid; }", rules)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(pdf.shutil.which, pdf._COMMANDS)), reason="no browser on this machine")
def test_the_page_is_printed(run, capsys):
    assert main(["report", str(run.path), "--pdf", "--no_figures"]) == 0
    printed = run.path / "report.pdf"
    assert capsys.readouterr().out.splitlines()[-1] == str(printed)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") > 5
    assert is_true(verify(run))
    assert pdf.write_pdf(run.path / "report.html").read_bytes() == content


@pytest.mark.slow
def test_comparing_runs_draws_only_what_is_not_there_yet(run, tmp_path):
    other = make_run_folder(tmp_path / "other", train_losses=(1e-4,), num_images=4, num_controls=4)
    write_report(run)
    page = run.path / "report.html"
    before = page.stat().st_mtime_ns
    first = write_report(run, anew=False)
    second = write_report(other, anew=False)
    assert page.stat().st_mtime_ns == before
    assert (other.path / "report.html").is_file()
    page.write_text(page.read_text() + " ")
    write_report(run, anew=False)
    assert page.stat().st_mtime_ns > before, "what is not as it was written is drawn again"
    written = [first, second]
    both = write_html([run, other], [one.document for one in written], tmp_path / "both.html", True)
    assert both.stat().st_size < (page.stat().st_size + (other.path / "report.html").stat().st_size) / 2
    assert is_true(verify(run))


def test_what_the_verdict_counts_has_one_name(tmp_path):
    """Beyond inpainting is another number than memorized: a table by pattern names the one that it shows."""
    written = write_report(make_run_folder(tmp_path), figures=False)
    page = written.html.read_text()
    table = page[page.index('aria-label="Recovery by pattern"') :].partition("</table>")[0]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    rows = [re.findall(r"<td>(\d+) of", row) for row in re.findall(r"<tr><th scope=.row.*?</tr>", table)]
    for cells, pattern in zip(rows, written.document["judgement"]["patterns"], strict=True):
        members = pattern["members"]
        numbers = dict(zip(heads[1:], map(int, cells), strict=False))
        assert numbers["members recovered"] == members["recovered"]["count"]
        assert numbers["of these memorized"] == members["memorized"]["count"]
    assert page.count('<th scope="col">beyond inpainting</th>') == 1, "of the table that counts it"


def test_a_comparison_names_the_model_once_where_it_is_the_same(tmp_path):
    folders = [make_run_folder(tmp_path / name, train_losses=(1e-4,)) for name in ("a", "b")]
    folders.append(make_run_folder(tmp_path / "c", train_losses=(1e-4,), network="TiedAutoencoder"))
    documents = [write_report(folder, figures=False).document for folder in folders]
    name = documents[0]["setup"]["model"]["class"]
    same, other = (
        write_html(folders[:number], documents[:number], tmp_path / f"{number}.html").read_text() for number in (2, 3)
    )
    assert f"Model of all: {name}, " in same
    assert "<button>model, parameters</button>" not in same
    assert "Model of all" not in other
    assert "<button>model, parameters</button>" in other

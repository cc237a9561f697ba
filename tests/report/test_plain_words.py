"""What a reader is told can be understood: which average a number is, what a pattern hides, no unit of nothing."""

import io
import re

import pytest
import torch
from autoencoders import memory
from forgery import change_rows, recount
from rich.console import Console
from run_folder_fixture import make_run_folder
from test_reading import Words

from lightning_memaudit import audit
from lightning_memaudit.measurement.degradations import WITH_FRACTION, WITHOUT_FRACTION
from lightning_memaudit.report import charts
from lightning_memaudit.report.certificates import certificate_sentence
from lightning_memaudit.report.document import build_document
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.glossary import glossary
from lightning_memaudit.report.paper_figures import fraction_figure
from lightning_memaudit.report.svg import to_svg
from lightning_memaudit.report.terminal import print_audit


def said(report, path):
    report.to_html(path)
    return " ".join(" ".join(Words(path.read_text()).said).split())


@pytest.fixture(scope="module")
def images():
    return torch.rand(52, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def test_page_and_terminal_say_which_average_a_number_is(images, tmp_path):
    report = audit(memory(images[:4]), images[:4], images[4:28], patterns=["half"], methods=["blind", "biharmonic"])
    page = said(report, tmp_path / "page.html")
    assert "mean PSNR, members" in page
    assert "median PSNR of its own output" in page
    assert "takes the threshold, which the controls set, as given" in page
    console = Console(width=80, record=True, file=io.StringIO())
    print_audit(report.rows, console)
    text = " ".join(console.export_text().split())
    assert "autoencoder's own output: mean PSNR " in text
    assert "PSNR, hidden: the members' mean in dB, of whole images and of the missing pixels alone" in text


def test_a_method_that_is_told_the_mask_is_not_said_to_be_blind(images, tmp_path):
    sees = "which sees neither the mask nor the image"
    for method in ("known_mask", "paper_blind"):
        report = audit(lambda x: x, images[:3], images[3:6], patterns=["half"], methods=[method])
        assert (sees in said(report, tmp_path / "page.html")) == (method == "paper_blind")


def test_no_unit_stands_where_there_is_no_number(images, tmp_path):
    report = audit(memory(images[:4]), images[:4], patterns=["half"], methods=["blind", "biharmonic"])
    page = said(report, tmp_path / "page.html")
    assert "\N{EN DASH} dB" not in page
    assert "Intervals hold for all rows at once" not in page
    assert "A reference is" not in page, "none was given"
    assert "takes the threshold" not in page, "there is no rate"


@pytest.mark.parametrize("kind", [*WITH_FRACTION, *WITHOUT_FRACTION])
def test_every_pattern_is_explained(kind):
    pattern = kind if kind in WITHOUT_FRACTION else f"{kind}-0.3+fill-0.5+noise-0.1"
    document = {"judgement": {"threshold_db": 30.0, "gain": None, "inpainter": None}}
    words = dict(glossary(document | {"rates": [{"pattern": pattern, "method": "blind"}]}))["Pattern"]
    assert f" {kind}" in words
    assert "number is the missing part" not in words, "of noise and fill it is not"
    assert ("+noise-0.05: " in words) == ("+noise" in pattern)


def test_what_certificates_claim_is_a_clause_with_a_verb():
    copies = {"source": "turned copies", "threshold": None, "false_rate": 0.01, "num_control_scores": 50}
    words = certificate_sentence(copies | {"reason": "50 controls cannot show it: it takes 99, so copies help"})
    assert words.startswith("judged by the controls and turned copies of the degraded images, about 1.0% of images ")
    assert "are certified falsely" in words


@pytest.mark.parametrize(("source", "is_named"), [("train dataset", False), ("TensorDataset", True), (None, True)])
def test_who_chose_the_members_is_a_limit_where_it_was_not_the_run(source, is_named, tmp_path):
    folder = make_run_folder(tmp_path, methods=("known_mask", "biharmonic"))
    run = folder.run()
    run["members"]["source"], run["settings"]["primary_method"] = source, "known_mask"
    folder.write_run(run)
    limits = build_document(folder)["limits"]
    assert any(one.startswith("The members were named by whoever ran the audit") for one in limits) == is_named
    assert limits[0].startswith("One attack was run: known mask recovery of degraded training images, told the mask, ")


def test_audits_that_counted_otherwise_are_named(tmp_path):
    folder = make_run_folder(tmp_path, train_losses=(1e-2, 1e-3, 1e-4, 1e-5))
    told = "Earlier audits of this run counted otherwise"
    assert not any(one.startswith(told) for one in build_document(folder)["limits"])
    for lowered, which in (((1,), "audit 1 at 20 dB."), ((0, 1, 2), "audits 0 to 2 at 20 dB.")):

        def lower(row, lowered=lowered):
            if row["audit"] in lowered:
                row.update(threshold_db=20.0)

        change_rows(folder.path / "audits.jsonl", lower)
        recount(folder)
        [sentence] = [one for one in build_document(folder)["limits"] if one.startswith(told)]
        assert sentence.endswith(f"do not compare with the newest: {which}")


def test_the_label_of_the_threshold_lies_on_no_dot(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "to_svg", lambda figure, *_: drawn.append(figure))
    charts.image_chart(build_document(make_run_folder(tmp_path, patterns=("half", "text", "rows-0.5"))), "a")
    figure = drawn[0]
    figure.draw_without_rendering()
    [label] = [text for axes in figure.axes for text in axes.texts if "recovered" in text.get_text()]
    assert label.get_window_extent().x0 > max(axes.get_window_extent().x1 for axes in figure.axes)
    assert label.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize(("number", "lines"), [(1, 1), (5, 1), (6, 2), (8, 2)])
def test_letters_of_a_chart_are_as_large_whatever_the_number_of_patterns(tmp_path, number, lines):
    patterns = tuple(f"random-0.{one}" for one in range(1, number + 1))
    run = make_run_folder(tmp_path, patterns=patterns, methods=("blind", "biharmonic"), train_losses=(1e-5,))
    figure, _ = charts.dots(build_document(run), "psnr", (0.0, 60.0), 30.0, "dB")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert tuple(axes.get_title(loc="left") for axes in shown) == patterns
    assert (shown[0].get_gridspec().nrows, figure.get_figheight()) == (lines, pytest.approx(2.9 * lines))
    width = figure.get_figwidth()
    assert width <= 10, "more than a page of 60 rem holds at the size of its letters"
    svg = to_svg(figure, "a", "Dots.")
    [inches] = re.findall(r'^<svg [^>]*style="--inches: ([0-9.]+)"', svg)
    [box] = re.findall(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    assert float(inches) == pytest.approx(width, abs=0.01) == pytest.approx(float(box[0]) / 72, abs=0.01)


def test_no_title_makes_panels_narrow(tmp_path):
    patterns = [f"random-0.{missing}+noise-0.05+fill-noise+channels" for missing in (5, 9)]
    name = "a-rather-long-name-of-a-run-with-learning-rate-0.001-and-batch-size-128"
    run = make_run_folder(
        tmp_path / name, patterns=patterns, methods=("blind", "biharmonic"), train_losses=(1e-2, 1e-5)
    )
    figures = [rate_figure(run.audits()), rate_figure(run.audits(), width=3.0), fraction_figure([run, run])]
    for figure in [*figures, charts.dots(build_document(run), "psnr", (0.0, 60.0), 30.0, "dB")[0]]:
        figure.draw_without_rendering()
        panels = [axes.get_window_extent().width for axes in figure.axes]
        assert min(panels) * len({axes.get_position().x0 for axes in figure.axes}) > 0.6 * figure.bbox.width
        assert figure.get_tightbbox().x1 * figure.dpi <= figure.bbox.x1 + 1, "nothing reaches beyond the border"

"""An audit's report where it was made: printed, in a notebook, as a page, a figure and a table."""

import re

import numpy as np
import pytest
import torch

import lightning_memaudit
from lightning_memaudit import AuditReport, audit


@pytest.fixture(scope="module")
def report():
    members, controls = torch.rand(2, 24, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def memory(x):
        return members[torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)]

    return audit(memory, members, controls, patterns=["random-0.5", "half"], methods=["paper_blind", "biharmonic"])


def recovered(report, pattern, method, group):
    return sum(
        row["recovered"]
        for row in report.images
        if (row["pattern"], row["method"], row["group"]) == (pattern, method, group)
    )


def test_it_is_exported():
    assert isinstance(AuditReport, type)
    assert set(lightning_memaudit.__all__) <= set(dir(lightning_memaudit))


def test_printed_it_is_a_few_lines(report):
    text = repr(report)
    assert len(text) < 1000
    assert len(text.splitlines()) == 3
    assert report.verdict.headline in text
    counts = [recovered(report, "half", "paper_blind", group) for group in ("members", "controls")]
    assert f"half: {counts[0]} of 24 members, {counts[1]} of 24 controls recovered by paper_blind" in text


def test_of_rows_that_no_audit_made_too(report):
    empty = AuditReport([], [], {}, {}, report.occasion, 30.0, "blind")
    assert "no verdict" in repr(empty)
    assert "no verdict" in empty._repr_html_()
    many = [row | {"pattern": f"random-0.{i}"} for i in range(50) for row in report.rows[:1]]
    assert len(repr(AuditReport(many, [], {}, {}, report.occasion, 30.0, "paper_blind")).splitlines()) < 10


def test_a_notebook_shows_verdict_table_and_pictures(report):
    text = report._repr_html_()
    assert report.verdict.headline in text
    for row in report.rows:
        assert f"{row['num_recovered']} of {row['num_images']} (" in text
    kinds = re.findall(r'title="(observed|recovered|truth)"', text)
    assert kinds[:3] == ["observed", "recovered", "truth"]
    assert len(kinds) == text.count("data:image/png;base64,") >= 3 * 8 * 2
    assert "<script" not in text


def test_names_from_other_peoples_files_are_text(report):
    recoveries = report.recoveries | {"members/names": np.array(["<script>alert(1)</script>"] * 24)}
    cells = list(report.cells)
    shown = AuditReport(report.rows, cells, {}, recoveries, report.occasion, 30.0, "paper_blind")._repr_html_()
    assert "<script" not in shown


def test_the_page_is_that_of_a_run(report, tmp_path):
    path = report.to_html(tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    assert report.verdict.headline in text
    assert report.verdict.found.split(".")[0] in text
    assert "data:image/png" in text
    without = report.to_html(tmp_path / "without.html", pictures=False).read_text(encoding="utf-8")
    assert "data:image/png" not in without
    assert {one.name for one in tmp_path.iterdir()} == {"new", "without.html"}, "nothing else is left"


def test_the_figure_shows_every_rate(report):
    figure, ax = report.plot()
    drawn = sorted(round(float(line.get_ydata()[0]), 6) for one in ax.containers for line in one.lines[:1])
    assert drawn == sorted(round(row["recovery_rate"], 6) for row in report.rows)
    places = {float(line.get_xdata()[0]) for one in ax.containers for line in one.lines[:1]}
    assert len(places) == len(report.rows), "none hides another"
    assert report.plot(ax) == (figure, ax)
    import matplotlib.pyplot as plt

    plt.close(figure)


def test_tables_for_pandas(report, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["recovery_rate"]) == [row["recovery_rate"] for row in report.rows]
    assert len(report.to_pandas(images=True)) == len(report.images)


def test_without_pandas_it_says_what_to_install(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"lightning-memaudit\[pandas\]"):
        report.to_pandas()


def test_a_cell_that_is_not_there_is_answered_by_those_that_are(report):
    with pytest.raises(
        KeyError, match=r"patterns: random-0.5, half; methods: paper_blind, biharmonic; groups: members"
    ):
        report.rate("blind", "half")


def test_what_came_out_by_itself_is_told_where_it_was_looked_for(report):
    members, controls = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    known = members[:2]

    def memory(x):
        return known[torch.cdist(x.flatten(1), known.flatten(1)).argmin(1)]

    found = audit(memory, members, controls, patterns=["half"], methods=["biharmonic"], extraction=40)
    words = f"{found.extraction.num_extracted} of 6 training images come"
    assert found.extraction.num_extracted
    assert words in repr(found).splitlines()[-1]
    assert words in found._repr_html_()
    assert "come out" not in repr(report)

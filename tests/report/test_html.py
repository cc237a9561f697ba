"""report.html: self-contained, accessible and escaped; it says the verdict and shows what was measured."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from autoencoders import memory
from observations import uniform

from lightning_memaudit import audit
from lightning_memaudit.cli.main import main
from lightning_memaudit.report.html import differing_settings
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder


class Page(HTMLParser):
    """What a page is made of, and whether its tags are closed in order."""

    VOID = ("meta", "link", "wbr", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.ids = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_is_self_contained_and_accessible(drawn_page, comparison):
    for path in (drawn_page, comparison):
        text = path.read_text()
        page = Page(text)
        assert len(page.ids) == len(set(page.ids))
        sources = [attributes["src"] for attributes in page.all("img")]
        assert sources
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        assert all(attributes["alt"] for attributes in page.all("img"))
        assert all(attributes.get("aria-label") for attributes in page.all("svg"))
        assert [attributes["href"] for attributes in page.all("link")] == ["data:,"]
        assert not re.search(r"url\((?!#)|@import|<iframe|<object", text)
        assert all("src" not in attributes for attributes in page.all("script"))
        assert page.all("html")[0]["lang"] == "en"
        references = [attributes["href"] for attributes in page.all("a")]
        assert {reference[1:] for reference in references} <= set(page.ids)


def test_page_escapes_what_comes_from_outside(drawn_page):
    text = drawn_page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text


def test_page_says_the_verdict(finished, comparison):
    document = finished[1].document
    text = finished[1].html.read_text()
    assert document["verdict"]["headline"] in text
    assert document["report_sha256"] in text
    assert "Before the first training step the same audit finds none of 24" in text
    compared = comparison.read_text()
    assert compared.count('<article class="run"') == 3
    assert "3 runs compared" in compared


def test_extra_measurements_are_shown(run, capsys):
    rows = [
        {"group": g, "image": i, "position": i, "largest_missing": i / 24, "inpainted_missing": 0.25}
        | {"beyond_inpainting": i / 24 - 0.25}
        for g in ("members", "controls")
        for i in range(24)
    ]
    (run.path / "largest_missing.json").write_text(json.dumps({"method": "blind", "images": rows}))
    jacobian = {"asymmetry": 0.25, "spectral_norm": 1.5, "proximal": False}
    rows = [{"group": "members", "image": 0, "position": 0, **jacobian}]
    (run.path / "proximal.json").write_text(json.dumps({"num_steps": 4, "images": rows}))
    assert main(["report", str(run.path), "--no_figures"]) == 0
    text = (run.path / "report.html").read_text()
    assert "half of the members still come back with 50% missing" in text
    assert "half of the members still come back with 25% missing by inpainting" in text
    cells = {"by blind": (0, 48, 96), "by inpainting alone": (25, 25, 25), "difference, image by image": (-25, 23, 71)}
    for what, numbers in cells.items():
        values = "".join(f"<td>{number}%</td>" for number in numbers)
        assert f'<th scope="row">members: {what}</th>{values}' in text
    assert "<button>largest missing</button>" in text
    three = (
        r'<td data-value="([0-9.]+)">\d+%</td><td data-value="0.25">25%</td><td data-value="(-?[0-9.]+)">-?\d+%</td>'
    )
    found = [(float(own), float(beyond)) for own, beyond in re.findall(three, text)]
    assert {own for own, _ in found} == {i / 24 for i in range(24)}, "each image's own in the table of images"
    assert all(beyond == pytest.approx(own - 0.25) for own, beyond in found)
    assert "members: asymmetry</th><td>0.25</td>" in text
    assert "So it is at 0 of 1 images." in text
    assert is_true(verify(run))
    (run.path / "proximal.json").write_text("[]")
    assert main(["report", str(run.path), "--no_figures"]) == 2
    assert "proximal.json cannot be read" in capsys.readouterr().err


def test_what_runs_differ_in(tmp_path):
    folders = []
    for name, activation in (("one", "ReLU"), ("two", "ELU")):
        (tmp_path / name / "memaudit").mkdir(parents=True)
        text = f"model: {{init_args: {{activation: {activation}, width: 8}}}}\ntrainer: {{default_root_dir: {name}}}\n"
        (tmp_path / name / "config.yaml").write_text(text)
        folders.append(RunFolder(tmp_path / name / "memaudit"))
    assert differing_settings(folders) == [{"model.activation": "ReLU"}, {"model.activation": "ELU"}]
    assert differing_settings(folders[:1]) == [{}]


def test_page_without_pictures_is_another_one(run):
    """It may go further; the run's own page keeps its pictures, and both are checked."""
    own = (run.path / "report.html").read_text()
    assert main(["report", str(run.path), "--no_figures", "--no_pictures"]) == 0
    bare = run.path / "report-without-pictures.html"
    assert "<img" not in bare.read_text()
    assert "made without pictures" in bare.read_text()
    assert "<img" in own
    assert (run.path / "report.html").read_text().replace("copy", "") == own.replace("finished0", "")
    assert "<img" in (run.path / "report.html").read_text()
    checks = {check.name: check.passed for check in verify(run)}
    assert checks["the page says what the report says"] is True
    assert checks["page and figures are as they were written"] is True
    bare.write_text(bare.read_text().replace("24 of 24", "1 of 24"))
    (run.path / "report.sha256").unlink()
    assert not is_true(verify(run))


def test_without_pictures_no_page_with_some_is_made(run):
    (run.path / "report.html").unlink()
    assert main(["report", str(run.path), "--no_pictures"]) == 0
    assert not (run.path / "report.html").exists()
    assert [path.name for path in (run.path / "figures").iterdir()] == ["recovery-against-loss.png"]


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_page_in_a_browser(drawn_page, comparison, tmp_path):
    """No error on the console, no request beyond the file itself, and the sort buttons sort."""
    for number, path in enumerate((drawn_page, comparison)):
        # What the page does when used, appended to a copy of it: click on a heading, tell the order.
        probe = tmp_path / f"probe-{number}.html"
        script = (
            "<script>for (const details of document.querySelectorAll('details')) details.open = true;"
            "const table = document.querySelector('table.sortable');"
            "const button = table.querySelectorAll('th button')[2]; button.click(); button.click();"
            "document.title = [...table.tBodies[0].rows].map(row => row.cells[2].textContent.trim()).join('|')"
            " + '#' + performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
            " + '#' + (document.documentElement.scrollWidth <= innerWidth"
            " && [...document.querySelectorAll('.runs')].every(one => one.offsetWidth <= one.parentNode.clientWidth));"
            "</script>"
        )
        probe.write_text(path.read_text().replace("</body>", script + "</body>"))
        log = tmp_path / f"net-{number}.json"
        done = subprocess.run(
            [
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={tmp_path / f'profile-{number}'}",
                f"--log-net-log={log}",
                "--enable-logging=stderr",
                "--window-size=1000,1200",
                "--virtual-time-budget=3000",
                "--dump-dom",
                probe.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "/dev/null"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        order, requests, fits = re.search(r"<title>(.*?)</title>", done.stdout)[1].split("#")
        assert requests == "0"
        assert fits == "true"
        if path is drawn_page:
            values = [float(value.split()[0]) for value in order.split("|")]
            assert values == sorted(values, reverse=True)
            assert len(values) == 48
        # The browser asks for things of its own (the time, say); what the page asks for has an initiator.
        events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
        assert not {url for url in asked if not url.startswith(("file:", "data:", "chrome"))}


def test_strips_of_a_blur_go_from_best_to_worst(tmp_path):
    """The audited method does not run on it; another one ranks the images."""
    members, controls = uniform((8, 1, 12, 12)), uniform((8, 1, 12, 12), seed=10)
    methods = ["blind", "blind_deblurring", "biharmonic"]
    inexact_memory = memory(members + torch.linspace(0.1, 0.01, 8).view(-1, 1, 1, 1) * uniform((8, 1, 12, 12), seed=11))
    report = audit(inexact_memory, members, controls, patterns=["random-0.5", "blur-1"], methods=methods)
    folder = RunFolder(tmp_path / "memaudit")
    folder.write_run({"settings": {"patterns": ["random-0.5", "blur-1"], "primary_method": "blind"}})
    report.append_to(folder)
    document = write_report(folder, figures=False).document
    assert "blur-1: shown, not counted" in document["limits"][1]
    text = (folder.path / "report.html").read_text()
    strip = text[text.rindex("blur-1</h") :]
    quality = [float(value) for value in re.findall(r"([0-9.]+) dB [✓✗]", strip)][:6]
    assert len(set(quality)) > 2
    assert quality == sorted(quality, reverse=True)

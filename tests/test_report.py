"""Reports: rebuilt they are the same, they follow their schema, verify finds every lie, the page is self-contained."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest
import torch
from run_folder_fixture import make_run_folder

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.document import build_document, check_schema, read_document, schema, seal
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.html import differing_settings
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.hashes import image_sha256, json_sha256, tensors_sha256
from lightning_memaudit.results.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that memorized, with the report written."""
    folder = make_run_folder(
        tmp_path_factory.mktemp("finished"), untrained=True, train_losses=(1e-2, 1e-5), num_images=24, num_controls=24
    )
    (folder.path.parent / "config.yaml").write_text("model: {lr: 0.001} # <script>alert(1)</script>\n")
    return folder, write_report(folder, figures=False)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil."""
    shutil.copytree(finished[0].path.parent, tmp_path / "copy")
    return RunFolder(tmp_path / "copy" / "memaudit")


# report.json


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"untrained": True, "train_losses": (1e-2, 1e-4)},
        {"num_controls": 0},
        {"memorizes": False, "identity": True, "train_losses": (1e-4,)},
        {"methods": ("blind", "known_mask")},
        {"color": True, "num_images": 4, "num_controls": 3, "patterns": ("text",)},
    ],
)
def test_report_follows_its_schema(tmp_path, options):
    document = build_document(make_run_folder(tmp_path, **options))
    check_schema(document)
    json.dumps(document, allow_nan=False)


def test_schema_refuses_what_is_not_described(finished):
    document = dict(finished[1].document)
    check_schema(document)
    with pytest.raises(ValueError, match="at verdict/outcome"):
        check_schema({**document, "verdict": {**document["verdict"], "outcome": "guilty"}})
    with pytest.raises(ValueError, match="the top level"):
        check_schema({**document, "extra": 1})


def test_report_is_the_same_when_built_again(finished):
    folder, written = finished
    assert build_document(folder) == written.document == read_document(folder)


def test_verdict_of_a_run_that_memorized(finished):
    document = finished[1].document
    assert document["verdict"]["outcome"] == "memorized"
    assert document["negative_control"]["passed"] is True
    assert document["history"][0]["outcome"] == "inconclusive"
    assert document["judgement"]["overall"]["controls"]["memorized"]["count"] == 0
    assert document["hashes"]["config"] is not None
    assert any("24 of 48 training images were audited" in sentence for sentence in document["limits"])


def test_top_of_the_report_for_an_untrained_autoencoder(tmp_path):
    document = build_document(make_run_folder(tmp_path, memorizes=False, train_losses=(0.25,)))
    assert document["verdict"]["outcome"] == "inconclusive"
    assert document["verdict"]["reasons"] == ["train_loss_too_high"]


def test_top_of_the_report_for_an_identity(tmp_path):
    document = build_document(make_run_folder(tmp_path, memorizes=False, identity=True, train_losses=(1e-4,)))
    assert document["verdict"]["reasons"] == ["identity_like"]
    assert "skip connections" in document["verdict"]["why"][0]


def test_hashes_are_of_the_content(finished):
    folder, written = finished
    hashes = written.document["hashes"]
    truth = folder.newest_recoveries().arrays["members/truth"]
    assert len(hashes["masks"]) == 4
    assert hashes["settings"] == json_sha256(folder.run()["settings"])
    assert image_sha256(truth[0]) != image_sha256(truth[1])
    state = {"b": torch.arange(3.0), "a": torch.tensor(1)}
    assert tensors_sha256(state) == tensors_sha256(dict(reversed(state.items())))
    assert tensors_sha256(state) != tensors_sha256({**state, "b": torch.arange(3.0) + 1e-6})
    assert tensors_sha256(state) != tensors_sha256({"b": torch.arange(3.0).reshape(3, 1), "a": torch.tensor(1)})
    assert tensors_sha256({"w": torch.ones(2, dtype=torch.bfloat16)})


# verify


def failed(folder):
    return {check.name for check in verify(folder) if check.passed is False}


def rewrite_lines(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_true_report_is_true(run, capsys):
    checks = verify(run)
    assert is_true(checks)
    assert all(check.passed for check in checks)
    assert main(["verify", str(run.path.parent)]) == 0
    assert "The report is true." in capsys.readouterr().out


def test_verify_finds_a_changed_report(run, capsys):
    document = read_document(run)
    document["verdict"]["headline"] = "Not memorized."
    (run.path / "report.json").write_text(json.dumps(document))
    assert failed(run) == {"report.json is as it was written", "the report follows from the results files"}
    # Sealed again it still does not follow from the results.
    (run.path / "report.json").write_text(json.dumps(seal(document)))
    assert failed(run) == {"the report follows from the results files"}
    assert main(["verify", str(run.path)]) == 1
    assert "NOT true" in capsys.readouterr().out


def test_verify_finds_changed_rates(run):
    def change(row):
        if row["group"] == "members" and row["method"] == "blind":
            row["num_recovered"] = 1

    rewrite_lines(run.path / "audits.jsonl", change)
    write_report(run, figures=False)
    assert failed(run) == {"rates and intervals follow from the images"}


def test_verify_finds_changed_images(run):
    """One who rewrites images, rates and report consistently is found out by the arrays."""

    def change(row):
        if row["group"] == "controls" and row["image"] == 3 and row["method"] == "known_mask" and row["psnr"] < 30:
            row["psnr"] += 0.1

    rewrite_lines(run.path / "images.jsonl", change)
    write_report(run, figures=False)
    assert failed(run) == {"recoveries score as the results say"}


def test_verify_finds_easier_masks(run):
    path = run.newest_recoveries().path
    arrays = run.newest_recoveries().arrays
    arrays["members/random-0.5/mask"][:] = 1
    arrays["members/random-0.5/observed"] = arrays["members/truth"]
    np.savez(path, **arrays)
    write_report(run, figures=False)
    assert "patterns and seed make these masks and observations" in failed(run)


def test_verify_finds_exchanged_images(run):
    path = run.newest_recoveries().path
    arrays = run.newest_recoveries().arrays
    arrays["controls/truth"] = arrays["controls/truth"][::-1].copy()
    np.savez(path, **arrays)
    assert "the saved images are those that were audited" in failed(run)


def test_verify_without_what_it_needs(run, tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    (run.path / "report.json").unlink()
    assert main(["verify", str(run.path)]) == 2
    (run.path / "report.json").write_text("{")
    assert main(["verify", str(run.path)]) == 2
    (run.path / "report.json").write_text("{}")
    assert main(["verify", str(run.path)]) == 2
    errors = capsys.readouterr().err
    assert "make it with `python -m lightning_memaudit report RUN`" in errors
    assert "does not follow its schema" in errors


def test_verify_compares_the_weights_of_a_checkpoint(run, tmp_path):
    weights = {"state_dict": {"weight": torch.arange(4.0)}}
    torch.save(weights, tmp_path / "right.ckpt")
    torch.save({"state_dict": {"weight": torch.zeros(4)}}, tmp_path / "wrong.ckpt")
    digest = tensors_sha256(weights["state_dict"])
    rewrite_lines(run.path / "audits.jsonl", lambda row: row.update(weights_sha256=digest))
    write_report(run, figures=False)
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "right.ckpt")]) == 0
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "wrong.ckpt")]) == 1
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "none.ckpt")]) == 2


# report


def test_report_command_rebuilds_what_was_lost(run, capsys):
    for name in ("report.json", "report.html"):
        (run.path / name).unlink()
    assert main(["report", str(run.path.parent)]) == 0
    assert (run.path / "report.json").is_file()
    assert (run.path / "report.html").is_file()
    assert (run.path / "figures" / "recovery-against-loss.png").is_file()
    out = capsys.readouterr().out
    assert "Memorized:" in out
    assert "random-0.5" in out


def test_report_needs_no_torch(run):
    code = (
        "import sys\nfrom lightning_memaudit.cli.main import main\n"
        f"assert main(['report', {str(run.path)!r}]) == 0\n"
        "assert not {'torch', 'lightning', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_report_refuses_a_run_twice_and_typos(run, capsys):
    assert main(["report", str(run.path), str(run.path.parent)]) == 2
    assert main(["report", str(run.path), "--no_picture"]) == 2
    assert main(["report"]) == 2
    errors = capsys.readouterr().err
    assert "a run is named twice" in errors
    assert "did you mean '--no_pictures'?" in errors
    assert len(errors.strip().splitlines()) == 3


# report.html


class Page(HTMLParser):
    """What a page is made of, and whether its tags are closed in order."""

    VOID = ("meta", "link", "img", "br")

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


@pytest.fixture(scope="module")
def comparison(finished, tmp_path_factory):
    """One page on three runs."""
    other = make_run_folder(
        tmp_path_factory.mktemp("identity"), memorizes=False, identity=True, color=True, train_losses=(1e-4,)
    )
    third = make_run_folder(tmp_path_factory.mktemp("few"), num_controls=0, train_losses=(1e-4,))
    path = tmp_path_factory.mktemp("page") / "all.html"
    runs = [str(folder.path) for folder in (finished[0], other, third)]
    assert main(["report", *runs, "--no_figures", "--output", str(path)]) == 0
    return path


def test_page_is_self_contained_and_accessible(finished, comparison):
    for path in (finished[1].html, comparison):
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


def test_page_escapes_what_comes_from_outside(finished):
    text = finished[1].html.read_text()
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
        {"group": g, "image": i, "position": i, "largest_missing": i / 24}
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
    assert "Members: median 48% missing, from 0% to 96%." in text
    assert "<button>largest missing</button>" in text
    shares = {float(value) for value in re.findall(r'<td data-value="([0-9.]+)">\d+%</td>', text)}
    assert shares == {i / 24 for i in range(24)}, "each image's own in the table of images"
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


def test_page_without_pictures_holds_none(run):
    assert main(["report", str(run.path), "--no_figures", "--no_pictures"]) == 0
    text = (run.path / "report.html").read_text()
    assert "<img" not in text
    assert "made without pictures" in text


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
def test_page_in_a_browser(finished, comparison, tmp_path):
    """No error on the console, no request beyond the file itself, and the sort buttons sort."""
    for number, path in enumerate((finished[1].html, comparison)):
        # What the page does when used, appended to a copy of it: click on a heading, tell the order.
        probe = tmp_path / f"probe-{number}.html"
        script = (
            "<script>for (const details of document.querySelectorAll('details')) details.open = true;"
            "const table = document.querySelector('table.sortable');"
            "const button = table.querySelectorAll('th button')[2]; button.click(); button.click();"
            "document.title = [...table.tBodies[0].rows].map(row => row.cells[2].textContent.trim()).join('|')"
            " + '#' + performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
            " + '#' + (document.documentElement.scrollWidth <= innerWidth);</script>"
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
        if path is finished[1].html:
            values = [float(value.split()[0]) for value in order.split("|")]
            assert values == sorted(values, reverse=True)
            assert len(values) == 48
        # The browser asks for things of its own (the time, say); what the page asks for has an initiator.
        events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
        assert not {url for url in asked if not url.startswith(("file:", "data:", "chrome"))}


def test_a_single_audit_is_drawn_where_its_loss_is(run):
    rows = [row for row in run.audits() if row["audit"] == 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = rate_figure(rows)
        figure.canvas.draw()
    for panel in figure.axes:
        right, left = sorted(panel.get_xlim())
        assert right < rows[0]["train_loss"] < left
        box = panel.get_window_extent()
        assert box.width > 50
        assert box.height > 50

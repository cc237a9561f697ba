"""How a run was read, whatever a verdict's reasons are, and which loss is which: said in page and terminal."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console
from run_folder_fixture import make_run_folder

from lightning_memaudit.report.document import build_document, check_schema
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.html import render
from lightning_memaudit.report.labels import MEMBERS_MSE, TRAIN_LOSS, TRAIN_LOSS_EXPLAINED
from lightning_memaudit.report.reading import identity_gap, reading_sentences
from lightning_memaudit.report.terminal import print_audit, print_verdict
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report


class Words(HTMLParser):
    """What a page says to people."""

    def __init__(self, text):
        super().__init__()
        self.said, self.skip = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.skip = tag in ("style", "script", "pre")
        self.said += [value for name, value in attributes if name in ("aria-label", "alt", "title")]

    def handle_data(self, data):
        if not self.skip:
            self.said.append(data)


def test_page_and_document_say_how_the_run_was_read(run):
    content = run.run()
    content["members"] |= {"source": "train dataloader", "reading": "the first 24 of a fresh iteration"}
    check = {"checked": 5000, "of": 60000}
    content["controls"] |= {"reading": "in this process: worker failed", "identity_check": check}
    content["notes"] = ["mean 0.5, std 0.25 inferred <b>.", "half a character \udcff"]
    run.write_run(content)
    report = write_report(run, figures=False)
    check_schema(report.document)
    assert is_true(verify(run))
    setup = report.document["setup"]
    assert setup["controls"]["identity_check"] == check
    assert setup["notes"] == ["mean 0.5, std 0.25 inferred <b>.", "half a character \\udcff"]
    text = report.html.read_text()
    section = text[text.index("How this run was read") :]
    section = section[: section.index("</ul>")]
    assert re.findall("<li>(.*?)</li>", section) == [
        "Members: 24 of 48 images. Source: train dataloader. Read: the first 24 of a fresh iteration.",
        "Controls: 24 of 48 images. Source: validation dataset. Read: in this process: worker failed. "
        "Identity check: controls compared with 5,000 of the 60,000 images that training can reach.",
        "mean 0.5, std 0.25 inferred &lt;b&gt;.",
        "half a character \\udcff",
    ]
    assert any("compared with 5,000 of 60,000" in sentence for sentence in report.document["limits"])


def test_what_a_run_did_not_record_is_not_said():
    assert reading_sentences({}) == []
    assert reading_sentences({"members": {"num_images": 1}, "notes": None}) == ["Members: 1 image.", "Controls: none."]
    whole = {"identity_check": {"checked": 300, "of": 300}}
    assert reading_sentences({"members": {"num_images": 2}, "controls": whole})[1] == (
        "Controls: Identity check: controls compared with all 300 images that training can reach."
    )
    assert identity_gap({"controls": whole, "members": None}) is None
    assert "with 300 images" in identity_gap({"controls": {"identity_check": {"checked": 300, "of": None}}})


@pytest.mark.parametrize(
    "code", ["not_deterministic", "depends_on_batch", "output_range", "output_logits", "a_reason_of_tomorrow"]
)
def test_any_reason_is_shown(finished, code, tmp_path):
    folder, written = finished
    document = json.loads(json.dumps(written.document))
    document["verdict"] |= {"outcome": "inconclusive", "reasons": [code], "why": [f"Because of {code}."]}
    document["history"][-1] |= {"outcome": "inconclusive", "reasons": [code]}
    check_schema(document)
    text = render([folder], [document])
    assert f">{code.replace('_', ' ')}</span>" in text
    assert f"Because of {code}." in text
    console = Console(file=io.StringIO(), width=300)
    print_verdict(document, console)
    assert f"Because of {code}." in console.file.getvalue()


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("options", [{"untrained": True}, {"memorizes": False}, {"train_losses": (0.25,)}])
def test_nobody_takes_one_loss_for_the_other(tmp_path, options):
    """The audit's error is nowhere called just a train loss; the trigger's level is said to be training_step's."""
    folder = make_run_folder(tmp_path, memorizes=options.pop("memorizes", True), **options)
    document = build_document(folder)
    pages = render([folder], [document]), render([folder, folder], [document, document])
    words = " ".join(word for page in pages for word in Words(page).said)
    console = Console(file=io.StringIO(), width=300)
    print_audit(folder.audits()[:2], console)
    print_audit(document["rates"], console)
    print_verdict(document, console)
    labels = [panel.get_xlabel() for width in (3.0, 4.4) for panel in rate_figure(folder.audits(), width).axes]
    everywhere = " ".join([words, console.file.getvalue(), *labels])
    assert not re.search(r"train loss(?! \(MSE of the audited members\))", everywhere, re.IGNORECASE)
    assert TRAIN_LOSS in everywhere
    assert MEMBERS_MSE in console.file.getvalue()
    assert TRAIN_LOSS_EXPLAINED in words
    if len(document["history"]) > 1:
        assert "training_step's loss <= 0.01" in words
    assert "not training_step's loss" in console.file.getvalue()

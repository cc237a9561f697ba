"""An easy pattern, from which controls come back too, takes nothing away from what the others show together."""

import json
import shutil

import pytest
import torch

from lightning_memaudit import __version__, audit
from lightning_memaudit.report.document import read_document, seal
from lightning_memaudit.report.verify import conclusion, is_true, verify, written
from lightning_memaudit.report.verify.check import NOT_TRUE, OTHER_RULES
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.evidence import ANY
from lightning_memaudit.results.run_folder import RunFolder

IMAGES = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(3))
MEMBERS, CONTROLS = IMAGES[:30], IMAGES[30:]
HARD = {"block-0.25": 20, "random-0.5": 10}
"""From the first only the first so many members come back, from the second only the last so many."""


def f(images):
    """It remembers members, some behind one pattern and some behind another; what hardly lacks anything it corrects."""
    shown = images.flatten(1)
    distances = torch.cdist(shown, IMAGES.flatten(1)) / shown.shape[1] ** 0.5
    block = (images[:, 0] == 0).float().mean((1, 2)) < 0.4
    first, last = torch.arange(30) < HARD["block-0.25"], torch.arange(30) >= 30 - HARD["random-0.5"]
    nearest = distances[:, :30].argmin(1)
    returned = torch.where(torch.where(block, first[nearest], last[nearest])[:, None, None, None], IMAGES[nearest], 0.5)
    easy = distances.min(1).values < 0.2
    return torch.where(easy[:, None, None, None], IMAGES[distances.argmin(1)], returned)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("together") / "memaudit")
    folder.write_run({})
    methods = ["autoencoder_iterations", "biharmonic"]
    audit(f, MEMBERS, CONTROLS, patterns=["random-0.05", *HARD], methods=methods).append_to(folder)
    write_report(folder, figures=False)
    return folder


def test_the_headline_counts_what_the_hard_patterns_show_together(folder):
    document = read_document(folder)
    overall = document["judgement"]["overall"]
    assert overall["controls"]["memorized"]["count"] > 0.2 * 30  # the easy one hides all, where all are taken together
    assert document["verdict"]["headline"] == (
        "Memorized: 30 of 30 training images came back from block-0.25 or random-0.5 by autoencoder "
        "iterations recovery."
    )
    assert document["judgement"]["counted"]["pattern"] == "block-0.25, random-0.5"
    assert document["judgement"]["evidence"]["at_least"] > HARD["block-0.25"]
    assert "from block-0.25 or random-0.5 alone: from all of" in document["verdict"]["found"]
    assert "block-0.25 or random-0.5" in (folder.path / "report.html").read_text()


def said_of(checks):
    """What is concluded of the check whether the report follows from the results; None where it does."""
    [check] = [one for one in checks if one.name == "the report follows from the results files"]
    return None if check.passed else check.means


@pytest.mark.parametrize(("version", "means"), [("0.3.5", OTHER_RULES), ("0.3.6", OTHER_RULES), (None, NOT_TRUE)])
def test_a_report_by_the_rules_of_before_is_not_called_untrue(folder, version, means):
    document = read_document(folder)
    before = json.loads(json.dumps(document))
    evidence, single = document["judgement"]["evidence"], document["judgement"]["patterns"][1]
    evidence |= {"pattern": single["pattern"], "p_value": evidence["p_value"] / 2}
    document["judgement"]["counted"] = single
    document["tool"]["version"] = version or document["tool"]["version"]
    (folder.path / "report.json").write_text(json.dumps(seal(document)))
    try:
        checks = verify(folder)
    finally:
        (folder.path / "report.json").write_text(json.dumps(before))
    assert said_of(checks) == means
    assert conclusion(checks).startswith(means)
    assert not is_true(checks)  # who trusts the exit code is not told that it is true either


def test_a_report_that_other_rules_do_not_change_is_true(folder):
    kept = (folder.path / "report.json").read_text()
    document = read_document(folder)
    document["tool"]["version"] = "0.3.6"
    (folder.path / "report.json").write_text(json.dumps(seal(document)))
    try:
        assert said_of(verify(folder)) is None
    finally:
        (folder.path / "report.json").write_text(kept)


@pytest.mark.parametrize(("version", "means"), [("0.3.6", OTHER_RULES), (__version__, NOT_TRUE)])
def test_controls_that_do_not_count_by_todays_rules_did_by_those_of_before(folder, monkeypatch, version, means):
    document = read_document(folder)
    document["tool"]["version"] = version
    document["judgement"]["counted"]["pattern"] = ANY
    again = json.loads(json.dumps(document))
    again["judgement"] |= {"failed_controls": 1}
    monkeypatch.setattr(written, "build_document", lambda folder: again)
    check = written.same_document("report", folder, document)
    assert (check.passed, check.means) == (False, means)


@pytest.mark.parametrize("key", ["lost", "failed_controls"])
def test_a_report_does_not_choose_the_rules_that_it_is_compared_by(folder, monkeypatch, key):
    document = read_document(folder)
    document["judgement"]["patterns"] = document["judgement"]["patterns"][:2]
    document["judgement"]["counted"]["pattern"] = ANY
    again = json.loads(json.dumps(document))
    document["tool"]["version"] = "0.3.6"
    document["verdict"]["outcome"] = "not_memorized"
    document["judgement"][key] = {}
    monkeypatch.setattr(written, "build_document", lambda folder: again)
    check = written.same_document("report", folder, document)
    assert (check.passed, check.means) == (False, NOT_TRUE)


FORGED = {
    "a rate": lambda document: document["rates"][0].update(num_recovered=0, recovery_rate=0.0),
    "the images": lambda document: document["images"][0].update(memorized=False),
    "what was audited": lambda document: document["setup"].update(machine={"device": "another"}),
    "a hash": lambda document: document["hashes"].update(weights="0" * 64),
}


@pytest.mark.parametrize("name", [None, *FORGED])
def test_who_names_a_version_of_other_rules_hides_nothing_that_hangs_on_none(folder, name):
    """What the report concludes cannot be compared then: so it is not called true either."""
    kept = (folder.path / "report.json").read_text()
    document = read_document(folder)
    document["tool"]["version"] = "0.3.5"
    document["verdict"] |= {"outcome": "not_memorized", "headline": "No memorization found."}
    if name is not None:
        FORGED[name](document)
    (folder.path / "report.json").write_text(json.dumps(seal(document)))
    try:
        checks = verify(folder)
    finally:
        (folder.path / "report.json").write_text(kept)
    means = OTHER_RULES if name is None else NOT_TRUE
    assert said_of(checks) == means
    assert conclusion(checks).startswith(f"{means} NOT CHECKED: ")
    assert not is_true(checks)


def test_who_names_a_version_before_that_of_the_run_hides_nothing_at_all(folder, tmp_path):
    """No version made a report of what a later one was to write."""
    copied = RunFolder(shutil.copytree(folder.path, tmp_path / "memaudit"))
    for version, means in (("0.3.6", OTHER_RULES), (__version__, NOT_TRUE)):
        copied.write_run({"versions": {"lightning_memaudit": version}})
        write_report(copied, figures=False)
        document = read_document(copied)
        document["tool"]["version"] = "0.3.6"
        document["verdict"] |= {"outcome": "not_memorized", "headline": "No memorization found."}
        document["judgement"]["lost"] = {}
        (copied.path / "report.json").write_text(json.dumps(seal(document)))
        assert said_of(verify(copied)) == means

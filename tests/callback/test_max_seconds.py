"""A bound on an audit holds for all of a run: fewer images, the same in every audit, in every part, and said."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images

from lightning_memaudit.callback import session
from lightning_memaudit.measurement.pace import Line, Pace
from lightning_memaudit.report.verify import verify
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here")

LOADERS = {"train": Items(images(40)), "controls": Items(images(30, seed=1))}
SETTINGS = {"methods": ["known_mask", "biharmonic"], "every_n_epochs": 1, "at_fit_end": False}


def pace_of(seconds):
    """A model that takes so long for every image."""
    own = {"members": 20.0, "controls": 20.0}
    return lambda *_: Pace(Line(0.0, seconds), None, Line(0.0, 0.0), {("half", "biharmonic"): 0.0}, own, 256)


def run(folder, monkeypatch, seconds, epochs=2, callbacks=(), ckpt_path=None, **arguments):
    monkeypatch.setattr(session, "measure_pace", pace_of(seconds))
    audit = audit_callback(dirpath=folder, **(SETTINGS | arguments))
    loaders = (DataLoader(LOADERS[name], 10) for name in ("train", "controls"))
    fit([audit, *callbacks], Module(), *loaders, max_epochs=epochs, ckpt_path=ckpt_path)
    return audit


def chosen(folder, group="members"):
    """The images of each audit, by index."""
    found = {}
    for row in RunFolder(folder).iterate_images():
        if (row["group"], row["method"]) == (group, "known_mask"):
            found.setdefault(row["audit"], []).append(row["image"])
    return found


@pytest.mark.slow
def test_all_audits_of_a_run_have_the_same_few_images_as_if_so_few_were_asked_for(monkeypatch):
    with pytest.warns(UserWarning, match=r"max_seconds=10\): num_members is 2\d instead of 40"):
        run("bounded", monkeypatch, seconds=1e-3, max_seconds=10)
    used = {cut["argument"]: cut["used"] for cut in RunFolder("bounded").audits()[0]["cost"]["cuts"]}
    assert used.keys() == {"num_members", "num_controls"}
    assert used["num_members"] == used["num_controls"]
    run("asked", monkeypatch, seconds=1e-3, **used)
    for group in ("members", "controls"):
        assert chosen("bounded", group) == chosen("asked", group)
        described = [RunFolder(folder).run()[group] for folder in ("bounded", "asked")]
        assert described[0] == described[1]
        assert described[0]["num_images"] == used[f"num_{group}"]
    assert len(chosen("bounded")) == 2
    rates = [[row["psnr_mean"] for row in RunFolder(folder).audits()] for folder in ("bounded", "asked")]
    assert rates[0] == rates[1]


def test_the_report_says_what_was_cut_and_verify_agrees(monkeypatch):
    audit = run("bounded", monkeypatch, seconds=1.0, max_seconds=5, epochs=1)
    session_report = audit.last_report
    document = json.loads((RunFolder("bounded").path / "report.json").read_text())
    sentence = document["cost"]["sentence"]
    assert [cut["argument"] for cut in document["cost"]["cuts"]] == ["num_members", "num_controls", "max_evaluations"]
    assert sentence == session_report.cost["sentence"]
    assert "above max_seconds=5" in sentence
    assert sentence in document["limits"]
    assert sentence in document["verdict"]["cautions"]
    assert "num_members is 20 instead of 40" in (RunFolder("bounded").path / "report.html").read_text()
    assert document["cost"]["max_seconds"] == document["setup"]["settings"]["max_seconds"] == 5
    assert "max_evaluations=60" in document["setup"]["settings"]["method_settings"]["known_mask"]
    failed = [check for check in verify(RunFolder("bounded")) if check.passed is False]
    assert not failed


@pytest.mark.slow
def test_a_resumed_run_keeps_its_images_though_the_machine_is_another(monkeypatch):
    saver = [ModelCheckpoint("saved", save_last=True)]
    run("one", monkeypatch, 1e-3, epochs=1, callbacks=saver, max_seconds=10)
    run("one", monkeypatch, 5e-4, epochs=2, max_seconds=10, ckpt_path="saved/last.ckpt")
    first, second = chosen("one").values()
    assert first == second
    assert len(first) < 40
    # With another bound it is decided anew.
    run("one", monkeypatch, 1e-9, epochs=3, max_seconds=20, ckpt_path="saved/last.ckpt")
    assert len(chosen("one")[1]) == 40


def test_without_a_bound_nothing_changes_and_the_cost_is_kept(monkeypatch):
    run("free", monkeypatch, seconds=1.0, epochs=1)
    cost = RunFolder("free").audits()[0]["cost"]
    assert cost["cuts"] == []
    assert cost["max_seconds"] is None
    assert cost["estimated_seconds"] > cost["seconds"] > 0
    assert RunFolder("free").run()["members"]["num_images"] == 40
    assert "max_seconds" not in RunFolder("free").run()["settings"]


def test_more_images_than_asked_for_are_never_audited(monkeypatch):
    run("few", monkeypatch, seconds=1e-3, epochs=1, max_seconds=1000, num_members=7, num_controls=5)
    assert [len(one) for one in (*chosen("few").values(), *chosen("few", "controls").values())] == [7, 5]


def test_a_bound_that_cannot_be_kept_is_said_where_the_model_cannot_be_timed(monkeypatch):
    monkeypatch.setattr(session, "measure_pace", lambda *_: None)
    loaders = (DataLoader(LOADERS[name], 10) for name in ("train", "controls"))
    with pytest.warns(UserWarning, match="max_seconds=5: how long an audit takes cannot be known"):
        fit([audit_callback(max_seconds=5)], Module(), *loaders, max_epochs=1)
    assert RunFolder("memaudit").audits()[0]["cost"]["estimated_seconds"] is None


def test_a_number_that_is_no_bound_is_refused():
    with pytest.raises(ValueError, match="max_seconds=0: must be at least 1"):
        audit_callback(max_seconds=0)

"""verify finds every lie, and calls true what is true."""

import hashlib
import json

import numpy as np
import pytest
import torch
from forgery import change_rows, change_run, recount, resign

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.document import read_document, seal
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.hashes import tensors_sha256
from lightning_memaudit.results.run_folder import RunFolder

ALWAYS_UNCHECKED = [
    # The run was written before there were baselines.
    "inpainting fills in what the results say",
    "baselines are what they fill in",
    "what is left out shows what counts",
    "all columns of the results are known",
    "the page calls the run as its folder is called",  # which was copied since
    "that the recoveries came out of the autoencoder",
    "which images were trained on",
    "what takes the autoencoder (score, reconstruction_psnr, certified, num_evaluations, doubts, certification, "
    "gradients_used)",
    "whether version 0.1.0 wrote the run",
    "whether anything was left out (images, patterns, methods, audits, reference models, extraction)",
    "recoveries without saved arrays",
    "weights",
    "what the figures show",
    "threshold, trigger, epoch, step, times and all else in run.json (settings, notes, model, machine, versions)",
    "what an audit was expected to cost, took, and was cut by",
    "whether someone made all hashes anew",
]


def failed(folder):
    return {check.name for check in verify(folder) if check.passed is False}


def rewrite_lines(path, change):
    """Change rows and make all hashes anew: what is found out then is found out by computing."""
    change_rows(path, change)
    resign(RunFolder(path.parent))


def test_true_report_is_true(run, capsys):
    checks = verify(run)
    assert is_true(checks)
    assert [check.name for check in checks if check.passed is None] == ALWAYS_UNCHECKED
    assert main(["verify", str(run.path.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"The report is true. NOT CHECKED: {'; '.join(ALWAYS_UNCHECKED)}."
    assert [line.split(": ")[1] for line in lines if line.startswith("- NOT CHECKED")] == ALWAYS_UNCHECKED


def test_without_saved_recoveries_results_are_not_called_true(run, capsys):
    for path in (run.path / "recoveries").iterdir():
        path.unlink()
    change_run(run, lambda content: content["settings"].update(save_recoveries=0))
    resign(run)
    write_report(run, figures=False)
    assert main(["verify", str(run.path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "The report follows from its results; no recovery was saved that could show these to be true."
    )
    assert "recoveries score as the results say" in last.partition("NOT CHECKED: ")[2].split("; ")


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

    change_rows(run.path / "images.jsonl", change)
    recount(run)
    resign(run)
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


def test_verify_compares_the_weights_of_a_checkpoint(run, tmp_path, capsys):
    weights = {"state_dict": {"weight": torch.arange(4.0)}}
    torch.save(weights, tmp_path / "right.ckpt")
    torch.save({"state_dict": {"weight": torch.zeros(4)}}, tmp_path / "wrong.ckpt")
    digest = tensors_sha256(weights["state_dict"])
    rewrite_lines(run.path / "audits.jsonl", lambda row: row.update(weights_sha256=digest))
    write_report(run, figures=False)
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "right.ckpt")]) == 0
    not_checked = capsys.readouterr().out.splitlines()[-1].partition("NOT CHECKED: ")[2].split("; ")
    assert "weights" not in not_checked
    assert "what else makes these weights the audited autoencoder" in not_checked
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "wrong.ckpt")]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("The checkpoint holds other weights than those that the report is about.")
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "none.ckpt")]) == 2
    torch.save({"state_dict": {"weight": torch.arange(4.0, device="meta")}}, tmp_path / "empty.ckpt")
    capsys.readouterr()
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "empty.ckpt")]) == 1
    assert "they cannot be read: Cannot copy out of meta tensor" in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": {"extra": (1, 2)}}, {"epoch": 3}])
def test_a_checkpoint_without_tensors_holds_no_audited_weights(run, tmp_path, capsys, content):
    """Its hash is that of nothing, which is easily written into a report."""
    torch.save(content, tmp_path / "empty.ckpt")
    rewrite_lines(run.path / "audits.jsonl", lambda row: row.update(weights_sha256=tensors_sha256({})))
    write_report(run, figures=False)
    assert main(["verify", str(run.path), "--ckpt_path", str(tmp_path / "empty.ckpt")]) == 1
    assert "it holds no tensors" in capsys.readouterr().out


REMEMBERED = "the members are those that the checkpoint remembers"


@pytest.mark.parametrize(
    ("remembered", "doubts", "passed"),
    [
        (("members",), None, True),
        (("members", "controls"), None, False),
        (("members", "controls"), [{"code": "controls_given", "text": "they were given"}], True),
        (("controls",), [{"code": "controls_given", "text": "they were given"}], None),
        ((), None, None),
    ],
)
def test_controls_that_the_checkpoint_remembers_as_members_are_found(run, tmp_path, remembered, doubts, passed):
    arrays = run.newest_recoveries().arrays
    eight_bits = [
        (image.clip(0, 1) * 255).round().astype("uint8") for one in remembered for image in arrays[f"{one}/truth"]
    ]
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in eight_bits]
    callbacks = {"EarlyStopping": {"wait_count": 1}, "MemorizationAuditCallback": {"trained_on": hashes}}
    torch.save({"state_dict": {"weight": torch.ones(2)}, "callbacks": callbacks}, tmp_path / "a.ckpt")
    rewrite_lines(run.path / "audits.jsonl", lambda row: row.update(doubts=doubts))
    write_report(run, figures=False)
    [check] = [check for check in verify(run, tmp_path / "a.ckpt") if check.name == REMEMBERED]
    assert check.passed is passed, check.detail
    assert passed is not False or "position 0 is one of the" in check.detail

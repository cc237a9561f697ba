"""Ways to make a results folder say something else, each with what finds it out when all hashes are made anew.

``CHANGES`` are made before the report is written again by the tool itself; ``AFTERWARDS`` are made to the report. What
is found out is a check that fails; what cannot be is one that is named as not checked.
"""

import json

import numpy as np
from changes import (
    LOOKS_LOST,
    LOOKS_RECOVERED,
    PATTERN,
    arrays,
    audits,
    both,
    copy_audit,
    described,
    document,
    doubled,
    drop,
    everywhere,
    exact,
    exchange,
    failed,
    file,
    images,
    kept,
    not_recovered,
    odd,
    recoveries,
    rename,
    renumber,
    reorder,
    reversed_array,
    run,
    say,
    set_arrays,
    settings,
    twice_in_audits,
    update,
    without_row,
)

SCORES = "recoveries score as the results say"
ROWS = "every image has one row in each pattern and method"
COUNTS = "rates and intervals follow from the images"
ARRAYS = "every saved recovery has its row and its arrays"
OBSERVED = "patterns and seed make these masks and observations"
IMAGES = "the saved images are those that were audited"
SETTINGS = "run.json says what was audited"
METHOD = "the audited method is the one that must be"
DUPLICATES = "near-duplicates are those that run.json names"
RUN = "run.json is as it was written"
DOCUMENT = "the report follows from the results files"
OWN_HASH = "report.json is as it was written"
FILES = "page and figures are as they were written"
UNREADABLE = "unreadable"
NO_AUTOENCODER = (
    "what takes the autoencoder (score, reconstruction_psnr, certified, num_evaluations, doubts, certification, "
    "gradients_used)"
)
NO_ARRAYS = "recoveries without saved arrays"
WRITTEN = "threshold, trigger, epoch, step, times and all else in run.json (settings, notes, model, machine, versions)"
HASHES = "whether someone made all hashes anew"
COLUMNS = "all columns of the results are known"
GONE = "audits that are not there"
LOSSES = "the train loss follows from the members' own reconstructions"
PLAN = "every pattern and method of run.json was run"
ORDER = "no audit was before the one that it follows"

NUM_MEMBERS = 12
"""Of the run that is changed."""

CHANGES = {
    # Rows of images, newest audit
    "psnr of members null": (images(not_recovered), SCORES),
    "members failed": (images(failed), SCORES),
    "members diverged": (images(update(diverged=True, score=None, certified=False, recovered=False)), SCORES),
    "members' psnr lowered": (images(LOOKS_LOST), SCORES),
    "controls' psnr raised": (images(LOOKS_RECOVERED, "controls"), SCORES),
    "controls failed": (images(failed, "controls"), SCORES),
    "one member just above the threshold": (
        images(lambda row: row.update(psnr=row["psnr"] + 0.01) if row["position"] == 3 else None),
        SCORES,
    ),
    "the diverged control did not": (
        images(lambda row: row.update(diverged=False) if row["diverged"] else None, "controls"),
        ROWS,
    ),
    "the diverged control scores well": (
        images(lambda row: row.update(diverged=False, score=1e-5) if row["diverged"] else None, "controls"),
        NO_AUTOENCODER,
    ),
    "hidden psnr": (images(update(hidden_psnr=12.0)), SCORES),
    "mask accuracy": (images(update(mask_accuracy=0.5)), SCORES),
    "mask accuracy null": (images(update(mask_accuracy=None)), SCORES),
    "ssim": (images(update(ssim=0.1)), SCORES),
    "ssim null": (images(update(ssim=None)), SCORES),
    "inpainter recovers members": (images(LOOKS_RECOVERED, method="biharmonic"), SCORES),
    "inpainter fails on members": (images(failed, method="biharmonic"), SCORES),
    "inpainter loses controls": (images(LOOKS_LOST, "controls", "biharmonic"), SCORES),
    "a number is text": (images(update(psnr="41")), UNREADABLE),
    "a flag is text": (images(update(certified="false")), ROWS),
    "a flag is a number": (images(update(failed=0)), ROWS),
    "an infinite psnr": (images(update(psnr=float("inf"))), UNREADABLE),
    "a psnr that is none": (images(update(psnr=float("nan"))), UNREADABLE),
    "a psnr beyond all": (images(lambda row: row.update(psnr=1e6) if row["position"] else None), ROWS),
    "a column lacks in some rows": (images(lambda row: row.pop("ssim") and None), ROWS),
    "a column more in some rows": (images(update(verified=True)), COLUMNS),
    "members doubled at the same positions": (doubled(0), ROWS),
    "members doubled": (doubled(NUM_MEMBERS), SETTINGS),
    "members doubled, and in run.json": (
        both(doubled(NUM_MEMBERS), described("members", num_images=2 * NUM_MEMBERS)),
        ARRAYS,
    ),
    "half of the members left out": (images(lambda row: odd(row), method=None), ROWS),
    "half of the members left out, gaps closed": (images(kept, method=None), SETTINGS),
    "half left out, gaps closed, and in run.json": (
        both(images(kept, method=None), described("members", num_images=NUM_MEMBERS // 2)),
        ARRAYS,
    ),
    "one image less in one cell": (images(lambda row: row["position"] != NUM_MEMBERS - 1), UNREADABLE),
    "images exchanged": (images(exchange(0, 1, "image"), method=None), ARRAYS),
    "images exchanged in one cell": (images(exchange(0, 1, "image")), ROWS),
    "positions exchanged": (images(exchange(0, 1, "position"), method=None), ARRAYS),
    "members and controls exchanged": (
        both(*(everywhere(exchange("members", "controls", "group"), f"{name}.jsonl") for name in ("images", "audits"))),
        LOSSES,
    ),
    "methods exchanged": (everywhere(exchange("blind", "known_mask", "method")), SCORES),
    "a certificate for a diverged control": (images(update(certified=True), "controls"), ROWS),
    "a gain that is not the difference": (
        images(update(baseline_psnr=10.0, recovery_gain=30.0), "controls"),
        ROWS,
    ),
    "a gain in some methods only": (images(update(baseline_psnr=10.0, recovery_gain=None), "controls"), ROWS),
    "certificates": (images(update(certified=False)), NO_AUTOENCODER),
    "scores": (images(update(score=1e-6)), NO_AUTOENCODER),
    "a score null": (images(lambda row: row.update(score=None) if row["position"] == 4 else None), ROWS),
    "failed, with measurements": (images(update(failed=True)), ROWS),
    "own reconstructions of members": (images(update(reconstruction_psnr=12.0), method=None), LOSSES),
    "own reconstructions of members in one cell": (images(update(reconstruction_psnr=12.0)), ROWS),
    "own reconstructions of controls": (
        images(update(reconstruction_psnr=40.0), "controls", None),
        NO_AUTOENCODER,
    ),
    "a pattern by another name": (
        both(
            everywhere(exchange(PATTERN, "random-0.9", "pattern")),
            everywhere(exchange(PATTERN, "random-0.9", "pattern"), "audits.jsonl"),
            settings(patterns=["random-0.9"]),
        ),
        ARRAYS,
    ),
    "a pattern by another name, in the arrays too": (
        both(
            arrays(rename(**{PATTERN: "random-0.9"})),
            everywhere(exchange(PATTERN, "random-0.9", "pattern")),
            everywhere(exchange(PATTERN, "random-0.9", "pattern"), "audits.jsonl"),
            settings(patterns=["random-0.9"]),
        ),
        OBSERVED,
    ),
    "a pattern that is a path": (everywhere(update(pattern="../../outside")), UNREADABLE),
    # Rows of audits
    "threshold in the rows": (audits(update(threshold_db=10.0), None, None), SETTINGS),
    "threshold in one row": (audits(update(threshold_db=10.0)), ROWS),
    "threshold everywhere": (
        both(audits(update(threshold_db=10.0), None, None), settings(threshold_db=10.0)),
        WRITTEN,
    ),
    "a certification is text": (audits(update(certification="all fine")), UNREADABLE),
    "certificates by controls that there are not": (
        audits(
            update(
                certification={
                    **{"threshold": 1e-3, "reason": "", "false_rate_low": 1e-5, "false_rate_high": 2e-4},
                    **{"source": "controls", "num_control_scores": 24000, "false_rate": 1e-4},
                }
            )
        ),
        ROWS,
    ),
    "a row twice": (twice_in_audits, ROWS),
    "a cell left out": (without_row, ROWS),
    "train loss": (audits(update(train_loss=0.1), None, None), LOSSES),
    "train loss null": (audits(update(train_loss=None), None, None), LOSSES),
    "train loss of one row": (audits(update(train_loss=0.1)), ROWS),
    "doubts invented in one row": (audits(update(doubts=[{"code": "x", "text": "y"}])), ROWS),
    "doubts invented": (audits(update(doubts=[{"code": "output_logits", "text": "y"}]), None, None), NO_AUTOENCODER),
    "weights": (audits(update(weights_sha256="0" * 64), None, None), "weights"),
    "the negative control is called trained": (audits(update(epoch=7), None, None, audit=0), WRITTEN),
    # Other audits
    "the negative control finds nothing": (images(LOOKS_LOST, audit=0), NO_ARRAYS),
    "the negative control finds all": (images(LOOKS_RECOVERED, audit=0), NO_ARRAYS),
    "an audit in the middle": (images(LOOKS_RECOVERED, audit=1), NO_ARRAYS),
    "the negative control dropped": (drop(0), GONE),
    "an audit in the middle dropped": (drop(1), GONE),
    "the newest audit dropped": (drop(2), ARRAYS),
    "the newest audit dropped, and save_recoveries": (both(drop(2), settings(save_recoveries=0)), HASHES),
    "an audit in the middle is called later": (audits(update(epoch=10**6), None, None, audit=1), ORDER),
    "the newest audit has a number that eats memory": (
        both(*(everywhere(update(audit=10**12), f"{name}.jsonl") for name in ("images", "audits"))),
        UNREADABLE,
    ),
    "audits reordered": (reorder, ROWS),
    "audits renumbered": (renumber({0: 1, 1: 0}), ROWS),
    "an audit twice": (copy_audit, ARRAYS),
    # Arrays
    "no arrays": (recoveries(lambda path: path.unlink()), ARRAYS),
    "no arrays, and save_recoveries": (
        both(images(LOOKS_LOST), recoveries(lambda path: path.unlink()), settings(save_recoveries=0)),
        SCORES,
    ),
    "arrays of another audit": (recoveries(lambda path: path.rename(path.with_name("audit-0001.npz"))), ARRAYS),
    "no file of arrays": (recoveries(lambda path: path.write_bytes(b"PK\3\4 nothing")), UNREADABLE),
    "an array less": (arrays(lambda arrays: arrays.pop(f"members/{PATTERN}/blind/image")), ARRAYS),
    "all arrays of a group less": (
        arrays(lambda arrays: [arrays.pop(key) for key in list(arrays) if key.startswith("controls")]),
        ARRAYS,
    ),
    "an array renamed": (arrays(rename(blind="blind-2")), ARRAYS),
    "an array more": (arrays(lambda arrays: arrays.update(other=np.zeros(NUM_MEMBERS))), ARRAYS),
    "arrays of fewer images": (
        arrays(lambda arrays: [arrays.update({key: array[:5]}) for key, array in arrays.items()]),
        ARRAYS,
    ),
    "arrays of no numbers": (arrays(set_arrays(members__PATTERN__blind__image=np.nan)), SCORES),
    "what came back is the truth": (arrays(exact("controls")), SCORES),
    "what came back is gray": (arrays(set_arrays(members__PATTERN__blind__image=0.5)), SCORES),
    "the truth is gray": (arrays(set_arrays(members__truth=0.5)), IMAGES),
    "truths exchanged": (arrays(reversed_array("controls/truth")), IMAGES),
    "indices exchanged": (arrays(reversed_array("members/indices")), ARRAYS),
    "masks that hide nothing": (arrays(set_arrays(members__PATTERN__mask=1)), OBSERVED),
    "observations that show all": (
        arrays(lambda arrays: arrays.update({f"members/{PATTERN}/observed": arrays["members/truth"]})),
        OBSERVED,
    ),
    "estimates of masks": (arrays(set_arrays(members__PATTERN__blind__mask=0)), SCORES),
    # run.json
    "patterns": (settings(patterns=["random-0.9"]), SETTINGS),
    "methods": (settings(methods=["blind", "biharmonic"]), SETTINGS),
    "order of the methods": (settings(methods=["known_mask", "blind", "biharmonic"]), PLAN),
    "the threshold in run.json": (settings(threshold_db=20.0), SETTINGS),
    "the audited method": (settings(primary_method="known_mask"), METHOD),
    "the audited method is left to what ran": (settings(primary_method=None, without_autoencoder=["blind"]), METHOD),
    "the audited method is said to be a baseline": (
        settings(primary_method="known_mask", without_autoencoder=["blind", "biharmonic"]),
        METHOD,
    ),
    "the seed": (settings(seed=1), OBSERVED),
    "save_recoveries": (settings(save_recoveries=3), ARRAYS),
    "hash of members": (described("members", sha256="0" * 64), IMAGES),
    "number of members": (described("members", num_images=200), SETTINGS),
    "no controls in run.json": (run(controls=None), SETTINGS),
    "near-duplicates": (
        run(near_duplicates={"psnr_db": 25.0, "contrast_db": 20.0, "members": [1], "controls": [2]}),
        DUPLICATES,
    ),
    "size of the images": (run(image_shape=[3, 64, 64]), ARRAYS),
    "parameters of the model": (run(model={"class": "Tiny", "num_parameters": 1}), WRITTEN),
    "hash of members left out": (described("members", sha256=None), IMAGES),
    "the config": (lambda folder: (folder.path / "run_config.yaml").write_text("model: {lr: 9}"), HASHES),
    "a measurement of the autoencoder": (
        lambda folder: (folder.path / "largest_missing.json").write_text(
            json.dumps({"images": [{"group": "members", "image": 0, "position": 0, "largest_missing": 0.99}]})
        ),
        "largest_missing.json",
    ),
}
"""Name: (how, what finds it out or names it as not checked, when counts and hashes are made anew)."""

AFTERWARDS = {
    "the headline": (say("No memorization found."), DOCUMENT),
    "the headline, not sealed": (document(lambda one: one["verdict"].update(headline="x"), again=False), OWN_HASH),
    "the verdict that the headline begins with, by another version": (
        say("No memorization found: none of 24 training images came back.", "9.9.9"),
        DOCUMENT,
    ),
    "the headline, by another version": (
        say("Memorized: hardly any training image came back.", "9.9.9"),
        "the words are those of this version",
    ),
    "the outcome, by another version": (
        document(lambda one: (one["verdict"].update(outcome="not_memorized"), one["tool"].update(version="9.9.9"))),
        DOCUMENT,
    ),
    "whether the negative control held, by another version": (
        document(
            lambda one: (
                one["negative_control"].update(passed=not one["negative_control"]["passed"]),
                one["tool"].update(version="9.9.9"),
            )
        ),
        DOCUMENT,
    ),
    "a rate": (document(lambda one: one["rates"][0].update(recovery_rate=0.0)), DOCUMENT),
    "the history": (document(lambda one: one["history"].pop(0)), DOCUMENT),
    "the limits": (document(lambda one: one["limits"].pop()), DOCUMENT),
    "the page": (file("report.html", b"<p>No memorization found.</p>"), FILES),
    "a figure": (file("figures/recovery-against-loss.png", b"another"), FILES),
    "a figure more": (file("figures/proof.png", b"another"), FILES),
    "the page and its hash": (
        lambda folder: [(folder.path / name).unlink() for name in ("report.html", "report.sha256")],
        FILES,
    ),
    "a hash of another file": (file("report.sha256", b"0" * 64 + b"  ../../elsewhere\n"), FILES),
}

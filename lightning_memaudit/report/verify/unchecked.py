"""What no check can compute again from the results of a run, each with the reason."""

from collections.abc import Iterator
from itertools import islice

from lightning_memaudit.report.manifest import PAGES
from lightning_memaudit.report.verify.arrays import computed_again, left_out_scores
from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.report.verify.repeated import of_saved
from lightning_memaudit.report.verify.versions import HASHES, RULES, is_before, named_version
from lightning_memaudit.results.chain import audit_sha256, by_audit
from lightning_memaudit.results.files import is_own
from lightning_memaudit.results.quantities import COUNTS, FLAGS, NUMBERS, REFERENCE
from lightning_memaudit.results.run_folder import RUN, RunFolder, SavedRecoveries

_MOST_NAMED = 10
WRITTEN = "threshold, trigger, epoch, step, times and all else in run.json (settings, notes, model, machine, versions)"
LEFT_OUT = "whether anything was left out (images, patterns, methods, audits, reference models, extraction)"
"""Said of every run: what was taken out leaves no trace in any file."""
EXTRAS = ("largest_missing.json", "proximal.json")


def unchecked(folder: RunFolder, saved: SavedRecoveries | None, with_weights: bool) -> Iterator[Check]:
    """Everything that was taken as it is written.

    Args:
        folder: The results.
        saved: The recoveries that were scored again.
        with_weights: Whether a checkpoint was compared.
    """
    audits = folder.chained_audits()
    newest = by_audit(audits)[-1]
    recorded = {column for row in folder.iterate_images(newest[0]["audit"]) for column in row}
    again = computed_again()
    columns = [
        one
        for one in (*NUMBERS, *FLAGS, *COUNTS)
        if one not in again and not (one in REFERENCE and one not in recorded)
    ]
    columns += ["doubts", "certification", "gradients_used"]
    yield Check("that the recoveries came out of the autoencoder", None, "audit the weights again")
    yield Check("which images were trained on", None, "members and controls are as the run named them")
    name = f"what takes the autoencoder ({', '.join(columns)})"
    yield Check(name, None, "it is as it was written: audit the weights again")
    run = folder.run()
    if is_before(run, RULES):
        hashes = ", and it kept no hashes" if is_before(run, HASHES) else ""
        detail = f"{RUN} says so: which method was audited and what is a repeat goes by its rules{hashes}"
        yield Check(f"whether version {named_version(run)} wrote the run", None, detail)
    detail = "no file can show what is in none of them, or came in under another name: see that it is all there"
    yield Check(LEFT_OUT, None, detail)
    total, scored = 0, 0
    for row in folder.iterate_images():
        total += 1
        if saved is not None and row["audit"] == saved.audit:
            scored += row["position"] < len(saved.arrays.get(f"{row['group']}/indices", ()))
    if scored < total:
        detail = f"{total - scored} of {total}: of earlier audits, or beyond save_recoveries; only their counts follow"
        alone = None if saved is None else of_saved(folder, saved)
        told = "" if alone is None else f". The saved ones alone say: {alone}"
        yield Check("recoveries without saved arrays", None, f"{detail}{told}")
    if saved is not None and any("/trace_" in key for key in saved.arrays):
        yield Check("recorded iterations", None, "only their ends are recoveries")
    if not with_weights:
        yield Check("weights", None, "give the checkpoint as --ckpt_path to compare their hash")
    else:
        detail = "code, hyperparameters and whatever else is no tensor of its state_dict: audit the checkpoint again"
        yield Check("what else makes these weights the audited autoencoder", None, detail)
    yield Check("what the figures show", None, "`report` draws them again")
    for page in PAGES:
        if page.endswith(".pdf") and is_own(folder.path / page):
            yield Check(f"what {page} shows", None, "`report --pdf` prints it again")
    if "name" in recorded:
        yield Check("image names", None, "they are as the data set gave them")
    for column in left_out_scores(folder):
        yield Check(column, None, "another device than a CPU rounds otherwise")
    yield Check(WRITTEN, None, "as they are written")
    yield Check("what an audit was expected to cost, took, and was cut by", None, "as it was decided and measured then")
    if any(row.get("extraction") for row in newest):
        detail = "it takes the autoencoder: audit the weights again"
        name = (
            "how many starts were made, and ended at which image, whether all goes through, and earlier audits of that"
        )
        yield Check(name, None, detail)
    there = {row["audit"] for row in audits}
    last = max(there)
    missing = last + 1 - len(there)
    if missing:
        some = ", ".join(map(str, islice((number for number in range(last) if number not in there), _MOST_NAMED)))
        more = f" and {missing - _MOST_NAMED} more" if missing > _MOST_NAMED else ""
        detail = f"{some}{more}: the run began in another folder, or they were dropped"
        yield Check("audits that are not there", None, detail)
    detail = f"no hash is secret: compare that of the newest audit, {audit_sha256(newest)}, with what you noted"
    yield Check("whether someone made all hashes anew", None, detail)
    for name in EXTRAS:
        if (folder.path / name).exists():
            yield Check(name, None, "it takes the autoencoder: audit the weights again")

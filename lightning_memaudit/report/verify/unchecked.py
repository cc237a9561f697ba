"""What no check can compute again from the results of a run, each with the reason."""

from collections.abc import Iterator

from lightning_memaudit.report.verify.arrays import computed_again
from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.results.chain import audit_sha256, by_audit
from lightning_memaudit.results.quantities import QUANTITIES
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries

EXTRAS = ("largest_missing.json", "proximal.json")


def unchecked(folder: RunFolder, saved: SavedRecoveries | None, with_weights: bool) -> Iterator[Check]:
    """Everything that was taken as it is written.

    Args:
        folder: The results.
        saved: The recoveries that were scored again.
        with_weights: Whether a checkpoint was compared.
    """
    again = computed_again()
    columns = [one.name for one in QUANTITIES if one.saved and one.name not in again]
    yield Check("that the recoveries came out of the autoencoder", None, "audit the weights again")
    yield Check("which images were trained on", None, "members and controls are as the run named them")
    name = f"what takes the autoencoder ({', '.join([*columns, 'doubts'])})"
    yield Check(name, None, "it is as it was written: audit the weights again")
    audits = folder.chained_audits()
    newest = by_audit(audits)[-1]
    total, scored = 0, 0
    for row in folder.iterate_images():
        total += 1
        if saved is not None and row["audit"] == saved.audit:
            scored += row["position"] < len(saved.arrays.get(f"{row['group']}/indices", ()))
    if scored < total:
        detail = f"{total - scored} of {total}: of earlier audits, or beyond save_recoveries; only their counts follow"
        yield Check("recoveries without saved arrays", None, detail)
    if saved is not None and any("/trace_" in key for key in saved.arrays):
        yield Check("recorded iterations", None, "only their ends are recoveries")
    if not with_weights:
        yield Check("weights", None, "give the checkpoint as --ckpt_path to compare their hash")
    yield Check("what the figures show", None, "`report` draws them again")
    yield Check("threshold, model, machine, versions, sources and times", None, "as they are written")
    missing = sorted(set(range(newest[0]["audit"])) - {row["audit"] for row in audits})
    if missing:
        detail = f"{', '.join(map(str, missing))}: the run began in another folder, or they were dropped"
        yield Check("audits that are not there", None, detail)
    detail = f"no hash is secret: compare that of the newest audit, {audit_sha256(newest)}, with what you noted"
    yield Check("whether someone made all hashes anew", None, detail)
    for name in EXTRAS:
        if (folder.path / name).exists():
            yield Check(name, None, "it takes the autoencoder: audit the weights again")

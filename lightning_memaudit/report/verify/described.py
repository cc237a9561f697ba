"""``run.json`` and the chain of hashes: what was audited, and that no audit was dropped, edited, moved or doubled."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_memaudit.report.verify.check import Check, first
from lightning_memaudit.report.verify.versions import HASHES, RULES, is_before, named_version
from lightning_memaudit.results.chain import CHAIN, SEAL, audit_sha256, broken_links, by_audit, lines_sha256, seal_holds
from lightning_memaudit.results.files import is_own
from lightning_memaudit.results.hashes import file_sha256
from lightning_memaudit.results.names import CALLING, INPAINTER, TOLD_THE_MASK, primary_method
from lightning_memaudit.results.run_folder import AUDITS, IMAGES, OWN_CONFIG, RECOVERIES, RUN, RunFolder

Row = Mapping[str, Any]
OWN = {*CALLING, *TOLD_THE_MASK}
"""Names of the package's methods."""


def same_chain(name: str, folder: RunFolder) -> Check:
    """Every audit follows the one before, has its own images and recoveries, and the last is the newest there was."""
    audits = by_audit(folder.chained_audits())
    seal = folder.sealed_run().get(SEAL)
    if not any(CHAIN in row for rows in audits for row in rows):
        if isinstance(seal, Mapping) and seal.get("chain") is not None:
            return Check(name, False, f"{RUN} names the hash of an audit, and {AUDITS} has no hashes")
        return _without_hashes(name, folder, f"{AUDITS} has no hashes")
    images = list(lines_sha256(folder.path / IMAGES))
    if len(dict(images)) < len(images):
        return Check(name, False, f"{IMAGES} holds lines of one audit in two places")
    written = [rows[0]["audit"] for rows in audits]
    if [number for number, _ in images if number in written] != [one for one in written if one in dict(images)]:
        return Check(name, False, f"{IMAGES} does not hold the audits in the order of {AUDITS}")
    problem = next(broken_links(audits, dict(images)), None) or next(_recovery_problems(folder, audits), None)
    if problem:
        return Check(name, False, problem)
    if not isinstance(seal, Mapping):
        return Check(name, False, f"{RUN} has lost its seal, which names the newest audit")
    heads = [audit_sha256(rows) for rows in audits]
    if seal.get("chain") is not None and seal["chain"] not in heads[-2:]:
        if _is_set_aside(folder, seal["chain"]):
            return Check(name, None, f"audit {seal['audit']} was set aside, and {RUN} not yet written again")
        return Check(name, False, f"audit {seal['audit']}, which {RUN} names as the newest, is not there or another")
    return Check(name, True, f"{len(audits)} audits, the newest {heads[-1]}")


def _without_hashes(name: str, folder: RunFolder, what: str) -> Check:
    """Hashes may lack in a run of a version that kept none; in others they were taken out."""
    run = folder.run()
    version = named_version(run)
    if is_before(run, HASHES):
        return Check(name, None, f"{what}: {RUN} says that version {version} wrote it, which kept none")
    return Check(name, False, f"{what}, and {f'version {version} keeps them' if version else 'no version is named'}")


def _recovery_problems(folder: RunFolder, audits: Sequence[Sequence[Row]]) -> Iterator[str]:
    """The file of recoveries is the one of the newest audit that saved any."""
    links = {rows[0]["audit"]: rows[0].get(CHAIN) or {} for rows in audits}
    saved = [(number, link["recoveries"]) for number, link in links.items() if link.get("recoveries")]
    if not saved:
        return
    number, digest = saved[-1]
    path = folder.path / RECOVERIES / f"audit-{int(number):04d}.npz"
    if not is_own(path):
        yield f"audit {number} saved recoveries, and {path.name} is not there"
    elif file_sha256(path) != digest:
        yield f"{path.name} is not the file that audit {number} wrote"


def _is_set_aside(folder: RunFolder, digest: str) -> bool:
    """Whether an earlier history of this run, kept in the folder, ends with the audit of this hash."""
    for path in folder.path.glob(f"superseded-*/{AUDITS}"):
        if not path.parent.is_symlink():
            audits = by_audit(RunFolder(path.parent).chained_audits())
            if audits and audit_sha256(audits[-1]) == digest:
                return True
    return False


def same_run(name: str, folder: RunFolder) -> Check:
    """``run.json`` and the config are what they were when they were written."""
    run = folder.sealed_run()
    if SEAL not in run:
        return _without_hashes(name, folder, f"{RUN} has no hash of its own")
    if not seal_holds(run):
        return Check(name, False, f"{RUN} was changed: it does not have its own hash")
    config = folder.path / OWN_CONFIG
    found = file_sha256(config) if is_own(config) else None
    if found != run[SEAL].get("config"):
        return Check(name, False, f"{OWN_CONFIG} is not the one of the run")
    return Check(name, True, "its own hash, and that of the config" if found else "its own hash")


def same_settings(name: str, folder: RunFolder) -> Check:
    """``run.json`` says of the newest audit what its rows say."""
    run = folder.run()
    rows = by_audit(folder.audits())[-1]
    settings = run.get("settings") or {}
    compared = [key for key in ("patterns", "methods", "threshold_db") if key in settings]
    compared += [group for group in ("members", "controls") if group in run]
    check = first(name, _settings_problems(run, settings, rows), ", ".join(compared))
    return check if compared else Check(name, None, f"{RUN} says nothing of it")


def _settings_problems(run: Row, settings: Row, rows: Sequence[Row]) -> Iterator[str]:
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if "patterns" in settings and list(settings["patterns"]) != patterns:
        yield f"patterns are {settings['patterns']} in {RUN}, {patterns} in {AUDITS}"
    if "methods" in settings and sorted(settings["methods"]) != sorted(methods):
        yield f"methods are {settings['methods']} in {RUN}, {methods} in {AUDITS}"
    if "threshold_db" in settings and settings["threshold_db"] != rows[0]["threshold_db"]:
        yield f"threshold_db is {settings['threshold_db']} in {RUN}, {rows[0]['threshold_db']} in {AUDITS}"
    for group in ("members", "controls"):
        if group in run:
            described = run[group] or {}
            counts = {row["num_images"] for row in rows if row["group"] == group} or {0}
            if counts != {described.get("num_images", 0)} and (described or counts != {0}):
                yield f"{group} are {described.get('num_images', 'none')} in {RUN}, {sorted(counts)} in {AUDITS}"


def same_method(name: str, folder: RunFolder) -> Check:
    """The method that the report speaks of is the one that must be, of those that ran.

    Whether a method calls the autoencoder is known by the names of the package's own. What a run says of others, or
    that their order chose, is named where the audited method hangs on it.
    """
    run = folder.run()
    settings = run.get("settings") or {}
    methods = list(dict.fromkeys(row["method"] for row in by_audit(folder.audits())[-1]))
    without = [method for method in settings.get("without_autoencoder") or () if method in methods]
    own = [method for method in without if method in OWN]
    wrong = next((method for method in own if method in CALLING), None)
    if wrong is not None:
        return Check(name, False, f"{wrong} is said never to call the autoencoder, which it does")
    stated = settings.get("primary_method") or primary_method(methods)  # as the report has it
    must_be = primary_method(methods, without)
    if stated == must_be and stated in OWN and stated == primary_method(methods, own):
        return Check(name, True, f"{stated}, of {', '.join(methods)}")
    if stated == must_be:
        others = ", ".join(method for method in methods if method not in OWN)
        return Check(f"that {stated} had to be audited", None, f"whether {others} calls the autoencoder, {RUN} says")
    # Then blind was audited where it ran, else the first by order.
    if is_before(run, RULES) and stated == ("blind" if "blind" in methods else _first_asked(methods, without)):
        return Check(f"that {stated} had to be audited", None, f"the order of methods chose it; now it is {must_be}")
    return Check(name, False, f"primary_method is {stated} in {RUN}, the audited method is {must_be}")


def _first_asked(methods: Sequence[str], without: Sequence[str]) -> str:
    return next((method for method in methods if method != INPAINTER and method not in without), methods[0])

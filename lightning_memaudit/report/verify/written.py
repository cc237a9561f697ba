"""The report itself: its hash, what it says against the results, its page and figures, the weights that it names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_memaudit import __version__
from lightning_memaudit.report.checkpoint import read_checkpoint
from lightning_memaudit.report.document import SELF_HASH, build_document, seal
from lightning_memaudit.report.manifest import PAGES, read_manifest
from lightning_memaudit.report.verify.check import NOT_TRUE, OLDER, OTHER_RULES, OTHER_WEIGHTS, Check, differences
from lightning_memaudit.report.verify.versions import SAME_AUDIT, TOGETHER, is_earlier, named_version
from lightning_memaudit.results.chain import SEAL, audit_sha256, by_audit, complete_sha256, seal_holds
from lightning_memaudit.results.evidence import ANY
from lightning_memaudit.results.files import is_own
from lightning_memaudit.results.hashes import file_sha256, image_sha256, tensors_sha256
from lightning_memaudit.results.run_folder import (
    AUDITS,
    IMAGES,
    MANIFEST,
    OWN_CONFIG,
    RUN,
    RunFolder,
    SavedRecoveries,
)
from lightning_memaudit.results.training_doubts import CONTROLS_GIVEN

_OF_RUN = ("run", "setup", "limits", "near_duplicates")
"""Parts of the report that say what ``run.json`` says."""
_WORDS = ("why", "found", "certainty", "next_steps", "cautions", "absence_not_shown")


def same_hash(name: str, document: Mapping[str, Any]) -> Check:
    """``report.json`` has the hash that it carries."""
    expected = seal(dict(document))[SELF_HASH]
    same = document[SELF_HASH] == expected
    return Check(name, same, f"its own hash, {expected}" if same else f"hash is {expected}")


def same_document(name: str, folder: RunFolder, document: Mapping[str, Any]) -> Check:
    """The report is what the results say; of another version's report all but the words is compared."""
    newest = folder.audits()[-1]["audit"]
    if is_older(folder, document):
        detail = f"it speaks of the audits up to {document['judgement']['audit']}, and there are some up to {newest}"
        return Check(name, False, detail, OLDER)
    again = build_document(folder)
    version = document["tool"]["version"]
    if SEAL not in folder.sealed_run():
        # The file beside the folder, which a later run replaces, and which stays when the folder moves.
        again, document = _without_config(again), _without_config(document)
    told, found = document, again
    if version != __version__:
        lacks = _is_from_before(SAME_AUDIT, folder, document, again)
        told, found = (_facts(one, lacks) for one in (document, again))
    different = next(differences(dict(told), found, "", SELF_HASH), None)
    by_other_rules = _is_from_before(TOGETHER, folder, document, again) and _counts_by_rules_of_today(again, document)
    rest = differences(_whatever_counts(document), _whatever_counts(again), "")
    if different and by_other_rules and next(rest, None) is None:
        detail = f"which patterns and images count was decided by other rules in version {version}: {different}"
        return Check(name, False, detail, OTHER_RULES)
    if different is None:
        return Check(name, True, f"{len(document['history'])} audits judged again")
    if _is_resumed(folder, told, found):
        return Check(name, False, f"{RUN} was written again since, as by a run that is resumed", OLDER)
    other = "" if version == __version__ else f"; the report says that version {version} made it, this is {__version__}"
    return Check(name, False, different + other, NOT_TRUE)


def _is_from_before(
    version: tuple[int, ...], folder: RunFolder, document: Mapping[str, Any], again: Mapping[str, Any]
) -> bool:
    """Whether the version that it names is; none made it that is earlier than the one that wrote its ``run.json``."""
    run = named_version(folder.sealed_run())
    is_its_run = document["hashes"]["files"].get(RUN) == again["hashes"]["files"].get(RUN)
    of_today = bool(run) and is_its_run and not is_earlier(run, version)
    return is_earlier(document["tool"]["version"], version) and not of_today


def _counts_by_rules_of_today(again: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether some of at least three patterns count, or recoveries were lost: all else counts by any rules.

    How many patterns there are, and whether any recovery was lost, the results say, and no report that may be forged.
    """
    judgement = again["judgement"]
    counted = {one["judgement"]["counted"]["pattern"] for one in (again, document)}
    some = len(judgement["patterns"]) > 2 and counted != {ANY}
    return some or "lost" in judgement or "failed_controls" in judgement


def _whatever_counts(document: Mapping[str, Any]) -> dict[str, Any]:
    """What does not hang on which patterns count."""
    kept = ("schema_version", "run", "rates", "images", "near_duplicates", "cost", "setup", "hashes")
    return {key: document[key] for key in kept if key in document}


def is_older(folder: RunFolder, document: Mapping[str, Any]) -> bool:
    """Whether audits were added after the report, and nothing else was changed in the files that it has hashes of."""
    reported = document["judgement"]["audit"]
    rows = folder.audits()
    if not any(row["audit"] > reported for row in rows):
        return False
    hashes = document["hashes"]["files"]
    before = {row["audit"] for row in rows if row["audit"] <= reported}
    return all(complete_sha256(folder.path / name, before) == hashes.get(name) for name in (AUDITS, IMAGES))


def _is_resumed(folder: RunFolder, document: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Whether only ``run.json`` and the config are others, as by a run that is resumed and has not audited yet.

    They must be as they were written, and know the newest audit; all that the report says of audits must be the same.
    """
    run = folder.sealed_run()
    config = folder.path / OWN_CONFIG
    if not seal_holds(run) or run[SEAL].get("config") != (file_sha256(config) if is_own(config) else None):
        return False
    if run[SEAL].get("chain") != audit_sha256(by_audit(folder.chained_audits())[-1]):
        return False
    files = [one["hashes"]["files"] for one in (document, again)]
    if files[0].get(RUN) == files[1].get(RUN) or files[0] | {RUN: ""} != files[1] | {RUN: ""}:
        return False
    ignored = {*_OF_RUN, "hashes", SELF_HASH}
    if document["near_duplicates"] != again["near_duplicates"]:
        ignored |= {"verdict", "history"}
    told, found = ({key: value for key, value in one.items() if key not in ignored} for one in (document, again))
    return next(differences(told, found, ""), None) is None


def _without_config(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "hashes": {**document["hashes"], "config": None}}


def _facts(document: Mapping[str, Any], lacks: bool) -> dict[str, Any]:
    """Without what another version may word differently, and what one did not know of that lacks it."""
    facts = {key: value for key, value in document.items() if key not in ("tool", "limits", SELF_HASH)}
    facts["verdict"] = {key: value for key, value in document["verdict"].items() if key not in _WORDS}
    facts["verdict"]["headline"] = document["verdict"]["headline"].partition(":")[0]  # every version begins it alike
    facts["judgement"] = dict(document["judgement"])
    if lacks:  # what they come to is in the verdict, and in the rows
        facts["judgement"].pop("untested", None)
    told = document["judgement"].get("memberships") or {}
    facts["judgement"]["memberships"] = {name: {**one, "caution": None} for name, one in told.items()}
    if lacks and document["negative_control"]:  # whether it is one of the same was not asked; what it found is the same
        facts["negative_control"] = {**document["negative_control"], "passed": None}
    if document["extraction"]:
        facts["extraction"] = {key: value for key, value in document["extraction"].items() if key != "sentence"}
    return facts


def own_words(name: str, document: Mapping[str, Any]) -> Check:
    """Whether the words could be compared, which another version may choose differently."""
    version = document["tool"]["version"]
    if version == __version__:
        return Check(name, True, "with the numbers")
    detail = f"the report says that version {version} made it, this is {__version__}: make it again with `report`"
    return Check(name, None, detail)


def same_files(name: str, folder: RunFolder) -> Check:
    """Page and figures have the hashes that were written down after them."""
    hashes = read_manifest(folder)
    if not hashes:
        return Check(
            name, None, f"there is no {MANIFEST}: the report was made by an earlier version, or not to its end"
        )
    missing = []
    for file, digest in hashes.items():
        path = folder.path / file
        if not is_own(path):
            missing.append(file)
        elif file_sha256(path) != digest:
            return Check(name, False, f"{file} is not the one that was written with the report")
    strange = [file for file in _present(folder) if file not in hashes]
    if missing or strange:
        not_there = f"not there: {', '.join(missing)}" if missing else ""
        not_its = f"not of this report: {', '.join(strange)}" if strange else ""
        return Check(name, None, "; ".join(filter(None, (not_there, not_its))))
    return Check(name, True, f"{len(hashes)} files hashed again")


def _present(folder: RunFolder) -> Iterator[str]:
    """The page and figures that are there."""
    for path in [*(folder.path / name for name in PAGES), *sorted((folder.path / "figures").glob("*"))]:
        if path.is_symlink() or path.exists():
            yield path.relative_to(folder.path).as_posix()


def same_weights(name: str, document: Mapping[str, Any], checkpoint: Path, allow_types: Sequence[str]) -> Check:
    """The tensors of a checkpoint are those of the audited module, by their names, types, shapes and bytes.

    A file without any has the hash of nothing, as a module without any: it shows nothing.
    """
    expected = document["hashes"]["weights"]
    if expected is None:
        return Check(name, None, "the report has no hash of the weights")
    content = read_checkpoint(checkpoint, allow_types, "--ckpt_path")
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    state = state if isinstance(state, Mapping) else {}
    tensors = {key: value for key, value in state.items() if hasattr(value, "detach")}
    if not tensors:
        return Check(name, False, "it holds no tensors, neither in state_dict nor by themselves", OTHER_WEIGHTS)
    try:
        found = tensors_sha256(tensors)
    except RuntimeError as error:
        return Check(name, False, f"they cannot be read: {' '.join(str(error).split())}", OTHER_WEIGHTS)
    if found != expected:
        return Check(name, False, f"they have the hash {found}, not {expected}", OTHER_WEIGHTS)
    return Check(name, True, f"{found}, of {len(tensors)} tensors")


def same_training(
    name: str, folder: RunFolder, saved: SavedRecoveries | None, checkpoint: Path, allow_types: Sequence[str]
) -> Check:
    """The saved images against those that the checkpoint remembers: its audited members, by their hashes.

    A control among them was exchanged with a member, unless the audit itself says that the training was given
    controls. Members that are not among them may be others of the training images.
    """
    content = read_checkpoint(checkpoint, allow_types, "--ckpt_path")
    states = (content.get("callbacks") or {}).values() if isinstance(content, Mapping) else ()
    records = [one["trained_on"] for one in states if isinstance(one, Mapping) and one.get("trained_on")]
    arrays = {} if saved is None else saved.arrays
    if len(records) != 1 or "members/truth" not in arrays:
        what = (
            "no images were saved" if len(records) == 1 else f"the checkpoint remembers {len(records) or 'no'} groups"
        )
        return Check(name, None, what)
    known = set(records[0])
    found = {
        group: [image_sha256(image) in known for image in arrays.get(f"{group}/truth", ())]
        for group in ("members", "controls")
    }
    stated = {doubt.get("code") for row in folder.audits() for doubt in row.get("doubts") or ()}
    if any(found["controls"]) and CONTROLS_GIVEN not in stated:
        position = found["controls"].index(True)
        return Check(name, False, f"controls: position {position} is one of the {len(known)} members that it remembers")
    others = len(found["members"]) - sum(found["members"])
    if others:
        return Check(name, None, f"{others} of {len(found['members'])} members are none of the {len(known)}")
    among = f"{sum(found['controls'])} of {len(found['controls'])} controls"
    return Check(name, True, f"all {len(found['members'])} members that were saved are among them, and {among}")

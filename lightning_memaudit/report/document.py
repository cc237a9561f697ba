"""``report.json``: everything that a report says, computed from the results files of a run and from nothing else.

Built twice from the same files it is the same to the last byte, which is what ``verify`` relies on.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning_memaudit import __version__
from lightning_memaudit.report.extraction import read_extraction
from lightning_memaudit.report.labels import well_formed
from lightning_memaudit.report.reading import identity_gap
from lightning_memaudit.results.chain import complete_sha256
from lightning_memaudit.results.files import is_own, plain, read_json, write_json
from lightning_memaudit.results.hashes import array_sha256, file_sha256, json_sha256
from lightning_memaudit.results.image_table import image_table
from lightning_memaudit.results.judgement import ImageColumns, Judgement, judge
from lightning_memaudit.results.names import DEFAULT_NAME, TOLD_THE_MASK
from lightning_memaudit.results.negative_control import is_passed
from lightning_memaudit.results.reason_words import words
from lightning_memaudit.results.run_folder import AUDITS, IMAGES, RUN, RunFolder
from lightning_memaudit.results.verdict import conclude

SCHEMA_VERSION = "2.1.0"
REPORT = "report.json"
SELF_HASH = "report_sha256"
Document = dict[str, Any]
Row = dict[str, Any]
_CELL = ("group", "pattern", "method")
_IN_AUDITS, _IN_IMAGES = (*_CELL, "num_images", "threshold_db"), (*_CELL, "position", "image")
Names = dict[tuple[str, int], str]
"""Names of images by group and position."""


def build_document(folder: RunFolder) -> Document:
    """Everything there is to report of a run.

    Raises:
        FileNotFoundError: The folder holds no results, or no ``run.json``.
        ValueError: The results cannot be read, or hold no complete audit.
    """
    run = folder.run()
    rows = folder.audits()
    if not rows:
        raise ValueError(f"{folder.path / AUDITS} holds no complete audit: let one finish first")
    primary = (run.get("settings") or {}).get("primary_method")
    judgements, columns = [], ImageColumns([])
    names: Names = {}
    # One audit after the other, each read into columns row by row: the rows of many images would not fit at once.
    for number, images in groupby(folder.iterate_images(), key=lambda row: int(row["audit"])):
        names = {}
        columns = ImageColumns(_noting_names(_with_all(images, _IN_IMAGES, folder.path / IMAGES), names))
        of_audit = list(_with_all([row for row in rows if row["audit"] == number], _IN_AUDITS, folder.path / AUDITS))
        _check_whole(folder, of_audit, columns)
        ran = columns.methods()
        # A run that is resumed with other methods has audits by others: those are judged by what they had.
        known = primary if primary in ran or number == rows[-1]["audit"] else None
        judgements.append(judge(of_audit, columns, known))
    lacking = {row["audit"] for row in rows} - {one.audit for one in judgements}
    if lacking:
        raise ValueError(
            f"{folder.path / IMAGES} holds no images of audit {min(lacking)}: restore the file from a copy, or run the "
            "audit again"
        )
    final = judgements[-1]
    first = judgements[0]
    untrained = first if first.epoch == 0 and first is not final else None
    duplicates = _named_duplicates(run.get("near_duplicates"), names)
    document = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "lightning_memaudit", "version": __version__},
        "run": {"created": run.get("created"), "audited": final.time},
        "verdict": conclude(final, untrained, duplicates).to_dict(),
        "judgement": final.to_dict(),
        **numbers(final),
        "negative_control": None if untrained is None else _negative_control(final, untrained),
        "history": [_moment(one, untrained, duplicates) for one in judgements],
        "rates": [dict(row) for row in rows if row["audit"] == final.audit],
        "images": _named(image_table(columns, final), names),
        "near_duplicates": duplicates,
        "largest_missing": _read_extra(folder, "largest_missing.json", names),
        "proximal": _read_extra(folder, "proximal.json", names),
        "extraction": read_extraction([row for row in rows if row["audit"] == final.audit], names),
        "cost": next((row.get("cost") for row in rows if row["audit"] == final.audit), None),
        "setup": {
            key: run.get(key)
            for key in ("settings", "model", "image_shape", "members", "controls", "machine", "versions", "notes")
        },
        "limits": limits(final, run, untrained) + _of_other_audits(judgements),
        "hashes": _hashes(folder, run, final),
    }
    return seal(well_formed(plain(document)))


def _with_all(rows: Iterable[Row], keys: Collection[str], path: Path) -> Iterator[Row]:
    """The rows as they come; raises ValueError where one lacks what there is no row without."""
    for row in rows:
        lacking = [key for key in keys if row.get(key) is None]
        if lacking:
            raise ValueError(f"{path} holds a row without {lacking[0]}: restore the file from a copy, or audit again")
        yield row


def _check_whole(folder: RunFolder, rows: Sequence[Row], columns: ImageColumns) -> None:
    """Raise ValueError unless there are as many rows of images as those of their audit say.

    Images are written before their audit, so that no kill leaves this.
    """
    numbers: dict[str, int] = {}
    for row in rows:
        key = (row["group"], row["pattern"], row["method"])
        there = len(columns[key]["position"]) if key in columns else 0
        told = {row["num_images"], numbers.setdefault(row["group"], row["num_images"])} - {there}
        if told:
            raise ValueError(
                f"{folder.path / IMAGES} holds {there} images of audit {row['audit']}, {'/'.join(key)}, and "
                f"{AUDITS} says {min(told)}: restore both from a copy, or run the audit again"
            )


def numbers(judgement: Judgement) -> Document:
    """What is known by these names everywhere: in Python, in ``report.json``, and as metrics of loggers."""
    memorized = judgement.counted.members.memorized
    return {
        "num_memorized": judgement.num_memorized,
        "memorized_rate": None if memorized is None else asdict(memorized),
        "membership": {name: one._asdict() for name, one in judgement.membership_estimates.items()},
    }


def seal(document: Document) -> Document:
    """The document with its own hash, over all of it but that hash."""
    content = {key: value for key, value in document.items() if key != SELF_HASH}
    return {**content, SELF_HASH: json_sha256(content)}


def write_document(folder: RunFolder, document: Document) -> Path:
    """Write ``report.json`` beside the results, in one step."""
    return write_json(folder.path / REPORT, document, ascii_only=False)


def read_document(folder: RunFolder) -> Document:
    """Read ``report.json``.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no JSON object.
    """
    path = folder.path / REPORT
    if not is_own(path):
        raise FileNotFoundError(f"{path} does not exist: make it with `python -m lightning_memaudit report RUN`")
    try:
        document = read_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): make it again from the results") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}, not an object: make it again from the results")
    return document


def schema() -> dict[str, Any]:
    """The published JSON Schema of ``report.json``."""
    text = resources.files("lightning_memaudit.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def check_schema(document: Document) -> None:
    """Check a document against the schema.

    Raises:
        ValueError: It does not follow; the message says where.
    """
    import jsonschema

    version = document.get("schema_version")
    if isinstance(version, str) and version != SCHEMA_VERSION:
        raise ValueError(
            f"{REPORT} follows version {version} of its schema, this package {SCHEMA_VERSION}: make it again with "
            "`python -m lightning_memaudit report RUN`"
        )
    # Not jsonschema.validate, which first checks the schema itself, and takes most of the time for that.
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(document))
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise ValueError(f"{REPORT} does not follow its schema at {place}: {error.message[:200]}") from error


def limits(final: Judgement, run: Mapping[str, Any], untrained: Judgement | None) -> list[str]:
    """What was not tested, as sentences: the reader must not conclude more than this allows."""
    settings = run.get("settings") or {}
    members = run.get("members") or {}
    counted = [finding.pattern for finding in final.patterns]
    shown = [pattern for pattern in settings.get("patterns") or () if pattern not in counted]
    not_counted = f"; {', '.join(shown)}: shown, not counted, as no inpainter stands beside it" if shown else ""
    told = ", told the mask" if final.method in TOLD_THE_MASK else ""
    sentences = [
        f"One attack was run: {words(final.method)} recovery of degraded training images{told}, with the autoencoder "
        "as the prior (Abitbul & Dar, 2024). Another attack, or more iterations, may get back what this one did not.",
        f"Patterns: {', '.join(counted)}; masks from seed {settings.get('seed', 'unknown')}{not_counted}. Other "
        "degradations were not tried.",
        f"Recovered means a PSNR of at least {final.threshold_db:g} dB over the whole image. An image below it may "
        "still show what matters, such as a face.",
        "Images were degraded, and nothing was done to them after that. One that is recompressed or resized after it "
        "was masked, as a picture from the web may be, defeats the blind reading of what fills the missing pixels: of "
        "twelve images that came back before, none did after JPEG at quality 95.",
        "The baselines are smooth interpolations, and the method itself without the autoencoder. A generative model of "
        "such images may fill in more without this autoencoder, and what it could fill in is weaker evidence.",
        "Controls stand for images that were not trained on only as far as they come from the source of the members.",
    ]
    if not str(members.get("source")).startswith("train "):
        sentences.append(
            "The members were named by whoever ran the audit: rates and intervals speak of the training images only if "
            "these were drawn from them before anything was known of what comes back. No file shows that."
        )
    available, audited = members.get("num_available"), members.get("num_images")
    if available and audited and audited < available:
        sentences.append(
            f"{audited} of {available} training images were audited, chosen at random; the intervals speak of all of "
            "them, the table of images of these alone."
        )
    sentences += final.cuts
    gap = identity_gap(run)
    if gap is not None:
        sentences.append(gap)
    if final.gain is not None and final.gain.strongest is not None:
        sentences.append(
            "How much closer members come back than others is told for this method and these masks. It bounds neither "
            "what another attack could tell, nor what is stored of images that do not show it."
        )
    if untrained is None and final.epoch != 0:
        sentences.append("The untrained weights were not audited: the run has no negative control.")
    sentences.append(
        "Intervals hold 95 times in 100 each; with many patterns and audits, one of them missing is to be expected."
    )
    return sentences


def _of_other_audits(judgements: Sequence[Judgement]) -> list[str]:
    """That earlier audits of the run counted otherwise, as of one that was resumed with other settings: a sentence."""
    final, told = judgements[-1], []

    def otherwise(one: Judgement) -> str:
        parts = [f"by {words(one.method)} recovery"] if one.method != final.method else []
        parts += [f"at {one.threshold_db:g} dB"] if one.threshold_db != final.threshold_db else []
        if {each.pattern for each in one.patterns} != {each.pattern for each in final.patterns}:
            parts.append(f"from {', '.join(each.pattern for each in one.patterns)}")
        return ", ".join(parts)

    for how, some in groupby(judgements, otherwise):
        first, *more = (one.audit for one in some)
        if how:
            told.append(f"audits {first} to {more[-1]} {how}" if more else f"audit {first} {how}")
    if not told:
        return []
    return [f"Earlier audits of this run counted otherwise, and do not compare with the newest: {'; '.join(told)}."]


def missing_fraction(pattern: str) -> float | None:
    """The share of missing pixels that a pattern's name states: ``random-0.9+noise-0.05`` gives 0.9, others None."""
    kind, _, number = pattern.split("+")[0].partition("-")
    if kind == "blur":
        return None
    try:
        return float(number)
    except ValueError:
        return None


def run_name(folder: RunFolder) -> str:
    """What people call the run: its root folder. It is no part of the report, which may move."""
    path = folder.path.resolve()
    if path.name == DEFAULT_NAME:
        return path.parent.name
    return f"{path.parent.name}/{path.name}" if folder.config() is not None else path.name


def _negative_control(final: Judgement, untrained: Judgement) -> dict[str, Any]:
    memorized = untrained.counted.members.memorized
    return {
        "audit": untrained.audit,
        "train_loss": untrained.train_loss,
        "num_memorized": None if memorized is None else memorized.count,
        "num_images": untrained.counted.members.recovered.num,
        "passed": is_passed(final, untrained),
    }


def _moment(judgement: Judgement, untrained: Judgement | None, duplicates: Any) -> dict[str, Any]:
    """One audit of the run in short."""
    verdict = conclude(judgement, untrained if judgement is not untrained else None, duplicates)
    plain = judgement.to_dict()
    overall, overall_gain = plain["counted"], (plain["gain"] or {}).get("overall") or {}
    return {
        **{key: plain[key] for key in ("audit", "trigger", "epoch", "step", "time", "train_loss", "weights_sha256")},
        "outcome": verdict.outcome,
        "reasons": list(verdict.reasons),
        "members": overall["members"]["memorized"] or overall["members"]["recovered"],
        "controls": overall["controls"] and (overall["controls"]["memorized"] or overall["controls"]["recovered"]),
        "difference": overall["difference"],
        "auroc": plain["membership"]["auroc"],
        "recovery_gain": overall_gain.get("members"),
        "gain_auroc": overall_gain.get("auroc"),
    }


def _noting_names(rows: Iterable[Row], names: Names) -> Iterator[Row]:
    """The rows of ``images.jsonl`` as they come; what their images are called joins ``names``, where recorded."""
    for row in rows:
        if row.get("name"):
            names[row["group"], row["position"]] = str(row["name"])
        yield row


def _named(entries: Iterable[Mapping[str, Any]], names: Names) -> list[dict[str, Any]]:
    """The entries, each of one image, with its name where that was recorded."""
    found = [(entry, names.get((entry["group"], entry.get("position", -1)))) for entry in entries]
    return [dict(entry) if name is None else {**entry, "name": name} for entry, name in found]


def _named_duplicates(duplicates: Any, names: Names) -> Any:
    """With the names beside the positions, where they were recorded."""
    if not duplicates or not names:
        return duplicates
    groups = [group for group in ("members", "controls") if duplicates.get(group) is not None]
    known = {group: [names.get((group, position)) for position in duplicates[group]] for group in groups}
    return {**duplicates, "names": known}


def _read_extra(folder: RunFolder, name: str, names: Names) -> dict[str, Any] | None:
    """A measurement beyond the audit's own, where it was asked for.

    Raises:
        ValueError: The file is not what the audit writes.
    """
    path = folder.path / name
    if not is_own(path):
        return None
    try:
        content = read_json(path.read_bytes())
        content["images"][0]["group"]
        content["images"] = _named(content["images"], names)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, or run the audit again") from error
    return dict(content)


def _hashes(folder: RunFolder, run: Mapping[str, Any], final: Judgement) -> dict[str, Any]:
    """Of what was audited (images, masks, weights, settings) and of the files that say what was found."""
    saved = folder.newest_recoveries()
    arrays = saved.arrays if saved else {}
    config = folder.config()
    complete = {row["audit"] for row in folder.audits()}
    files = [(folder.path / RUN, file_sha256)]
    files += [(folder.path / name, lambda path: complete_sha256(path, complete)) for name in (AUDITS, IMAGES)]
    files += [(saved.path, file_sha256)] if saved else []
    return {
        "members": (run.get("members") or {}).get("sha256"),
        "controls": (run.get("controls") or {}).get("sha256"),
        "masks": {name.removesuffix("/mask"): array_sha256(arrays[name]) for name in arrays if _is_mask(name)},
        "weights": final.weights_sha256,
        "settings": json_sha256(run.get("settings")),
        "config": file_sha256(config) if config else None,
        "files": {file.relative_to(folder.path).as_posix(): of(file) for file, of in files if file.is_file()},
    }


def _is_mask(name: str) -> bool:
    """``members/<pattern>/mask``, and not the estimate of a method."""
    return name.endswith("/mask") and name.count("/") == 2

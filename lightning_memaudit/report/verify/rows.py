"""The rows of all audits: each image once, and every count, rate, interval and mean from the images that it is of."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lightning_memaudit.report.verify.check import Check, differences, first
from lightning_memaudit.report.verify.versions import HASHES, is_before
from lightning_memaudit.results.cells import Cell, is_recovered
from lightning_memaudit.results.chain import by_audit
from lightning_memaudit.results.comparability import APPEARANCE
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.quantities import COUNTS, FLAGS, MAX_PSNR, NUMBERS, QUANTITIES
from lightning_memaudit.results.rows import Occasion, audit_rows
from lightning_memaudit.results.run_folder import RunFolder

Row = Mapping[str, Any]
Key = tuple[str, str, str]
_OCCASION = ("trigger", "epoch", "step", "time", "weights_sha256", "train_loss", "threshold_db", "doubts", "num_rows")
_OF_IMAGE = ("image", "name", "reconstruction_psnr", "repeated")
"""The same in every pattern and method."""
_MEASURED = ("psnr", "hidden_psnr", "ssim", "mask_accuracy", "score")
"""Of a recovery, so that a failed one has none of them."""
_NOT_COUNTED = {*_OCCASION, "certification", "gradients_used", "extraction", "cost"}
"""Of no image: they are compared elsewhere, or named among what is not checked."""
_RECORDED = {one.name for one in QUANTITIES if one.saved}
_SINCE = {*APPEARANCE} - {"brightness", "contrast", "roughness", "value_range"}
"""Columns that versions with hashes may lack."""
_TOLERANCE_DB = 1e-3
_LOST_PSNR = -60.0
_LEAST_ERROR = 1e-11
"""Below this an output was not finite when it was measured, and its mean squared error is not."""


def whole_rows(name: str, folder: RunFolder) -> Check:
    """Every image has one row in each pattern and method, of every audit, and what is in it fits together."""
    return first(name, _whole_problems(folder), f"{len(by_audit(folder.audits()))} audits looked through")


def _whole_problems(folder: RunFolder) -> Iterator[str]:
    rows = by_audit(folder.audits())
    numbers = [same[0]["audit"] for same in rows]
    if any(type(number) is not int for number in numbers) or numbers != sorted(set(numbers)):
        yield f"audits.jsonl holds the audits {numbers}: each once and in order is how they are written"
    seen = []
    for number, images in groupby(folder.iterate_images(), key=lambda row: row["audit"]):
        seen.append(number)
        of_audit = [row for same in rows for row in same if row["audit"] == number]
        yield from (f"audit {number}: {problem}" for problem in _audit_problems(of_audit, list(images)))
    if seen != numbers:
        yield f"images.jsonl holds the audits {seen}, audits.jsonl {numbers}"


def _audit_problems(rows: Sequence[Row], images: Sequence[Row]) -> Iterator[str]:
    keys = Counter(_key(row) for row in rows)
    doubled = next((key for key, count in keys.items() if count > 1), None)
    if doubled or any(row.get("num_rows", len(rows)) != len(rows) for row in rows):
        yield f"{'/'.join(doubled or ('audits.jsonl',))} has rows twice, or not as many as were written"
    for field in _OCCASION:
        if any(row.get(field) != rows[0].get(field) for row in rows):
            yield f"{field} differs within the audit"
    cells = _cells(images)
    strange = set(cells) ^ {_key(row) for row in rows if row["num_images"] or _key(row) in cells}
    if strange:
        yield f"{'/'.join(min(strange))} is in one of audits.jsonl and images.jsonl only"
    groups = {group: {key[1:] for key in keys if key[0] == group} for group, _, _ in keys}
    if any(one != groups[rows[0]["group"]] for one in groups.values()) or set(groups) - {"members", "controls"}:
        yield "members and controls do not have the same patterns and methods"
    places: dict[tuple[str, int], tuple[Any, ...]] = {}
    sizes: dict[str, int] = {}
    baselines: dict[tuple[str, str, int], Any] = {}
    inpainters = {
        (image["group"], image["pattern"], image["position"]): image.get("hidden_psnr")
        for image in images
        if image["method"] == INPAINTER
    }
    for key, cell in cells.items():
        where = "/".join(key)
        if sorted(image["position"] for image in cell) != list(range(len(cell))):
            yield f"{where}: the positions of its images are not 0 to {len(cell) - 1}, each once"
        if sizes.setdefault(key[0], len(cell)) != len(cell):
            yield f"{where} has {len(cell)} images, other cells of its group {sizes[key[0]]}"
        certification = next((row.get("certification") for row in rows if _key(row) == key), None)
        has_scores = any(image.get("score") is not None for image in cell)
        counted = sum(1 for image in cells.get(("controls", *key[1:]), ()) if not image.get("failed"))
        yield from (f"{where}: {problem}" for problem in _certification_problems(certification, counted))
        for image in cell:
            place = tuple(image.get(column) for column in _OF_IMAGE)
            if places.setdefault((key[0], image["position"]), place) != place:
                yield f"{where}: position {image['position']} has another {', '.join(_OF_IMAGE)} elsewhere"
            baseline = image.get("baseline_psnr")
            inpainted = inpainters.get((key[0], key[1], image["position"]))
            if baselines.setdefault((key[0], key[1], image["position"]), baseline) != baseline:
                yield f"{where}: image {image['image']} has another baseline_psnr in another method"
            if baseline is not None and inpainted is not None and baseline < inpainted - _TOLERANCE_DB:
                yield f"{where}: image {image['image']} has a baseline_psnr below that of {INPAINTER}"
            if set(cell[0]) ^ set(image) or _RECORDED & (set(images[0]) ^ set(image)):
                yield f"{where}: image {image['image']} has not the columns of the others"
            problem = next(_image_problems(image, has_scores, certification), None)
            if problem:
                yield f"{where}: image {image['image']} {problem}"


def _image_problems(image: Row, has_scores: bool, certification: Any) -> Iterator[str]:
    for name in NUMBERS:
        value = image.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"has {name}={value!r}, which is no number"
        elif value is not None and not (np.isfinite(value) and (value <= MAX_PSNR + 0.01 or "psnr" not in name)):
            yield f"has {name}={value!r}, which cannot be"
    for name in ("recovered", *FLAGS):
        if name in image and not isinstance(image[name], bool):
            yield f"has {name}={image[name]!r}, which is neither true nor false"
    for name in (*COUNTS, "position", "image"):
        if name in image and (type(image[name]) is not int or image[name] < 0):
            yield f"has {name}={image[name]!r}, which is no count"
    gain, hidden, baseline = (image.get(name) for name in ("recovery_gain", "hidden_psnr", "baseline_psnr"))
    known = hidden is not None and baseline is not None
    if known and (gain is None or abs(gain - (hidden - baseline)) > _TOLERANCE_DB):  # type: ignore[operator]
        yield f"has recovery_gain={gain!r}, which is not what hidden_psnr is above baseline_psnr"
    failed, diverged = image.get("failed"), image.get("diverged")
    if failed and (diverged or image.get("certified") or any(image.get(name) is not None for name in _MEASURED)):
        yield "is called failed, and has measurements of what came back"
    if diverged and image.get("score") is not None:
        yield "is called diverged, and has a score"
    if has_scores and image.get("score") is None and not failed and not diverged:
        yield "has no score, and neither failed nor diverged"
    if image.get("certified"):
        threshold = certification.get("threshold") if isinstance(certification, Mapping) else None
        if image.get("score") is None or (threshold is not None and image["score"] > threshold):
            yield "is certified with a score that certifies nothing"


def _certification_problems(certification: Any, num_controls: int) -> Iterator[str]:
    """What an audit's own controls cannot have shown: each gives one score, and the rate is 1 / (n + 1)."""
    if not isinstance(certification, Mapping) or certification.get("source") != "controls":
        return
    number, rate = certification.get("num_control_scores"), certification.get("false_rate")
    if type(number) is not int or not 0 < number <= num_controls:
        yield f"{number} scores of controls are said to set the threshold, and there are {num_controls} controls"
    elif type(rate) is not float or not np.isclose(rate, 1 / (number + 1)):
        yield f"certificates of {number} controls are said to be false at a rate of {rate}"


def same_counts(name: str, folder: RunFolder) -> Check:
    """Every count, rate, interval and mean of all audits from the images."""
    return first(name, _count_problems(folder), f"those of {len(folder.audits())} rows counted again")


def not_recorded(name: str, folder: RunFolder) -> Check:
    """Columns that the package measures today and that none of the newest audit's rows have, or the reverse.

    What every version with hashes has measured cannot lack: a verdict may hang on it.
    """
    rows = by_audit(folder.audits())[-1]
    columns = {column for image in folder.iterate_images(rows[0]["audit"]) for column in image}
    row = next(iter(_again(rows[:1], {}).values()))
    lacking = [*sorted(_RECORDED - columns), *sorted(set(row) - set(rows[0]))]
    known = {*NUMBERS, *COUNTS, *FLAGS, "audit", "group", "image", "name", "position", "pattern", "method", "recovered"}
    unknown = [*sorted(columns - known), *sorted({field for one in rows for field in one} - set(row) - _NOT_COUNTED)]
    if not lacking and not unknown:
        return Check(name, True, "all are there")
    taken_out = [column for column in lacking if column in _RECORDED and column not in _SINCE]
    if taken_out and not is_before(folder.run(), HASHES):
        return Check(name, False, f"{', '.join(taken_out)} is in no row of the newest audit, and every version has it")
    parts = {"not recorded": lacking, "not known": unknown}
    return Check(name, None, "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names))


def _count_problems(folder: RunFolder) -> Iterator[str]:
    rows = {same[0]["audit"]: same for same in by_audit(folder.audits())}
    for number, images in groupby(folder.iterate_images(), key=lambda row: row["audit"]):
        cells = _cells(images)
        again = _again(rows[number], cells)
        lacking = {field for row in again.values() for field in row if not any(field in one for one in rows[number])}
        for row in rows[number]:
            key = _key(row)
            stated = {field: row[field] for field in again[key] if field in row}
            expected = {field: value for field, value in again[key].items() if field not in lacking}
            yield from (f"audit {number}, {problem}" for problem in differences(stated, expected, "/".join(key)))
            columns = _cell(key, row, cells.get(key, ()))
            for image, recovered in zip(cells.get(key, ()), is_recovered(columns, row["threshold_db"]), strict=True):
                if image["recovered"] != bool(recovered):
                    called = f"is called recovered={image['recovered']}"
                    yield f"audit {number}, {'/'.join(key)}: image {image['image']} {called}"


def same_losses(name: str, folder: RunFolder) -> Check:
    """The train loss of every audit is the mean squared error whose PSNR the members have one by one.

    Those that lack do not hide it: it is not below what the others make of it.
    """
    stated = {row["audit"]: row.get("train_loss") for row in folder.audits()}
    unknown = []
    for number, images in groupby(folder.iterate_images(), key=lambda row: row["audit"]):
        quality = {row["position"]: row.get("reconstruction_psnr") for row in images if row["group"] == "members"}
        known = np.array([value for value in quality.values() if value is not None], dtype=np.float64)
        least = float(np.sum(10 ** (-known[known >= _LOST_PSNR] / 10))) / max(len(quality), 1)
        loss = stated[number]
        if not len(known) or len(known) < len(quality) or known.min() < _LOST_PSNR:
            unknown.append(number)
            if loss is not None and loss < least * (1 - 1e-3) - _LEAST_ERROR:
                return Check(name, False, f"audit {number}: it is {loss}, some members alone make it {least:.6g}")
        elif loss is None or not np.isclose(loss, least, rtol=1e-3, atol=_LEAST_ERROR):
            return Check(name, False, f"audit {number}: it is {loss}, by the members' own reconstructions {least:.6g}")
    if unknown:
        return Check(name, None, f"audit {unknown[0]}: not every member has a reconstruction_psnr")
    return Check(name, True, f"those of {len(stated)} audits")


def _again(rows: Sequence[Row], cells: Mapping[Key, Sequence[Row]]) -> dict[Key, dict[str, Any]]:
    """The rows of one audit as they come out of its images, without what they only carry."""
    one = rows[0]
    occasion = Occasion(*(one.get(name) for name in ("audit", "trigger", "epoch", "step", "time")))  # type: ignore[arg-type]
    every = [_cell(_key(row), row, cells.get(_key(row), ())) for row in rows]
    again = audit_rows(every, occasion, one.get("train_loss"), one["threshold_db"])  # type: ignore[arg-type]
    return {_key(row): {field: value for field, value in row.items() if field not in _NOT_COUNTED} for row in again}


def _cell(key: Key, row: Row, images: Sequence[Row]) -> Cell:
    """The measurements of one cell from its images."""
    columns: dict[str, Any] = {
        "position": np.array([image["position"] for image in images], dtype=np.int64),
        "image": np.array([image["image"] for image in images], dtype=np.int64),
        "claims": np.full(len(images), row.get("num_certified") is not None),
    }
    for one in QUANTITIES:
        values = [image.get(one.name) for image in images]
        if one.kind is float:
            columns[one.name] = _numbers(values)
        else:
            columns[one.name] = np.array([one.kind(value or 0) for value in values], dtype=one.kind)
    missing = np.isnan(columns["score"])
    columns["score"] = np.where(missing & columns["diverged"], np.inf, columns["score"])  # JSON has no infinity
    return Cell(*key, columns, float(row.get("seconds") or 0.0))


def _numbers(values: Sequence[Any]) -> "np.ndarray[Any, Any]":
    """In single precision where they were measured in it, so that thresholds are met as they were then."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if np.array_equal(single, array, equal_nan=True) else array


def _key(row: Row) -> Key:
    return row["group"], row["pattern"], row["method"]


def _cells(images: Any) -> dict[Key, list[Row]]:
    cells: dict[Key, list[Row]] = {}
    for image in images:
        cells.setdefault(_key(image), []).append(image)
    return cells

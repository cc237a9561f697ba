"""Is a report true? Everything is computed again, from the saved recoveries up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_memaudit import __version__
from lightning_memaudit.report.checkpoint import read_checkpoint
from lightning_memaudit.report.document import SELF_HASH, build_document, check_schema, read_document, seal
from lightning_memaudit.report.labels import image_name, saved_names, shortened
from lightning_memaudit.results.hashes import combined_sha256, image_sha256, tensors_sha256
from lightning_memaudit.results.intervals import clopper_pearson
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.quantities import MAX_PSNR
from lightning_memaudit.results.run_folder import RunFolder

TOLERANCE_DB = 0.02
"""Between a PSNR in single precision, as measured, and in double precision, as computed here."""
_WORDS = ("headline", "why", "found", "certainty", "next_steps", "cautions")


@dataclass(frozen=True)
class Check:
    """One thing that was computed again.

    Attributes:
        name: What was checked.
        passed: Whether it came out as the report says; None where there was nothing to check it with.
        detail: How much was checked, or the first thing that differs.

    >>> import torch
    >>> from lightning_memaudit.measurement.engine import audit
    >>> from lightning_memaudit.report.document import write_document
    >>> folder = RunFolder("memaudit")
    >>> folder.write_run({})
    >>> audit(lambda images: images, torch.rand(4, 1, 8, 8), None, ["half"], ["biharmonic"]).append_to(folder)
    >>> path = write_document(folder, build_document(folder))
    >>> verify(folder)[0]
    Check(name='report.json is as it was written', passed=True, detail='its own hash')
    """

    name: str
    passed: bool | None
    detail: str


def verify(folder: RunFolder, checkpoint: Path | None = None, allow_types: Sequence[str] = ()) -> list[Check]:
    """Check the report of a run against its results, and those against the saved recoveries.

    It shows that the report follows from the recoveries that are in the folder. That these came out of the weights
    whose hash it names, only an audit of those weights can show.

    Args:
        folder: The results of the run.
        checkpoint: Of the audited weights, whose hash is then compared.
        allow_types: Types that may be in the checkpoint besides tensors and plain values.

    Raises:
        FileNotFoundError: There is no report, or no results.
        ValueError: One of them or the checkpoint cannot be read, or the report does not follow the schema.
    """
    document = read_document(folder)
    check_schema(document)
    rows = folder.audits()
    audit = int(document["judgement"]["audit"])
    images = folder.images(audit)
    return [
        _same_hash(document),
        _same_document(folder, document),
        _same_counts([row for row in rows if row["audit"] == audit], images),
        *_same_scores(folder, images, audit),
        _same_images(folder),
        *([] if checkpoint is None else [_same_weights(document, checkpoint, allow_types)]),
    ]


def is_true(checks: Sequence[Check]) -> bool:
    """Whether no check failed."""
    return all(check.passed is not False for check in checks)


def _same_hash(document: Mapping[str, Any]) -> Check:
    expected = seal(dict(document))[SELF_HASH]
    same = document[SELF_HASH] == expected
    return Check("report.json is as it was written", same, "its own hash" if same else f"hash is {expected}")


def _same_document(folder: RunFolder, document: Mapping[str, Any]) -> Check:
    name = "the report follows from the results files"
    try:
        again = build_document(folder)
    except (ValueError, FileNotFoundError) as error:
        return Check(name, False, str(error))
    if document["tool"]["version"] != __version__:
        again, document = _facts(again), _facts(document)
    different = next(_differences(document, again, ""), None)
    if different is None:
        return Check(name, True, f"{len(document['history'])} audits judged again")
    return Check(name, False, different)


def _facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without what another version may word differently."""
    facts = {key: value for key, value in document.items() if key not in ("tool", "limits", SELF_HASH)}
    facts["verdict"] = {key: value for key, value in document["verdict"].items() if key not in _WORDS}
    return facts


def _differences(one: Any, other: Any, place: str) -> Iterator[str]:
    """Where two JSON values differ; numbers may by the last digits that another library version rounds."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in one and key in other:
                yield from _differences(one[key], other[key], f"{place}/{key}" if place else str(key))
            elif key != SELF_HASH:
                yield f"{place}/{key} is in one of them only"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{place}/{index}")
    elif isinstance(one, float) and isinstance(other, float):
        if not np.isclose(one, other, rtol=1e-6, atol=1e-9):
            yield f"{place} is {one}, computed again {other}"
    elif one != other and not place.endswith(SELF_HASH):
        yield f"{place} is {_short(one)}, computed again {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _same_counts(rows: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> Check:
    """Every rate from the images that it counts."""
    name = "rates and intervals follow from the images"
    cells: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for image in images:
        cells.setdefault((image["group"], image["pattern"], image["method"]), []).append(image)
    for row in rows:
        key = (row["group"], row["pattern"], row["method"])
        cell = cells.get(key, [])
        answers = [image for image in cells.get((*key[:2], INPAINTER), []) if not image["failed"]]
        inpainted = {image["position"]: image["recovered"] for image in answers}
        threshold = row["threshold_db"]
        for image in cell:
            reaches = image["psnr"] is not None and image["psnr"] >= threshold
            if image["recovered"] != (reaches and not image["diverged"] and not image["failed"]):
                return Check(
                    name, False, f"{'/'.join(key)}: image {_called(image)} is called recovered={image['recovered']}"
                )
        count = sum(image["recovered"] for image in cell)
        low, high = clopper_pearson(count, len(cell))
        expected = {
            "num_images": len(cell),
            "num_recovered": count,
            "recovery_rate": count / len(cell) if cell else None,
            "ci_low": low,
            "ci_high": high,
            "num_beyond_inpainting": sum(
                image["recovered"] and not inpainted.get(image["position"], True) for image in cell
            )
            if inpainted
            else None,
        }
        stated = {field: row.get(field) for field in expected}
        different = next(_differences(stated, expected, "/".join(key)), None)
        if different:
            return Check(name, False, different)
    return Check(name, True, f"{len(rows)} rates over {len(images)} recoveries counted again")


def _same_scores(folder: RunFolder, images: Sequence[Mapping[str, Any]], audit: int) -> Iterator[Check]:
    """Every PSNR and mask accuracy from the arrays."""
    saved = folder.newest_recoveries()
    name = "recoveries score as the results say"
    if saved is None or saved.audit != audit:
        yield Check(name, None, "the newest audit saved no recoveries (save_recoveries: 0)")
        return
    arrays = saved.arrays
    table = {(row["group"], row["pattern"], row["method"], row["image"]): row for row in images}
    checked, wrong = 0, None
    for key, images_back in arrays.items():
        group, *rest = key.split("/")
        if len(rest) != 3 or rest[2] != "image":
            continue
        pattern, method, _ = rest
        truth, mask = arrays[f"{group}/truth"], arrays[f"{group}/{pattern}/mask"]
        quality, hidden = _psnr(images_back, truth, None), _psnr(images_back, truth, 1 - mask.astype(float))
        right = ((arrays[f"{group}/{pattern}/{method}/mask"] >= 0.5) == (mask >= 0.5)).mean((1, 2, 3))
        names = saved_names(arrays, group)
        for i, index in enumerate(arrays[f"{group}/indices"]):
            row = table.get((group, pattern, method, int(index)))
            if row is None:
                wrong = wrong or f"{key}: image {shortened(names[i])} is not in the results"
                continue
            recorded = arrays.get(f"{group}/names")
            # Numpy drops zeros at the end of a text.
            if recorded is not None and row.get("name") and row["name"].rstrip("\0") != str(recorded[i]):
                wrong = wrong or f"{key}: image {index} is {_called(row)}, in the arrays {shortened(names[i])}"
            if row["failed"]:
                continue
            checked += 1
            for field, value, tolerance in (
                ("psnr", quality[i], TOLERANCE_DB),
                ("hidden_psnr", hidden[i], TOLERANCE_DB),
                ("mask_accuracy", right[i], 1e-4),
            ):
                if row[field] is not None and not abs(row[field] - value) <= tolerance:
                    wrong = wrong or (
                        f"{group}/{pattern}/{method}: {field} of image {_called(row)} is {row[field]:.4f}, "
                        f"now {value:.4f}"
                    )
    yield Check(name, wrong is None, wrong or f"{checked} recoveries scored again")
    yield _same_observations(arrays, int((folder.run().get("settings") or {}).get("seed") or 0))


def _called(row: Mapping[str, Any]) -> str:
    return shortened(image_name(row))


def _same_observations(arrays: Mapping[str, "np.ndarray[Any, Any]"], seed: int) -> Check:
    """Masks and observations are those that pattern and seed make of the truth: none was easier than its name says."""
    import torch

    from lightning_memaudit.measurement.degradations import parse_degradation

    name = "patterns and seed make these masks and observations"
    checked = 0
    for key, observed in arrays.items():
        group, *rest = key.split("/")
        if len(rest) != 2 or rest[1] != "observed":
            continue
        truth = torch.from_numpy(arrays[f"{group}/truth"])
        degraded = parse_degradation(rest[0])(truth, range(len(truth)), seed)
        if not np.array_equal(degraded.mask.numpy() > 0, arrays[f"{group}/{rest[0]}/mask"] > 0):
            return Check(name, False, f"{group}/{rest[0]}: other pixels are missing")
        if not np.allclose(degraded.observed.numpy(), observed, atol=1e-5):
            return Check(name, False, f"{group}/{rest[0]}: other values were observed")
        checked += len(observed)
    return Check(name, True if checked else None, f"{checked} images degraded again")


def _same_images(folder: RunFolder) -> Check:
    """The saved truth is what run.json has the hash of."""
    name = "the saved images are those that were audited"
    run, saved = folder.run(), folder.newest_recoveries()
    arrays = saved.arrays if saved else {}
    checked = 0
    for group in ("members", "controls"):
        described = run.get(group) or {}
        truth = arrays.get(f"{group}/truth")
        if truth is None:
            continue
        whole = described.get("sha256") if described.get("num_images") == len(truth) else None
        expected = described.get("saved_sha256") or whole
        if expected is None:
            continue
        if combined_sha256([image_sha256(image) for image in truth]) != expected:
            return Check(name, False, f"{group}: the images do not have the hash in run.json")
        checked += len(truth)
    return Check(name, True if checked else None, f"{checked} images hashed again")


def _same_weights(document: Mapping[str, Any], checkpoint: Path, allow_types: Sequence[str]) -> Check:
    name = "the checkpoint holds the audited weights"
    expected = document["hashes"]["weights"]
    if expected is None:
        return Check(name, None, "the report has no hash of the weights")
    content = read_checkpoint(checkpoint, allow_types, "--ckpt_path")
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    found = tensors_sha256(state)
    return Check(name, found == expected, found if found == expected else f"they have the hash {found}, not {expected}")


def _psnr(images: Any, truth: Any, where: Any) -> Any:
    """Per image (n,), in dB, over the pixels where ``where`` is 1; as in measurement.metrics."""
    squared = (images.astype(np.float64) - truth) ** 2
    if where is None:
        error = squared.mean((1, 2, 3))
    else:
        weights = np.broadcast_to(where, squared.shape)
        with np.errstate(invalid="ignore"):
            error = (squared * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return -10 * np.log10(np.maximum(error, 10 ** (-MAX_PSNR / 10)))

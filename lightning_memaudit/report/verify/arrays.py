"""The saved arrays: what they score, whether they are all there, what they were made of."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from lightning_memaudit.report.verify import extraction
from lightning_memaudit.report.verify.check import Check, first
from lightning_memaudit.results.hashes import combined_sha256, image_sha256
from lightning_memaudit.results.run_folder import Arrays, RunFolder, SavedRecoveries

Row = Mapping[str, Any]
TOLERANCES = {"psnr": 2e-3, "hidden_psnr": 2e-3, "ssim": 1e-2, "mask_accuracy": 1e-4}
"""Between what was measured, on whatever device, and what is computed here; 1e-3 of a metric that is not named."""
GROUPS = ("members", "controls")
_TRACES = ("trace_iterations", "trace_image", "trace_mask")
_KINDS = {
    **dict.fromkeys(("truth", "observed", "image", "trace_image", "trace_mask"), "f"),
    **dict.fromkeys(("indices", "trace_iterations"), "i"),
    "mask": "u",
    "names": "U",
}
"""Of numpy's types: real numbers, whole ones, those without a sign, text."""
_ESTIMATED = "fbu"


def same_arrays(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Every row up to ``save_recoveries`` has its array, and every array its row."""
    newest = folder.audits()[-1]["audit"]
    wanted = (folder.run().get("settings") or {}).get("save_recoveries")
    if saved is None or saved.audit != newest:
        there = "none" if saved is None else f"those of audit {saved.audit} only"
        if wanted:
            return Check(name, False, f"there are {there}, though audit {newest} was to save {wanted} of each group")
        return Check(name, None, f"the newest audit saved no recoveries (save_recoveries: 0), there are {there}")
    shape = folder.run().get("image_shape")
    images = folder.images(saved.audit)
    problems = chain(_kind_problems(saved.arrays), _array_problems(images, saved.arrays, wanted, shape))
    return first(name, problems, f"{len(saved.arrays)} arrays")


def _kind_problems(arrays: Arrays) -> Iterator[str]:
    """Types and shapes that are not those of the arrays which an audit saves, all else apart."""
    for key, array in arrays.items():
        group, what = key.partition("/")[0], key.rpartition("/")[2]
        is_estimate = what == "mask" and key.count("/") == 3
        kinds = _ESTIMATED if is_estimate else _KINDS.get(what)
        truth = arrays.get(f"{group}/truth")
        if kinds is None or truth is None:
            continue  # it belongs to no row, or its truth is found missing
        if array.dtype.kind not in kinds or (what != "names" and array.dtype.itemsize > 8):
            yield f"{key} holds values of type {array.dtype}"
        number, *rest = truth.shape
        shapes: dict[str, list[tuple[int, ...]]] = {
            "indices": [(number,)],
            "names": [(number,)],
            "mask": [truth.shape, (number, 1, *rest[1:])],
            "trace_iterations": [(number, *array.shape[1:2])],
            "trace_image": [(number, *array.shape[1:2], *rest)],
            "trace_mask": [(number, *array.shape[1:2], channels, *rest[1:]) for channels in (1, *rest[:1])],
        }
        if array.shape not in shapes.get(what, [truth.shape]):
            yield f"{key} has the shape {array.shape}, the images {truth.shape}"


def _array_problems(images: Sequence[Row], arrays: Arrays, wanted: Any, shape: Any) -> Iterator[str]:
    most = max((len(array) for array in arrays.values()), default=0)
    number = most if wanted is None else wanted
    if most != min(number, max((image["position"] + 1 for image in images), default=0)):
        yield f"there are {most} of each group, though {number} were to be saved"
    expected: set[str] = set()
    for group in GROUPS:
        rows = [image for image in images if image["group"] == group and image["position"] < number]
        places = {row["position"]: row for row in rows}
        if not places:
            continue
        order = [places[position] for position in sorted(places)]
        cells = dict.fromkeys((row["pattern"], row["method"]) for row in rows)
        keys = [f"{group}/truth", f"{group}/indices"]
        keys += [f"{group}/{pattern}/{what}" for pattern, _ in cells for what in ("observed", "mask")]
        keys += [f"{group}/{pattern}/{method}/{what}" for pattern, method in cells for what in ("image", "mask")]
        for key in keys:
            if key not in arrays:
                yield f"{key} is not there"
            elif len(arrays[key]) != len(order):
                yield f"{key} holds {len(arrays[key])} images, the results {len(order)}"
        truth = arrays[f"{group}/truth"]
        if not 3 <= truth.ndim <= 5 or (shape is not None and list(truth.shape[1:]) != list(shape)):
            yield f"{group}/truth has the shape {truth.shape}, the images {shape}"
        if not (np.isfinite(truth).all() and truth.min() > -1e-3 and truth.max() < 1 + 1e-3):
            yield f"{group}/truth is not in [0, 1]"
        if [int(index) for index in arrays[f"{group}/indices"]] != [row["image"] for row in order]:
            yield f"{group}/indices are not the images of the results"
        names: Any = arrays.get(f"{group}/names")
        if names is None and any("name" in row for row in order):
            yield f"{group}/names is not there, though the images of the results have names"
        elif names is not None:
            for row, name in zip(order, names, strict=False):
                if _text(row.get("name")) != _text(name):
                    yield f"{group}: image {row['image']} is {row.get('name')}, in the arrays {name}"
        expected |= {*keys, f"{group}/names"}
        expected |= {f"{group}/{pattern}/{method}/{trace}" for pattern, method in cells for trace in _TRACES}
    strange = next((key for key in arrays if key not in {*expected, *extraction.ARRAYS}), None)
    if strange is not None:
        yield f"{strange} belongs to no row of the results"


def _text(name: Any) -> str:
    return str(name).rstrip("\0")  # numpy drops them at the end


def same_scores(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Every measurement of what came back from the arrays, and whether it failed or diverged."""
    if saved is None:
        return Check(name, None, "no recoveries were saved")
    left_out = left_out_scores(folder)
    cells: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in folder.iterate_images(saved.audit):
        cells.setdefault((row["group"], row["pattern"], row["method"]), {})[row["position"]] = row
    checked = 0
    for (group, pattern, method), rows in cells.items():
        prefix = f"{group}/{pattern}/{method}"
        if f"{prefix}/image" not in saved.arrays:
            continue
        again = _measured(saved.arrays, group, pattern, method)
        for position in range(len(saved.arrays[f"{prefix}/image"])):
            problem = next(_score_problems(rows[position], again, position, left_out), None)
            if problem:
                return Check(name, False, f"{prefix}: image {rows[position]['image']} {problem}")
            checked += 1
    return Check(name, True if checked else None, f"{checked} recoveries scored again")


def left_out_scores(folder: RunFolder) -> tuple[str, ...]:
    """What is not compared: convolutions on other devices round so much that the similarity of flat images is none."""
    device = (folder.run().get("machine") or {}).get("device")
    return () if device in (None, "cpu") else ("ssim",)


def computed_again() -> set[str]:
    """Columns of ``images.jsonl`` that arrays are enough for."""
    from lightning_memaudit.measurement.appearance import APPEARANCE
    from lightning_memaudit.measurement.metrics import METRICS

    return {*METRICS, *APPEARANCE, "baseline_psnr", "recovery_gain", "repeated", "failed", "diverged"}


def _measured(arrays: Arrays, group: str, pattern: str, method: str) -> dict[str, Any]:
    """By name, (k,) each: every metric of the package, and what arrays tell of the recovery's fate."""
    import torch

    from lightning_memaudit.measurement.appearance import APPEARANCE
    from lightning_memaudit.measurement.metrics import METRICS
    from lightning_memaudit.recovery import Recovery

    kept = arrays[f"{group}/{pattern}/{method}/image"]
    image, estimate = kept.astype(np.float32), arrays[f"{group}/{pattern}/{method}/mask"].astype(np.float32)
    truth, mask = arrays[f"{group}/truth"], arrays[f"{group}/{pattern}/mask"]
    observed = arrays[f"{group}/{pattern}/observed"].astype(kept.dtype)  # recoveries of volumes are kept at 16 bits
    nothing = torch.zeros(len(image))
    recovery = Recovery(
        torch.from_numpy(image), torch.from_numpy(estimate), nothing, certified=nothing > 0, num_evaluations=nothing
    )
    given = torch.from_numpy(truth.astype(np.float32)), torch.from_numpy(mask.astype(np.float32))
    found = {name: metric(recovery, *given).double().numpy() for name, metric in METRICS.items()}
    found |= {name: metric(given[0]).double().numpy() for name, metric in APPEARANCE.items()}
    axes = tuple(range(1, image.ndim))
    lost = np.isnan(image).all(axes) & np.isnan(estimate).all(axes)
    constant = (np.abs(estimate - 1) < 1e-6).all(axes) | np.isclose(estimate, mask, atol=1e-6).all(axes)
    return found | {
        "lost": lost,
        "as_observed": np.isclose(image, observed, atol=1e-6).all(axes),
        "estimates": not (constant | lost).all(),
    }


def _score_problems(row: Row, again: Mapping[str, Any], position: int, left_out: Sequence[str]) -> Iterator[str]:
    if bool(row.get("failed")) != bool(again["lost"][position]):
        yield f"is called failed={row.get('failed')}, and its array says otherwise"
    if row.get("failed"):
        return
    if row.get("diverged") and not again["as_observed"][position]:
        yield "is called diverged, and something came back"
    for name, values in again.items():
        if name in ("lost", "as_observed", "estimates") or name in left_out or name not in row:
            continue
        value, stated = float(values[position]), row[name]
        if stated is None:
            if np.isfinite(value) and (name != "mask_accuracy" or again["estimates"]):
                yield f"has no {name}, now {value:.4f}"
        elif not abs(stated - value) <= TOLERANCES.get(name, 1e-3):
            yield f"has {name} {stated:.4f}, now {value:.4f}"


def same_observations(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Masks and observations are those that pattern and seed make of the truth: none was easier than its name says."""
    import torch

    from lightning_memaudit.measurement.degradations import parse_degradation

    arrays = saved.arrays if saved else {}
    seed = int((folder.run().get("settings") or {}).get("seed") or 0)
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


def same_images(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """The saved truth is what ``run.json`` has the hash of."""
    run, arrays = folder.run(), saved.arrays if saved else {}
    checked, unknown = 0, []
    for group in GROUPS:
        truth = arrays.get(f"{group}/truth")
        if truth is None:
            continue
        described = run.get(group) or {}
        whole = described.get("sha256") if described.get("num_images") == len(truth) else None
        expected = described.get("saved_sha256") or whole
        if expected is None:
            unknown.append(group)
            continue
        found = combined_sha256([image_sha256(image) for image in truth])
        if found != expected or (whole is not None and found != whole):
            return Check(name, False, f"{group}: the images do not have the hash in run.json")
        checked += len(truth)
    if unknown:
        return Check(name, None, f"run.json has no hash of the saved {' and '.join(unknown)}")
    return Check(name, True if checked else None, f"{checked} images hashed again")


def same_duplicates(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """The near-duplicates that ``run.json`` names; where not all images were saved, those among these."""
    import torch

    from lightning_memaudit.measurement.near_duplicates import CONTRAST_DB, NEAR_DUPLICATE_PSNR, near_duplicates

    stated, arrays = folder.run().get("near_duplicates"), saved.arrays if saved else {}
    measure = {"psnr_db": NEAR_DUPLICATE_PSNR, "contrast_db": CONTRAST_DB}
    if not isinstance(stated, Mapping) or {key: stated.get(key) for key in measure} != measure:
        return Check(name, None, "run.json names none, or by another measure")
    rows = folder.audits()
    counts = {row["group"]: row["num_images"] for row in rows if row["audit"] == rows[-1]["audit"]}
    truths = {group: torch.from_numpy(arrays[f"{group}/truth"]) for group in counts if f"{group}/truth" in arrays}
    if "members" not in truths:
        return Check(name, None, "no images were saved")
    whole = all(len(truths.get(group, ())) == number for group, number in counts.items())
    for group, images in truths.items():
        near = near_duplicates(images) if group == "members" else near_duplicates(images, truths["members"])
        found = near.nonzero().flatten().tolist()
        if stated.get(group) != found if whole else not set(found) <= set(stated.get(group) or ()):
            return Check(name, False, f"{group}: run.json names {stated.get(group)}, now {found}")
    number = sum(map(len, truths.values()))
    return Check(
        name, True if whole else None, f"those of {number} images compared again{'' if whole else ', as saved'}"
    )

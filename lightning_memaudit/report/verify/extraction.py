"""What came out of the weights by itself: the saved pictures show what is said of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lightning_memaudit.report.verify.check import Check, first
from lightning_memaudit.results.run_folder import AUDITS, Arrays, RunFolder, SavedRecoveries
from lightning_memaudit.results.unseen import chao

ARRAYS = ("extraction/truth", "extraction/image")
TOLERANCE_DB = 0.01


def same_extraction(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Every saved fixed point is as near to its image as the results say, and the image is the audited one."""
    rows = folder.audits()
    rows = [row for row in rows if row["audit"] == rows[-1]["audit"]]
    told = [row["extraction"] for row in rows if row.get("extraction")]
    arrays = saved.arrays if saved is not None and saved.audit == rows[0]["audit"] else {}
    count = len(arrays.get(ARRAYS[1], ()))
    if not told:
        return Check(name, False if count else None, f"{AUDITS} says nothing of it, and {count} pictures were saved")
    if len(told) != len(rows) or any(one != told[0] for one in told):
        return Check(name, False, "it differs within the audit")
    summary, listed = told[0], told[0]["images"]
    wanted = (folder.run().get("settings") or {}).get("save_recoveries")
    problem = next(_told_problems(summary, listed, rows), None)
    if problem is None and wanted is not None and count < min(len(listed), wanted):
        problem = f"{count} pictures of it were saved, though {min(len(listed), wanted)} were to be"
    if problem is not None:
        return Check(name, False, problem)
    check = first(name, _problems(arrays, listed, summary["threshold_db"]), f"{count} of {len(listed)} compared again")
    if check.passed and count < len(listed):
        return Check(f"{len(listed) - count} of {len(listed)} images that came out by themselves", None, "not saved")
    return check


def _told_problems(summary: Any, listed: Any, rows: Sequence[Any]) -> Iterator[str]:
    """What in the summary is not what the images that are listed and the groups make it."""
    for group, number in (("members", "num_members"), ("controls", "num_controls")):
        sizes = {row["num_images"] for row in rows if row["group"] == group} or {None}
        if sizes != {summary[number]}:
            yield f"it is of {summary[number]} {group}, and {AUDITS} has {', '.join(map(str, sizes))}"
    if any(summary["threshold_db"] != row["threshold_db"] for row in rows):
        yield f"an image came out at {summary['threshold_db']} dB, and is recovered at {rows[0]['threshold_db']}"
    places = [(one["group"], one["position"]) for one in listed]
    if len(set(places)) < len(places):
        yield "an image is listed twice"
    if len(listed) < 1000:
        members = sum(one["group"] == "members" for one in listed)
        if (members, len(listed) - members) != (summary["num_extracted"], summary["num_controls_extracted"] or 0):
            yield f"{members} members are listed, and {summary['num_extracted']} are said to come out"
        wrong = _wrong_summary(summary, listed)
        if wrong:
            yield f"by the starts that ended at each image {', '.join(wrong)} would be another"


def _wrong_summary(summary: Any, listed: Any) -> list[str]:
    """Numbers of the summary that do not follow from the basins of the images that are listed."""
    basins = [one["basin"] for one in listed if one["group"] == "members"]
    unseen = chao(basins, at_most=max(0, summary["num_members"] - len(basins)))
    again = {
        "num_hits": sum(basins),
        "unseen": unseen.value,
        "unseen_low": unseen.low,
        "unseen_high": unseen.high,
    }
    return [key for key, value in again.items() if key in summary and abs(summary[key] - value) > 1e-6 * (1 + value)]


def _problems(arrays: Arrays, listed: Any, threshold_db: float) -> Iterator[str]:
    truths, points = (np.asarray(arrays.get(name, np.zeros(0)), dtype=np.float64) for name in ARRAYS)
    if truths.shape != points.shape or len(truths) > len(listed):
        yield f"there are {len(truths)} images and {len(points)} that came out, of {len(listed)} listed"
        return
    for row, truth, point in zip(listed, truths, points, strict=False):
        psnr = min(120.0, -10 * float(np.log10(max(np.square(truth - point).mean(), 1e-12))))
        if abs(psnr - row["psnr"]) > TOLERANCE_DB or psnr < threshold_db - TOLERANCE_DB:
            yield f"{row['group']} {row['image']} came out at {row['psnr']:.2f} dB, now {psnr:.2f}"
        audited = arrays.get(f"{row['group']}/truth", ())
        if row["position"] < len(audited) and not np.array_equal(audited[row["position"]], truth.astype(np.float32)):
            yield f"{row['group']} {row['image']} is another image than the audited one"

"""What came out of the weights by itself: the saved pictures show what is said of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lightning_memaudit.report.verify.check import Check, first
from lightning_memaudit.results.run_folder import Arrays, RunFolder, SavedRecoveries
from lightning_memaudit.results.unseen import chao

ARRAYS = ("extraction/truth", "extraction/image")
TOLERANCE_DB = 0.01


def same_extraction(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Every saved fixed point is as near to its image as the results say, and the image is the audited one."""
    rows = folder.audits()
    told = [row["extraction"] for row in rows if row["audit"] == rows[-1]["audit"] and row.get("extraction")]
    if not told:
        return Check(name, None, "it was not looked for")
    if any(one != told[0] for one in told):
        return Check(name, False, "it differs within the audit")
    summary, listed = told[0], told[0]["images"]
    members = sum(one["group"] == "members" for one in listed)
    if len(listed) < 1000 and (members, len(listed) - members) != (
        summary["num_extracted"],
        summary["num_controls_extracted"] or 0,
    ):
        return Check(name, False, f"{members} members are listed, and {summary['num_extracted']} are said to come out")
    if len(listed) < 1000 and (wrong := _wrong_summary(summary, listed)):
        return Check(name, False, f"by the starts that ended at each image {', '.join(wrong)} would be another")
    arrays = saved.arrays if saved else {}
    count = len(arrays.get(ARRAYS[1], ()))
    return first(name, _problems(arrays, listed, summary["threshold_db"]), f"{count} of {len(listed)} compared again")


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

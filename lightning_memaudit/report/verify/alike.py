"""Whether members and controls are alike by all that is measured today, though the results may not have it."""

from typing import Any

from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.results.comparability import APPEARANCE, PREPARED_OTHERWISE, compare_groups
from lightning_memaudit.results.judgement import GROUPS
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries

HANGS = "The report hangs on controls that are other images than the members, by what was not recorded: audit again."


def same_kind(name: str, folder: RunFolder, saved: SavedRecoveries | None, document: dict[str, Any]) -> Check:
    """What an image looks like takes the image alone: what the results lack is measured of the saved ones.

    A verdict for or against memory takes controls like the members. Whoever leaves a column out, or says that an
    earlier version wrote the results, does not make them so.
    """
    rows = folder.audits()
    newest = rows[-1]["audit"]
    columns = {column for row in folder.iterate_images(newest) for column in row}
    lacking = [column for column in APPEARANCE if column not in columns]
    arrays = saved.arrays if saved is not None and saved.audit == newest else {}
    unknown = ", ".join([*lacking, "neighbouring pixels by their places"])
    if not {row["group"] for row in rows if row["audit"] == newest}.issuperset(GROUPS):
        return Check(name, True, "there are no controls")
    if any(f"{group}/truth" not in arrays for group in GROUPS):
        return Check(name, None, f"no images of both groups were saved to measure {unknown}")
    import torch

    from lightning_memaudit.measurement.appearance import APPEARANCE as measures
    from lightning_memaudit.measurement.preparation import prepared_otherwise

    truths = [torch.from_numpy(arrays[f"{group}/truth"]) for group in GROUPS]
    again = [(row["group"], row["position"]) for row in folder.iterate_images(newest) if row.get("repeated")]
    repeated = {group: sorted({position for one, position in again if one == group}) for group in GROUPS}
    counted = [
        images[[position for position in range(len(images)) if position not in set(repeated[group])]]
        for group, images in zip(GROUPS, truths, strict=True)
    ]
    number = sum(map(len, counted))
    looks = {column: (measures[column](counted[0]), measures[column](counted[1])) for column in APPEARANCE}
    told = [str(one) for one in compare_groups(looks) if one.name in lacking]
    stated = {doubt.get("code") for row in rows if row["audit"] == newest for doubt in row.get("doubts") or ()}
    if PREPARED_OTHERWISE not in stated and prepared_otherwise(truths[0], truths[1], repeated):
        told.append("neighbouring pixels at some places")
    if not told:
        return Check(name, True, f"{unknown} of {number} images measured")
    detail = f"the saved ones differ clearly in {', '.join(told)}, which the results do not have"
    if document["verdict"]["outcome"] == "inconclusive":
        return Check(name, None, f"{detail}; nothing was concluded")
    return Check(name, False, detail, HANGS)

"""Whether members and controls are alike by all that is measured today, though the results may not have it."""

from typing import Any

from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.results.comparability import APPEARANCE, compare_groups
from lightning_memaudit.results.judgement import GROUPS
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries

HANGS = "The report hangs on controls that are other images than the members, by what was not recorded: audit again."


def same_kind(name: str, folder: RunFolder, saved: SavedRecoveries | None, document: dict[str, Any]) -> Check:
    """What an image looks like takes the image alone: what the results lack is measured of the saved ones.

    A verdict for or against memory takes controls like the members. Whoever leaves a column out, or says that an
    earlier version wrote the results, does not make them so.
    """
    newest = folder.audits()[-1]["audit"]
    columns = {column for row in folder.iterate_images(newest) for column in row}
    lacking = [column for column in APPEARANCE if column not in columns]
    if not lacking:
        return Check(name, True, "all that is measured today is in the results")
    arrays = saved.arrays if saved is not None and saved.audit == newest else {}
    if any(f"{group}/truth" not in arrays for group in GROUPS):
        return Check(name, None, f"no images of both groups were saved to measure {', '.join(lacking)} of them")
    import torch

    from lightning_memaudit.measurement.appearance import APPEARANCE as measures

    repeated = {(row["group"], row["position"]) for row in folder.iterate_images(newest) if row.get("repeated")}
    counted = {
        group: torch.from_numpy(arrays[f"{group}/truth"])[
            [(group, position) not in repeated for position in range(len(arrays[f"{group}/truth"]))]
        ]
        for group in GROUPS
    }
    found = compare_groups(
        {column: (measures[column](counted["members"]), measures[column](counted["controls"])) for column in APPEARANCE}
    )
    number = sum(map(len, counted.values()))
    told = [one for one in found if one.name in lacking]
    if not told:
        return Check(name, True, f"{', '.join(lacking)} of {number} images measured")
    detail = f"the saved ones differ clearly in {', '.join(map(str, told))}, which the results do not have"
    if document["verdict"]["outcome"] == "inconclusive":
        return Check(name, None, f"{detail}; nothing was concluded")
    return Check(name, False, detail, HANGS)

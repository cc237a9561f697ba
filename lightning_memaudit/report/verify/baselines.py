"""What anyone could have filled in, computed again: the recovery gain, and so the verdict, hangs on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.run_folder import Arrays, RunFolder, SavedRecoveries

TOLERANCE_DB = 0.05
"""A search without the autoencoder may end elsewhere on another machine, by this much."""


def same_baselines(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """The best filling without the autoencoder, for every saved image and pattern.

    Where the audited method is not one of the package's as it comes, ``run.json`` cannot make it: then only the other
    fillings are computed again, and no baseline may be below them.
    """
    from lightning_memaudit.measurement.baselines import method_as_it_comes

    if saved is None:
        return Check(name, None, "no recoveries were saved")
    settings = folder.run().get("settings") or {}
    primary = str(settings.get("primary_method"))
    method = method_as_it_comes(primary, (settings.get("method_settings") or {}).get(primary))
    known = method is not None
    rows = {
        (row["group"], row["pattern"], row["position"], row["method"]): row
        for row in folder.iterate_images(saved.audit)
        if row["method"] in (primary, INPAINTER)
    }
    if not any("baseline_psnr" in row for row in rows.values()):
        return Check(name, None, "the run did not record them")
    checked = 0
    for key in saved.arrays:
        group, pattern, *what = key.split("/")
        if what != ["observed"]:
            continue
        again = _baselines(saved.arrays, group, pattern, method)
        for position, value in enumerate(again):
            row = rows[group, pattern, position, primary]
            if row["failed"] or rows.get((group, pattern, position, INPAINTER), {}).get("failed"):
                continue  # the baseline of its whole block is not known then
            stated = row.get("baseline_psnr")
            if stated is None:
                wrong = known and not np.isnan(value)
            else:
                wrong = not stated > value - TOLERANCE_DB or (known and not stated < value + TOLERANCE_DB)
            if wrong:
                problem = f"image {row['image']} has baseline_psnr {stated}, now {value:.4f}"
                return Check(name, False, f"{group}/{pattern}: {problem}")
            checked += 1
    if not known:
        return Check(name, None, f"{primary} is not the package's {primary} as it comes; none is below the others")
    return Check(name, True if checked else None, f"{checked} images filled in again")


def _baselines(arrays: Arrays, group: str, pattern: str, method: Any) -> "np.ndarray[Any, Any]":
    import torch

    from lightning_memaudit.measurement.baselines import baselines_again
    from lightning_memaudit.measurement.degradations import Degraded
    from lightning_memaudit.recovery import Recovery

    tensors: Mapping[str, torch.Tensor] = {
        what: torch.from_numpy(arrays[f"{group}/{pattern}/{what}"]).float() for what in ("observed", "mask")
    }
    filled = arrays.get(f"{group}/{pattern}/{INPAINTER}/image")
    inpainted = None
    if filled is not None:
        nothing = torch.zeros(len(filled))
        inpainted = Recovery(torch.from_numpy(filled), tensors["mask"], nothing, nothing > 0, nothing)
    degraded = Degraded(tensors["observed"], tensors["mask"])
    truth = torch.from_numpy(arrays[f"{group}/truth"])
    return baselines_again(degraded, truth, inpainted, method).double().numpy()

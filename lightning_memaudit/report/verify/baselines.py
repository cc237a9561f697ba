"""What anyone could have filled in, computed again: the recovery gain, and so the verdict, hangs on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.run_folder import RUN, Arrays, RunFolder, SavedRecoveries

TOLERANCE_DB = 0.05
"""A search without the autoencoder may end elsewhere on another machine, by this much."""


def same_inpainting(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """What the inpainter, which owes nothing to the autoencoder, makes of every saved observation."""
    from lightning_memaudit.measurement.baselines import inpainted_again, method_as_it_comes
    from lightning_memaudit.measurement.metrics import hidden_psnr

    if saved is None:
        return Check(name, None, "no recoveries were saved")
    settings = folder.run().get("settings") or {}
    described = (settings.get("method_settings") or {}).get(INPAINTER)
    if described is None:
        return Check(name, None, f"{RUN} does not say how {INPAINTER} was made")
    if method_as_it_comes(INPAINTER, described) is None:
        return Check(f"what {INPAINTER} fills in, said not to be the package's", None, f"{RUN} names {described[:60]}")
    rows = _rows(folder, saved, INPAINTER)
    checked, failed = 0, 0
    for group, pattern in _observed(saved.arrays):
        filled = saved.arrays.get(f"{group}/{pattern}/{INPAINTER}/image")
        if filled is None:
            continue  # it does not run on this pattern, or is found missing by another check
        degraded, truth = _degraded(saved.arrays, group, pattern)
        again = inpainted_again(degraded).image
        quality = hidden_psnr(again, truth, degraded.mask).double().numpy()
        for position, image in enumerate(filled):
            row = rows[group, pattern, position]
            if row["failed"]:
                failed += 1
                continue
            same = np.allclose(image, again[position].numpy(), atol=1e-3)
            if not same and not abs(row["hidden_psnr"] - quality[position]) < TOLERANCE_DB:
                problem = f"image {row['image']} has hidden_psnr {row['hidden_psnr']}, now {quality[position]:.4f}"
                return Check(name, False, f"{group}/{pattern}/{INPAINTER}: {problem}")
            checked += 1
    if failed:
        return Check(name, None, f"{INPAINTER} is said to have failed on {failed}, which no array can show")
    return Check(name, True if checked else None, f"{checked} images inpainted again")


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
    rows, inpainted = _rows(folder, saved, primary), _rows(folder, saved, INPAINTER)
    if not any("baseline_psnr" in row for row in rows.values()):
        return Check(name, None, "the run did not record them")
    checked = 0
    for group, pattern in _observed(saved.arrays):
        if (group, pattern, 0) not in rows:
            continue  # a pattern that the audited method is not for
        for position, value in enumerate(_baselines(saved.arrays, group, pattern, method)):
            row = rows[group, pattern, position]
            if row["failed"] or inpainted.get((group, pattern, position), {}).get("failed"):
                continue  # the baseline of its whole block is not known then
            if _is_wrong(row.get("baseline_psnr"), value, method is not None):
                problem = f"image {row['image']} has baseline_psnr {row.get('baseline_psnr')}, now {value:.4f}"
                return Check(name, False, f"{group}/{pattern}: {problem}")
            checked += 1
    if method is None:
        return Check(name, None, f"{primary} is not the package's {primary} as it comes; none is below the others")
    return Check(name, True if checked else None, f"{checked} images filled in again")


def _is_wrong(stated: float | None, value: float, known: bool) -> bool:
    """Whether a baseline is not what it is now, or below the fillings that are known."""
    if stated is None:
        return known and not np.isnan(value)
    return not stated > value - TOLERANCE_DB or (known and not stated < value + TOLERANCE_DB)


def _rows(folder: RunFolder, saved: SavedRecoveries, method: str) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Of one method, by group, pattern and position."""
    rows = folder.iterate_images(saved.audit)
    return {(row["group"], row["pattern"], row["position"]): row for row in rows if row["method"] == method}


def _observed(arrays: Arrays) -> list[tuple[str, str]]:
    """Groups and patterns of the saved observations."""
    keys = [key.split("/") for key in arrays]
    return [(key[0], key[1]) for key in keys if key[2:] == ["observed"]]


def _degraded(arrays: Arrays, group: str, pattern: str) -> Any:
    """Observations with their masks, and the truth."""
    import torch

    from lightning_memaudit.measurement.degradations import Degraded

    observed, mask = (torch.from_numpy(arrays[f"{group}/{pattern}/{what}"]).float() for what in ("observed", "mask"))
    return Degraded(observed, mask), torch.from_numpy(arrays[f"{group}/truth"])


def _baselines(arrays: Arrays, group: str, pattern: str, method: Any) -> "np.ndarray[Any, Any]":
    import torch

    from lightning_memaudit.measurement.baselines import baselines_again
    from lightning_memaudit.recovery import Recovery

    degraded, truth = _degraded(arrays, group, pattern)
    filled = arrays.get(f"{group}/{pattern}/{INPAINTER}/image")
    inpainted = None
    if filled is not None:
        nothing = torch.zeros(len(filled))
        inpainted = Recovery(torch.from_numpy(filled).float(), degraded.mask, nothing, nothing > 0, nothing)
    return baselines_again(degraded, truth, inpainted, method).double().numpy()

"""Makes run folders as an audited training leaves them: real pictures, invented recoveries, honest numbers.

Which images count as recovered is drawn at random; every number that can be computed from the arrays is.
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from scipy.stats import beta

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.metrics import ssim
from lightning_memaudit.measurement.near_duplicates import near_duplicates
from lightning_memaudit.results.hashes import combined_sha256, image_sha256
from lightning_memaudit.results.run_folder import RunFolder

PATTERNS = ("random-0.5", "block-0.25")
METHODS = ("blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic")
TRAIN_LOSSES = (3e-2, 1e-2, 1e-3, 1e-4, 1e-5)
THRESHOLD_DB = 30.0

# Share of members that each method gets back once the training loss is small.
SKILL = {
    "blind": 0.95,
    "paper_blind": 0.75,
    "known_mask": 0.97,
    "autoencoder_iterations": 0.12,
    "biharmonic": 0.15,
    "ddnm": 0.2,
}


def make_run_folder(
    path: Path,
    *,
    patterns=PATTERNS,
    methods=METHODS,
    train_losses=TRAIN_LOSSES,
    num_images=20,
    num_controls=20,
    color=False,
    seed=0,
    memorizes=True,
    identity=False,
    untrained=False,
    network="FullyConnectedAutoencoder",
    hyperparameters=None,
):
    """Write a run folder below ``path`` and return its :class:`RunFolder`.

    ``memorizes=False`` is a model from which only the inpainter gets anything back; ``identity=True`` one that also
    reproduces images it has never seen; ``untrained=True`` adds an audit of epoch 0 before the others.
    """
    rng = np.random.default_rng(seed)
    folder = RunFolder(Path(path) / "memaudit")
    groups = {"members": pictures(num_images, color, 0)}
    if num_controls:
        groups["controls"] = pictures(num_controls, color, num_images)
    folder.write_run(
        run_json(groups, patterns, methods, network, hyperparameters or {"num_layers": 6, "activation": "elu"})
    )
    difficulty = {name: rng.random((len(images), len(patterns), len(methods))) for name, images in groups.items()}
    inpainted = {}
    train_losses = [0.25, *train_losses] if untrained else list(train_losses)
    for audit, train_loss in enumerate(train_losses):
        readiness = np.clip((np.log10(train_losses[0]) - np.log10(train_loss)) / 3, 0, 1) if memorizes else 0
        if len(train_losses) == 1 and memorizes:
            readiness = 1
        cells, arrays = [], {}
        for group, images in groups.items():
            arrays[f"{group}/indices"] = np.arange(len(images))
            arrays[f"{group}/truth"] = images
            noise = rng.standard_normal(images.shape)
            own = images + noise * np.sqrt(train_loss / np.square(noise).mean())
            if group == "controls" and not identity:
                own = np.clip(images + 0.2 * rng.standard_normal(images.shape), 0, 1).astype(np.float32)
            for p, pattern in enumerate(patterns):
                degraded = parse_degradation(pattern)(torch.from_numpy(images), range(len(images)), 0)
                mask = degraded.mask.numpy()
                arrays[f"{group}/{pattern}/observed"] = degraded.observed.numpy()
                arrays[f"{group}/{pattern}/mask"] = mask.astype(np.uint8)
                for m, method in enumerate(methods):
                    skill = SKILL[method] * (readiness if method != "biharmonic" else 1)
                    wins = difficulty[group][:, p, m] < skill
                    if group == "controls" and method != "biharmonic":
                        wins[:] = False
                    sigma = np.where(wins, rng.uniform(0.006, 0.028, len(images)), rng.uniform(0.08, 0.25, len(images)))
                    noise = rng.standard_normal(images.shape) * sigma[:, None, None, None]
                    recovered = np.clip(images + noise, 0, 1).astype(np.float32)
                    if method == "biharmonic":
                        recovered = inpainted.setdefault((group, pattern), recovered)
                    estimate = mask.copy()
                    if method in ("blind", "paper_blind"):
                        estimate = np.clip(mask + (rng.random(mask.shape) < 0.03) * (1 - 2 * mask), 0, 1)
                    if group == "controls" and method == "blind":
                        recovered[0] = degraded.observed[0]  # diverged, see below
                    arrays[f"{group}/{pattern}/{method}/image"] = recovered
                    arrays[f"{group}/{pattern}/{method}/mask"] = estimate.astype(np.float32)
                    cells.append(measured(group, pattern, method, images, mask, recovered, estimate, own, rng))
        occasion = {
            "audit": audit,
            "trigger": "epoch 0"
            if untrained and audit == 0
            else "fit_end"
            if audit == len(train_losses) - 1
            else f"train_loss<={train_loss:g}",
            "epoch": 100 * (audit + (not untrained)),
            "step": 100 * (audit + (not untrained)),
            "time": f"2025-01-01T00:0{audit % 10}:00+00:00",
            "train_loss": train_loss,
        }
        by_inpainter = {c[:2]: c[3] for c in cells if c[2] == "biharmonic"}
        folder.append_audit(
            [audit_row(cell, by_inpainter.get(cell[:2]), occasion) for cell in cells],
            (row for cell in cells for row in image_rows(cell, audit)),
            arrays,
        )
    return folder


def pictures(count, color, offset):
    """Faces in gray (1, 25, 25), or crops of a photograph in colour (3, 24, 24)."""
    if not color:
        return skimage.data.lfw_subset()[offset : offset + count, None].astype(np.float32)
    photo = skimage.data.astronaut()
    corners = [(row, column) for row in range(0, 460, 38) for column in range(0, 460, 38)]
    crops = [photo[row : row + 48 : 2, column : column + 48 : 2] for row, column in corners[offset:][:count]]
    return (np.stack(crops).transpose(0, 3, 1, 2) / 255).astype(np.float32)


def psnr(images, truth, where=None):
    """Per image, in dB, for values in [0, 1]; over the pixels ``where`` is 1 when given."""
    squared = (images.astype(np.float64) - truth) ** 2
    if where is None:
        return -10 * np.log10(squared.mean((1, 2, 3)))
    where = np.broadcast_to(where, squared.shape)
    return -10 * np.log10((squared * where).sum((1, 2, 3)) / where.sum((1, 2, 3)))


def measured(group, pattern, method, images, mask, recovered, estimate, own, rng):
    """One cell: names, then columns."""
    quality = psnr(recovered, images)
    blind = method in ("blind", "paper_blind")
    score = 10 ** (-quality / 10) * rng.uniform(0.5, 2, len(images))
    if group == "controls" and method == "blind":
        score[0] = np.inf
    columns = {
        "psnr": quality,
        "hidden_psnr": psnr(recovered, images, 1 - mask),
        "ssim": ssim(torch.from_numpy(recovered), torch.from_numpy(images)).numpy(),
        "mask_accuracy": ((estimate > 0.5) == (mask > 0.5)).mean((1, 2, 3)) if blind else np.full(len(images), np.nan),
        "score": score if method != "biharmonic" else np.full(len(images), np.nan),
        "certified": (score < 2e-3) if blind else np.zeros(len(images), bool),
        "reconstruction_psnr": psnr(own, images),
    }
    return group, pattern, method, columns


def audit_row(cell, inpainted, occasion):
    group, pattern, method, columns = cell
    recovered = columns["psnr"] >= THRESHOLD_DB
    hits, count = int(recovered.sum()), len(recovered)
    certified = columns["certified"] if method in ("blind", "paper_blind") else None
    finite_score = columns["score"][np.isfinite(columns["score"])]
    return {
        **occasion,
        "group": group,
        "pattern": pattern,
        "method": method,
        "threshold_db": THRESHOLD_DB,
        "num_images": count,
        "num_recovered": hits,
        "num_certified": None if certified is None else int(certified.sum()),
        "num_certified_recovered": None if certified is None else int((certified & recovered).sum()),
        "num_diverged": int(np.isinf(columns["score"]).sum()),
        "num_failed": 0,
        "recovery_rate": hits / count,
        "ci_low": float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0,
        "ci_high": float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0,
        "recovered_by_threshold": {
            str(t): int(((columns["psnr"] >= t) & ~np.isinf(columns["score"])).sum()) for t in (20.0, 25.0, 30.0, 35.0)
        },
        "num_beyond_inpainting": None
        if inpainted is None
        else int((recovered & (inpainted["psnr"] < THRESHOLD_DB)).sum()),
        "psnr_mean": columns["psnr"].mean(),
        "hidden_psnr_mean": columns["hidden_psnr"].mean(),
        "ssim_mean": columns["ssim"].mean(),
        "mask_accuracy_mean": columns["mask_accuracy"].mean(),
        "reconstruction_psnr_mean": columns["reconstruction_psnr"].mean(),
        "score_median": np.median(finite_score) if len(finite_score) else None,
        "seconds": 0.5,
        "num_evaluations": 200 * count,
    }


def image_rows(cell, audit):
    group, pattern, method, columns = cell
    for position in range(len(columns["psnr"])):
        row = {name: None if column is None else column[position] for name, column in columns.items()}
        yield {
            "audit": audit,
            "group": group,
            "image": position,
            "position": position,
            "pattern": pattern,
            "method": method,
            **row,
            "certified": bool(row["certified"]),
            "diverged": bool(np.isinf(row["score"])),
            "failed": False,
            "recovered": bool(row["psnr"] >= THRESHOLD_DB),
            "num_evaluations": 200,
        }


def run_json(groups, patterns, methods, network, hyperparameters):
    def describe(images, source):
        return {
            "num_images": len(images),
            "source": source,
            "num_available": 2 * len(images),
            "sha256": combined_sha256([image_sha256(image) for image in images]),
        }

    return {
        "created": "2025-01-01T00:00:00+00:00",
        "versions": {
            "lightning_memaudit": "0.1.0",
            "torch": "2.15.0",
            "lightning": "2.6.6",
            "python": "3.11.0",
        },
        "machine": {"device": "cpu", "num_processes": 1, "cpu_count": 2},
        "model": {
            "class": f"AutoencoderModule({network})",
            "num_parameters": 1_234_567,
            "hyperparameters": hyperparameters,
        },
        "image_shape": list(groups["members"].shape[1:]),
        "members": describe(groups["members"], "train dataset"),
        "controls": describe(groups["controls"], "validation dataset") if "controls" in groups else None,
        "settings": {
            "patterns": list(patterns),
            "methods": list(methods),
            "threshold_db": THRESHOLD_DB,
            "thresholds_db": [20.0, 25.0, 30.0, 35.0],
            "seed": 0,
            "primary_method": "blind",
            "save_recoveries": 64,
        },
        "near_duplicates": {"psnr_db": 25.0, "contrast_db": 20.0}
        | {
            group: near_duplicates(
                torch.from_numpy(images), None if group == "members" else torch.from_numpy(groups["members"])
            )
            .nonzero()
            .flatten()
            .tolist()
            for group, images in groups.items()
        },
        "notes": [],
    }

"""Arrays of other types and shapes are found, and no check ends the others; what is not checked is named."""

import shutil

import numpy as np
import pytest
import torch
from autoencoders import memory
from forgery import change_rows, change_run

from lightning_memaudit import audit
from lightning_memaudit.report.verify import arrays, rows
from lightning_memaudit.report.verify.check import guarded
from lightning_memaudit.report.verify.unchecked import unchecked
from lightning_memaudit.results.run_folder import RunFolder

P = "members/random-0.5/"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    images = torch.rand(7, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    folder = RunFolder(tmp_path_factory.mktemp("honest") / "memaudit")
    folder.write_run({"image_shape": [1, 12, 12], "settings": {"save_recoveries": 4}})
    methods = ["autoencoder_iterations", "biharmonic"]
    found = audit(
        memory(images[:4]),
        images[:4],
        images[4:],
        patterns=["random-0.5"],
        methods=methods,
        save_recoveries=4,
        reference=torch.sigmoid,
    )
    found.append_to(folder)
    return folder


@pytest.fixture
def folder(honest, tmp_path):
    shutil.copytree(honest.path, tmp_path / "memaudit")
    return RunFolder(tmp_path / "memaudit")


ARRAYS = {
    "mask of five channels": (f"{P}mask", lambda a: np.repeat(a, 5, 1)),
    "mask of three dimensions": (f"{P}mask", lambda a: a[:, 0]),
    "mask of another size": (f"{P}mask", lambda a: a[:, :, :5]),
    "mask of real numbers": (f"{P}mask", lambda a: np.full(a.shape, np.nan, np.float32)),
    "estimate of five channels": (f"{P}autoencoder_iterations/mask", lambda a: np.repeat(a, 5, 1)),
    "estimate of another size": (f"{P}autoencoder_iterations/mask", lambda a: a[:, :, :5]),
    "complex image": (f"{P}biharmonic/image", lambda a: a.astype(np.complex64)),
    "image of whole numbers": (f"{P}biharmonic/image", lambda a: a.astype(np.int64)),
    "image of flags": (f"{P}biharmonic/image", lambda a: a.astype(bool)),
    "image of text": (f"{P}biharmonic/image", lambda a: a.astype("U8")),
    "image of another size": (f"{P}biharmonic/image", lambda a: a[..., :7]),
    "truth of bytes": ("members/truth", lambda a: a.astype(np.uint8)),
    "observed in complex numbers": (f"{P}observed", lambda a: a.astype(np.complex128)),
    "observed in long numbers": (f"{P}observed", lambda a: a.astype(np.longdouble)),
    "observed of another size": (f"{P}observed", lambda a: a[..., :7]),
    "indices between numbers": ("members/indices", lambda a: a + 0.4),
    "indices as text": ("members/indices", lambda a: a.astype("U3")),
    "names as numbers": ("members/names", lambda a: np.arange(len(a))),
}
"""By name: which array, and what becomes of it."""
CHECKS = (arrays.same_arrays, arrays.same_scores, arrays.same_observations, arrays.same_images, arrays.same_duplicates)


def change_arrays(folder, change):
    saved = folder.newest_recoveries()
    np.savez(saved.path, **change(saved.arrays))


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_other_types_and_shapes_are_found(folder, name):
    key, change = ARRAYS[name]
    change_arrays(folder, lambda found: found | {key: change(found[key])})
    saved = folder.newest_recoveries()
    checks = [guarded("check", check, folder, saved) for check in CHECKS]  # none raises
    assert checks[0].passed is False
    assert key in checks[0].detail


def test_the_arrays_of_an_audit_have_the_types_that_they_must_have(honest, folder):
    saved = honest.newest_recoveries()
    assert all(guarded("check", check, honest, saved).passed in (True, None) for check in CHECKS)
    assert arrays.same_arrays("arrays", honest, saved).passed is True
    # The names of images are in arrays and rows alike.
    change_arrays(folder, lambda found: {key: array for key, array in found.items() if not key.endswith("/names")})
    assert "members/names is not there" in arrays.same_arrays("arrays", folder, folder.newest_recoveries()).detail


def named(folder):
    return [check.name for check in unchecked(folder, folder.newest_recoveries(), False)]


def test_what_takes_a_reference_or_is_only_written_is_named(folder):
    names = "; ".join(named(folder))
    for column in ("score", "reference_psnr", "reference_score", "image names", "notes", "settings", "was left out"):
        assert column in names
    assert "ssim" not in names
    assert "certification" in names, "also where the methods claim nothing: what was taken out leaves no trace"
    change_run(folder, lambda run: run.update(machine={"device": "cuda:0"}))
    assert "ssim" in named(folder)
    for name in ("audits.jsonl", "images.jsonl"):
        change_rows(folder.path / name, lambda row: row.update(audit=900_000_000))
    detail = next(check.detail for check in unchecked(folder, None, False) if check.name == "audits that are not there")
    assert detail.startswith("0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 899999990 more: ")


def test_the_train_loss_is_computed_again_or_named(folder):
    assert rows.same_losses("loss", folder).passed is True
    change_rows(folder.path / "audits.jsonl", lambda row: row.update(train_loss=0.3))
    assert rows.same_losses("loss", folder).passed is False

    def hide(row):
        if row["group"] == "members" and row["position"] == 0:
            row["reconstruction_psnr"] = None

    change_rows(folder.path / "images.jsonl", hide)
    assert rows.same_losses("loss", folder).passed is None
    change_rows(folder.path / "images.jsonl", lambda row: row["position"] != 1 or row.update(reconstruction_psnr=3.0))
    change_rows(folder.path / "audits.jsonl", lambda row: row.update(train_loss=0.01))
    assert rows.same_losses("loss", folder).passed is False, "one member alone makes it more"

"""What came back of volumes is kept at 16 bits, and measured as it is kept: what is verified is what was said."""

import numpy as np
import pytest
import torch
from observations import uniform

from lightning_memaudit import audit
from lightning_memaudit.measurement.metrics import hidden_psnr, psnr
from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.report.verify import verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.run_folder import RunFolder

METHODS = ["blind", "biharmonic"]


def audited(members, controls, patterns=("random-0.5",), methods=METHODS, threshold_db=30.0):
    def memory(x):
        return members[torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)]

    return audit(memory, members, controls, patterns=patterns, methods=methods, threshold_db=threshold_db)


@pytest.mark.parametrize(("shape", "kind"), [((1, 5, 6, 7), "float16"), ((2, 6, 7), "float32"), ((2, 40), "float32")])
def test_every_number_is_that_of_the_array_that_is_kept(shape, kind):
    members, controls = uniform((8, *shape)).split(4)
    report = audited(members, controls)
    made = [key for key in report.recoveries if key.count("/") == 3]
    assert {report.recoveries[key].dtype.name for key in made} == {kind}
    for name in ("members/truth", "members/random-0.5/observed"):
        assert report.recoveries[name].dtype == np.float32
    for cell in report.cells:
        image = torch.from_numpy(report.recoveries[f"{cell.group}/random-0.5/{cell.method}/image"]).float()
        truth, mask = (
            torch.from_numpy(report.recoveries[key]) for key in (f"{cell.group}/truth", f"{cell.group}/random-0.5/mask")
        )
        np.testing.assert_array_equal(cell.columns["psnr"], psnr(image, truth).numpy())
        np.testing.assert_array_equal(cell.columns["hidden_psnr"], hidden_psnr(image, truth, mask).numpy())
    best = next(one for one in report.cells if one.group == "members" and one.method == "blind").columns["psnr"]
    assert (best >= (72 if kind == "float16" else 119)).all(), "2^-12 at most is lost of what is in [0, 1]"


def test_a_volume_at_the_threshold_counts_by_what_is_kept_of_it():
    members, controls = uniform((4, 1, 4, 4, 4)).split(2)
    kept = torch.from_numpy(audited(members, controls).recoveries["members/random-0.5/blind/image"]).float()
    level = float(psnr(kept, members).max())
    assert level < 90, "all of it came back, before it was rounded"
    counts = [
        audited(members, controls, threshold_db=threshold).rows[0]["num_recovered"]
        for threshold in (level, level + 1e-3)
    ]
    assert counts == [1, 0]


@pytest.mark.parametrize("methods", [METHODS, {"blind": "blind", "mine": AutoencoderIterations(record_at=(0, 2))}])
def test_the_report_of_volumes_is_true(tmp_path, methods):
    members, controls = uniform((8, 2, 4, 5, 6)).split(4)
    report = audited(members, controls, ["random-0.5", "half+channels"], methods)
    folder = RunFolder(tmp_path)
    folder.write_run({"settings": {"seed": 0}, "image_shape": [2, 4, 5, 6]})
    report.append_to(folder)
    write_report(folder, figures=False)
    checks = verify(folder)
    assert [check for check in checks if check.passed is False] == []
    passed = [check.name for check in checks if check.passed]
    assert "recoveries score as the results say" in passed


def test_what_diverged_on_a_volume_is_its_observation_and_a_huge_value_stays_finite(tmp_path):
    members, controls = uniform((8, 1, 4, 5, 6)).split(4)
    once = {"patterns": ["random-0.5"], "methods": ["autoencoder_iterations"]}
    report = audit(lambda x: 1e6 * (x + 0.1), members, controls, **once)
    assert {row["diverged"] for row in report.images} == {True}
    folder = RunFolder(tmp_path)
    folder.write_run({})
    report.append_to(folder)
    write_report(folder, figures=False)
    assert [check for check in verify(folder) if check.passed is False] == []
    report = audit(lambda x: 1e6 + 0 * x, members, controls, **once)
    kept = report.recoveries["members/random-0.5/autoencoder_iterations/image"]
    assert np.isfinite(kept).all()
    assert all(np.isfinite(row["psnr"]) for row in report.images)

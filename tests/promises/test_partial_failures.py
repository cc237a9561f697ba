"""What fails on some images only, or in some processes, is counted there, and misleads nobody elsewhere."""

import numpy as np
import pytest
import torch
from autoencoders import memory
from failing_inpainter import FailsAtFirst
from observations import uniform

from lightning_memaudit import audit
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.plan import Group, Plan
from lightning_memaudit.recovery import BlindDeblurring, BlindRecovery
from lightning_memaudit.report.verify import is_true, verify
from lightning_memaudit.report.write import write_report
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here")


@pytest.fixture
def folder(tmp_path):
    """An audit of 6 members and 6 controls in blocks of 2, in which the inpainter fails on the first two members."""
    members, controls = uniform((6, 1, 12, 12)), uniform((6, 1, 12, 12), seed=10)
    methods = {"blind": BlindRecovery(max_evaluations=60), "biharmonic": FailsAtFirst()}
    plan = Plan([parse_degradation("random-0.5")], methods, block_size=2, raise_errors=False)
    groups = [Group.whole("members", members), Group.whole("controls", controls)]
    with pytest.warns(UserWarning, match="biharmonic failed on members"):
        report = run_audit(memory(members), groups, plan, Occasion(0, "audit", 3, 5, "2024-01-01T00:00:00+00:00"))
    folder = RunFolder(tmp_path / "memaudit")
    folder.write_run({"settings": {"patterns": ["random-0.5"], "primary_method": "blind", "seed": 0}})
    report.append_to(folder)
    return folder


def test_saved_arrays_have_an_entry_for_every_saved_image(folder):
    arrays = folder.newest_recoveries().arrays
    assert {len(array) for array in arrays.values()} == {6}
    inpainted = arrays["members/random-0.5/biharmonic/image"]
    assert np.isnan(inpainted[:2]).all()
    assert np.isfinite(inpainted[2:]).all()
    observed, mask = arrays["members/random-0.5/observed"], arrays["members/random-0.5/mask"]
    known = np.broadcast_to(mask[2:] > 0, inpainted[2:].shape)
    np.testing.assert_allclose(inpainted[2:][known], observed[2:][known], atol=1e-6)


def test_the_report_is_written_and_true_and_the_failed_are_no_evidence(folder):
    document = write_report(folder, figures=True).document
    assert document["judgement"]["overall"]["members"]["recovered"]["count"] == 6
    assert document["judgement"]["overall"]["members"]["memorized"]["count"] == 4
    checks = verify(folder)
    assert is_true(checks), checks


def test_a_run_without_controls_gets_its_report(tmp_path):
    members = uniform((4, 1, 12, 12))
    report = audit(memory(members), members, None, patterns=["random-0.5"], methods=["blind", "biharmonic"])
    folder = RunFolder(tmp_path / "memaudit")
    duplicates = {"psnr_db": 25.0, "members": []}
    folder.write_run({"settings": {"patterns": ["random-0.5"]}, "near_duplicates": duplicates, "model": {}})
    report.append_to(folder)
    document = write_report(folder, figures=False).document
    assert document["verdict"]["outcome"] == "inconclusive"
    assert "too_few_controls" in document["verdict"]["reasons"]


def test_masks_shared_by_the_channels_in_some_blocks_only_are_saved():
    class OwnMasks:
        """A mask per channel, for the first block alone."""

        calls = 0

        def __call__(self, autoencoder, observed):
            self.calls += 1
            found = BlindRecovery(max_evaluations=20, certification=None)(autoencoder, observed)
            return found._replace(mask=found.mask.expand_as(observed)) if self.calls == 1 else found

    images = uniform((4, 3, 8, 8))
    report = audit(memory(images), images, None, patterns=["half"], methods={"own": OwnMasks()}, block_size=2)
    assert report.recoveries["members/half/own/mask"].shape == (4, 3, 8, 8)


def test_a_process_without_images_takes_part_in_an_audit_of_a_blur():
    nobody = Group("members", torch.zeros(0, 1, 1, 1), [], [])
    plan = Plan.of(["blur-1", "half"], ["blind_deblurring", "autoencoder_iterations"])
    report = run_audit(torch.tanh, [nobody], plan, Occasion(0, "audit", None, None, "now"))
    assert [row["num_images"] for row in report.rows] == [0, 0, 0]


def test_the_audited_method_is_the_plans_whatever_runs_first():
    members = uniform((4, 1, 12, 12))
    methods = ["blind_deblurring", "paper_blind", "biharmonic"]
    report = audit(memory(members), members, None, patterns=["blur-1", "random-0.5"], methods=methods)
    assert report.primary == "paper_blind"
    assert report.headline["recovery_rate"] == report.rate("paper_blind", "random-0.5")


def test_patterns_that_do_not_fit_the_images_are_refused_before_anything_runs():
    calls = []

    def autoencoder(images):
        calls.append(len(images))
        return images * 0.5

    members = uniform((4, 1, 6, 6))
    with pytest.raises(ValueError, match="kernel of 7 pixels is larger than 6 x 6 images"):
        audit(
            autoencoder,
            members,
            None,
            patterns=["half", "blur-1.5"],
            methods=["autoencoder_iterations", "blind_deblurring"],
        )
    assert calls == [2, 2, 2], "the check of the first images, together and apart, and nothing after it"


def test_controls_count_for_the_patterns_that_a_method_runs_on():
    """50 controls and one mask are too few scores, and the blind method's own certificates stay in force."""
    members, controls = uniform((4, 1, 12, 12)), uniform((50, 1, 12, 12), seed=10)
    methods = {"blind": BlindRecovery(max_evaluations=60), "deblurring": BlindDeblurring(num_iterations=1)}
    report = audit(memory(members), members, controls, patterns=["random-0.5", "blur-1"], methods=methods)
    row = next(row for row in report.rows if (row["group"], row["method"]) == ("members", "blind"))
    assert row["num_certified"] == row["num_recovered"] == 4

"""Reference models: measured on the same images, kept from audit to audit, refused where they are f itself."""

import numpy as np
import pytest
import torch
from autoencoders import associative, memory
from observations import smooth_images
from torch import nn

from lightning_memaudit import audit
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.recovery import BlindRecovery
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.judgement import judge
from lightning_memaudit.results.verdict import conclude

PATTERNS = ["random-0.5", "block-0.25"]


def judged(report):
    return judge(report.rows, ImageColumns(report.images), report.primary)


def hard_and_easy(count, seed):
    """Images of very different difficulty: the error of any model of them is spread over two decades."""
    generator = torch.Generator().manual_seed(seed)
    difficulty = 10 ** (-3 + 2 * torch.rand(count, 1, 1, 1, generator=generator))
    return torch.rand(count, 1, 8, 8, generator=generator), difficulty.sqrt()


class Hard(nn.Module):
    """Errs on each image by its difficulty, and by a little less on those that it was trained on."""

    def __init__(self, images, difficulty, trained_on):
        super().__init__()
        self.images, self.error = images, difficulty * torch.where(trained_on, 0.8, 1.0).view(-1, 1, 1, 1)

    def forward(self, images):
        return images + self.error[torch.cdist(images.flatten(1), self.images.flatten(1)).argmin(1)]


@pytest.fixture(scope="module")
def groups():
    """120 members, 120 controls, and a model of each third of 360 images."""
    images, difficulty = hard_and_easy(360, seed=0)
    third = torch.arange(360) // 120
    return images[:120], images[120:240], [Hard(images, difficulty, third == one).eval() for one in range(3)]


def test_a_reference_takes_out_how_hard_an_image_is(groups):
    members, controls, (f, _, stranger) = groups
    told = judged(
        audit(f, members, controls, patterns=["half"], methods=["biharmonic"], reference=stranger)
    ).memberships
    assert told["plain_loss"].auroc.value < 0.65
    assert told["reference"].auroc.value > 0.99
    assert told["reference"].caution is None
    five = told["reference"].detections[0]
    assert (five.false_positive_rate, five.value) == (0.05, 1.0)
    assert five.reached_rate == pytest.approx(6 / 121)


def test_without_a_reference_nothing_of_it_is_said(groups):
    members, controls, (f, *_) = groups
    report = audit(f, members, controls, patterns=["half"], methods=["biharmonic"])
    assert "reference_psnr" not in report.images[0]
    assert list(judged(report).memberships) == ["plain_loss"]


def test_a_reference_that_was_trained_on_one_of_the_groups_is_found_out():
    members, controls = smooth_images(30, channels=1, seed=1), smooth_images(30, channels=1, seed=2)
    f, twin = associative(members), associative(controls)
    told = judged(audit(f, members, controls, patterns=["half"], methods=["biharmonic"], reference=twin)).memberships
    assert "reproduces the controls better than the members" in told["reference"].caution
    again = associative(members, sharpness=2.0)
    told = judged(audit(f, members, controls, patterns=["half"], methods=["biharmonic"], reference=[again])).memberships
    assert "reproduces the members better than the controls" in told["reference"].caution
    assert told["plain_loss"].caution is None


def test_numbers_of_several_references_are_means_of_logarithms():
    members, controls = smooth_images(4, channels=1, seed=1), smooth_images(3, channels=1, seed=2)
    others = [associative(smooth_images(5, channels=1, seed=seed)) for seed in (3, 4)]
    report = audit(
        associative(members), members, controls, patterns=PATTERNS, methods=["blind"], reference=others, block_size=3
    )
    rows = {(row["group"], row["position"], row["pattern"]): row for row in report.images}
    for group, images in (("members", members), ("controls", controls)):
        errors = torch.stack([(one(images) - images).square().mean((1, 2, 3)) for one in others])
        scores = {}
        for pattern in Plan.of(PATTERNS, ["blind"]).patterns:
            observed = pattern(images, list(range(len(images))), 0).observed
            found = [BlindRecovery(certification=None)(one, observed).score for one in others]
            scores[pattern.name] = torch.stack(found).log().mean(0).exp()
        for (named, position, pattern), row in rows.items():
            if named == group:
                expected = float(-10 * errors[:, position].log10().mean())
                assert row["reference_psnr"] == pytest.approx(expected, rel=1e-4)
                assert row["reference_score"] == pytest.approx(float(scores[pattern][position]), rel=1e-2)


def test_blind_scores_are_compared_with_those_of_the_reference():
    members, controls = smooth_images(12, channels=1, seed=1), smooth_images(12, channels=1, seed=2)
    stranger = associative(smooth_images(12, channels=1, seed=3))
    report = audit(associative(members), members, controls, patterns=["half"], methods=["blind"], reference=stranger)
    told = judged(report).memberships
    assert list(told) == ["plain_loss", "blind_score", "reference", "reference_blind_score"]
    assert told["reference_blind_score"].auroc.value > 0.95
    assert told["blind_score"] == judged(report).membership


def test_what_a_reference_was_trained_on_is_left_out():
    members, controls = torch.rand(4, 1, 8, 8), torch.rand(3, 1, 8, 8)
    hashes = image_hashes(Group.whole("controls", controls))
    models = ReferenceModels([lambda images: images * 0.9], trained_on=frozenset(hashes[1:2]))
    plan = Plan.of(["half"], ["known_mask"])
    columns = models.measure(Group.whole("controls", controls), plan)
    assert np.isnan(columns["reference_psnr"]).tolist() == [False, True, False]
    assert np.isnan(columns["half"]).tolist() == [False, True, False]
    assert not np.isnan(models.measure(Group.whole("members", members), plan)["reference_psnr"]).any()


def test_a_reference_that_fails_on_an_image_says_nothing_of_it():
    """Not that it is a hard one, for which its owner would be taken for a member."""
    members, controls = torch.rand(12, 1, 8, 8), torch.rand(12, 1, 8, 8)

    def broken(images):
        return torch.where((images == members[5]).flatten(1).all(1).view(-1, 1, 1, 1), torch.nan, images * 0.9)

    report = audit(memory(members), members, controls, patterns=["half"], methods=["biharmonic"], reference=broken)
    assert [row["position"] for row in report.images if row["reference_psnr"] is None] == [5]
    assert judged(report).memberships["reference"].num_members == 11


@pytest.mark.parametrize("num_shares", [2, 5])
def test_every_process_measures_its_own_images(num_shares):
    group = Group.whole("members", smooth_images(3, channels=1))
    models, plan = ReferenceModels([associative(smooth_images(4, channels=1, seed=2))]), Plan.of(PATTERNS, ["blind"])
    whole = models.measure(group, plan)
    for rank in range(num_shares):
        rows = range(rank, 3, num_shares)
        part = Group("members", group.images[rank::num_shares], list(rows), list(rows))
        for name, values in models.measure(part, plan).items():
            assert values == pytest.approx(whole[name][rank::num_shares], rel=1e-4), name


def test_a_verdict_without_a_recovery_says_by_what_members_can_be_told(groups):
    members, controls, (f, _, stranger) = groups
    report = audit(f, members, controls, patterns=["random-0.9"], methods=["blind", "biharmonic"], reference=stranger)
    verdict = conclude(judged(report))
    assert any(
        "can be told from other images by the own error, less that of the reference" in c for c in verdict.cautions
    )
    assert "Another attack may tell more" in verdict.certainty
    alone = conclude(judged(audit(f, members, controls, patterns=["random-0.9"], methods=["biharmonic"])))
    assert any("can be told from other images by the autoencoder's own error" in one for one in alone.cautions)


def test_a_reference_is_measured_once():
    calls = []

    def counting(images):
        calls.append(len(images))
        return images * 0.9

    models, plan = ReferenceModels([counting]), Plan.of(["half"], ["biharmonic"])
    group = Group.whole("members", torch.rand(3, 1, 8, 8))
    first = models.measure(group, plan)
    assert models.measure(group, plan) is first
    assert calls == [3]


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("model.ckpt", "reference is of type str: pass a function"),
        ([], r"reference=\[\]"),
        ([lambda x: x * 0.5, 3], r"reference\[1\] is of type int"),
        (lambda x: x[:, :, :4], "reference: the autoencoder returned shape"),
        (lambda x: x * 0.9, "returns the very same as the audited autoencoder"),
    ],
)
def test_what_is_no_reference_is_refused(reference, complaint):
    images = torch.rand(3, 1, 8, 8)
    with pytest.raises(ValueError, match=complaint):
        audit(lambda x: x * 0.9, images, None, patterns=["half"], methods=["biharmonic"], reference=reference)

"""What is concluded of autoencoders whose memory is known: each audited as anyone would, and its verdict read."""

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn
from torch.nn import functional

from lightning_memaudit import audit

METHODS = ("blind", "known_mask", "biharmonic")
NUM = 40


@pytest.fixture(scope="module")
def faces():
    images = torch.from_numpy(skimage.data.lfw_subset()[:100, None].astype(np.float32))
    images = images[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    return images[:NUM], images[NUM : 2 * NUM]


def nearest(stored):
    return lambda x: stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]


def blurred(x):
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def trained(images, train_loss):
    """Three fully connected layers, trained until the loss falls below a level: about a second."""
    torch.manual_seed(0)
    size = images[0].numel()
    net = nn.Sequential(nn.Linear(size, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, size))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    flat = images.flatten(1)
    loss = torch.tensor(1.0)
    while loss > train_loss:
        loss = (net(flat) - flat).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda x: net(x.flatten(1)).view_as(x)


def audited(f, members, controls, patterns=("random-0.5", "block-0.5"), methods=METHODS, **options):
    with torch.no_grad():
        return audit(f, members, controls, patterns=patterns, methods=methods, **options)


def test_memorized_in_any_order_and_with_any_number_of_controls(faces, tmp_path):
    members, controls = faces

    def f(x):  # a quarter is stored; all else is blurred
        distance, place = torch.cdist(x.flatten(1), members[:10].flatten(1)).min(1)
        return torch.where((distance < 4)[:, None, None, None], members[place.clamp(max=9)], blurred(x))

    first, last = (
        audited(f, given, controls[:25], ["random-0.5"], ("blind", "biharmonic"))
        for given in (members, members.flip(0))
    )
    assert first.verdict.outcome == last.verdict.outcome == "memorized"
    assert first.num_memorized == last.num_memorized == 10
    assert first.headline["memorized_rate"] == 10 / NUM
    assert first.judgement.evidence.at_least >= 4
    first.to_json(tmp_path / "report.json")
    assert '"num_memorized": 10' in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize("f", [lambda x: x, lambda x: x * 0.999 + 0.0005, lambda x: x.clamp(0.02, 0.98)])
def test_the_identity_has_memorized_nothing(faces, f):
    report = audited(f, *faces)
    assert report.num_memorized == 0
    assert (report.verdict.outcome, report.verdict.reasons) == ("inconclusive", ("identity_like",))


def test_a_blur_has_memorized_nothing(faces):
    report = audited(blurred, *faces, methods=("blind", "biharmonic"))
    assert report.num_memorized == 0
    assert report.verdict.reasons == ("reconstruction_below_threshold",)


def test_an_output_that_is_grey_unless_it_was_trained_on_is_not_cleared(faces):
    members, controls = faces
    stored = nearest(members)

    def f(x):
        back = stored(x)
        fits = (back - x).square().flatten(1).mean(1) < 1e-4
        return torch.where(fits[:, None, None, None], back, torch.full_like(x, 0.5))

    report = audited(f, members, controls, methods=("blind", "biharmonic"))
    assert report.verdict.reasons == ("own_error_gap",)


@pytest.mark.slow
def test_masks_that_blind_recovery_cannot_read_are_said_to_be_too_hard(faces):
    members, controls = faces
    report = audited(nearest(members[:30]), members[:30], controls[:30], ["random-0.95+fill-noise"])
    assert report.verdict.outcome == "inconclusive"
    assert "patterns_too_hard" in report.verdict.reasons
    [known] = report.judgement.others
    assert known.members.count >= 20


def test_controls_of_another_kind_allow_no_conclusion(faces):
    members, controls = faces
    smooth = torch.rand(60, 1, 1, 1, generator=torch.Generator().manual_seed(1)) * 0.5 + torch.linspace(0.1, 0.4, 25)
    for others in (smooth.expand(60, 1, 25, 25).contiguous(), 0.35 * controls + 0.3):
        report = audited(nearest(members), members, others, ["random-0.5"], ("blind", "biharmonic"))
        assert report.verdict.outcome == "inconclusive"
        assert "groups_differ" in report.verdict.reasons


def test_traces_are_found_long_before_anything_comes_back_whole(faces):
    members, controls = faces
    f = trained(members, 1.2e-2)
    report = audited(f, members, controls, ["random-0.9", "block-0.5"], ("blind", "biharmonic"))
    assert report.num_memorized == 0
    assert report.verdict.outcome == "traces"
    assert report.verdict.headline.startswith("Traces: no image came back whole, but training images come back ")
    assert report.membership["recovery_gain"].low > 0.6
    assert report.headline["gain_auroc"] == report.membership["recovery_gain"].value
    assert report.headline["recovery_gain"] > report.headline["control_recovery_gain"]
    assert set(report.membership) == {"recovery_gain", "plain_loss", "blind_score"}
    # Of images that it was not trained on either it tells nothing.
    strangers = audited(f, controls[:20], controls[20:], ["random-0.9"], ("blind", "biharmonic"))
    assert strangers.verdict.outcome == "inconclusive"
    assert strangers.membership["recovery_gain"].low < 0.5


def test_with_few_images_what_cannot_be_told_is_absent(faces):
    report = audited(nearest(faces[0][:4]), faces[0][:4], None, ["half"], ("blind",))
    assert report.membership == {}
    assert report.num_memorized is None
    assert report.verdict.outcome == "inconclusive"

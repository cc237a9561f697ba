"""Audits of signals and volumes: masks, metrics, memory, and the whole chain, beside those of pictures."""

import itertools
import math

import numpy as np
import pytest
import torch
from observations import uniform
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_memaudit import audit
from lightning_memaudit.measurement.appearance import roughness
from lightning_memaudit.measurement.degradations import WITH_FRACTION, parse_degradation
from lightning_memaudit.measurement.extraction import trivial_error
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.largest_missing import largest_missing
from lightning_memaudit.measurement.metrics import hidden_psnr, ssim
from lightning_memaudit.measurement.near_duplicates import near_duplicates
from lightning_memaudit.measurement.proximal import proximal_diagnostic
from lightning_memaudit.recovery import KnownMaskRecovery, batches
from lightning_memaudit.report.verify import arrays as verify
from lightning_memaudit.results.cells import join_recoveries

SIZES = [(200,), (12, 10), (8, 9, 10)]


def missing(name, size, number=6, seed=0):
    """(number, *size) bool."""
    degraded = parse_degradation(name)(uniform((number, 2, *size)) * 0.8 + 0.1, range(number), seed)
    assert degraded.mask.shape == (number, 1, *size)
    return (degraded.mask[:, 0] == 0).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_masks_hide_the_fraction_of_any_number_of_axes(size, fraction):
    number = math.prod(size)
    for mask in missing(f"random-{fraction}", size):
        assert mask.sum() == round(fraction * number)
    boxes = missing(f"block-{fraction}", size)
    for mask in boxes:
        places = np.argwhere(mask)
        sides = np.ptp(places, 0) + 1
        assert mask.sum() == math.prod(sides), "a box"
        assert mask.mean() == pytest.approx(fraction, abs=0.5 / size[-1] + 1e-9)
        assert sides / size == pytest.approx(fraction ** (1 / len(size)), abs=0.15), "of the image's proportions"
    assert len({mask.tobytes() for mask in boxes}) > 1
    one = math.prod(max(1, round(side / 6)) for side in size) / number
    for mask in missing(f"blocks-{fraction}", size):
        assert fraction <= mask.mean() < fraction + one


@pytest.mark.parametrize("size", SIZES)
def test_slices_slabs_and_halves_are_whole(size):
    others = tuple(range(1, len(size)))
    for kind, axis in (("rows", 0), ("stripes", 0), ("slabs", 0), ("columns", -1)):
        for mask in missing(f"{kind}-0.3", size):
            along = np.moveaxis(mask, axis, 0)
            assert (along.all(others) == along.any(others)).all()
            assert along.any(others).sum() == round(0.3 * size[axis])
    seen = set()
    for mask in missing("half", size, 60):
        halves = {
            (axis, end)
            for axis, end in itertools.product(range(len(size)), (0, -1))
            if np.take(mask, end, axis).all() and not np.take(mask, -1 - end, axis).any()
        }
        assert len(halves) == 1
        axis = next(iter(halves))[0]
        assert mask.sum() == math.prod(size) // size[axis] * (size[axis] // 2)
        seen |= halves
    assert len(seen) == 2 * len(size), "of every axis either half"
    assert missing("half", (1, 4, 4), 40).sum((1, 2, 3)).tolist() == [8] * 40, "a single slice has no halves"


@pytest.mark.parametrize("size", [(200,), (8, 9, 10)])
@pytest.mark.parametrize("name", ["strokes-0.3", "text"])
def test_what_is_drawn_on_pictures_is_refused_for_others_before_the_audit(size, name):
    message = rf"pattern '{name}': \w+ is for images with two spatial axes, these have {len(size)}; random, block"
    with pytest.raises(ValueError, match=message) as error:
        audit(lambda x: x, uniform((3, 1, *size)), patterns=["random-0.5", name], methods=["blind"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "size", "hides"),
    [
        ("rows-0.5", (1, 8, 8), "nothing"),
        ("slabs-0.3", (1, 40), "nothing"),
        ("columns-0.5", (8, 1), "nothing"),
        ("block-0.9", (2, 2, 2), "all"),
        ("random-0.5", (1,), "nothing"),
    ],
)
def test_a_mask_that_hides_nothing_or_all_of_so_small_images_is_refused_before_the_audit(name, size, hides):
    images = uniform((2, 1, *size))
    with pytest.raises(ValueError, match=f"{name}.*images it hides {hides}; leave it out") as error:
        audit(lambda x: x, images, images / 2, patterns=[name], methods=["biharmonic"])
    assert "\n" not in str(error.value)


def test_a_method_for_pictures_alone_is_refused_before_the_audit():
    class Inpainter:
        needs_mask = plane_only = True

        def __call__(self, autoencoder, observed, mask):
            pytest.fail("it was called")

    methods = {"mine": Inpainter(), "blind": "blind"}
    with pytest.raises(ValueError, match=r"mine is for images \(B, C, H, W\), these have 3 spatial axes: leave it out"):
        audit(lambda x: x, uniform((3, 1, 4, 5, 6)), methods=methods)


@pytest.mark.parametrize("kind", [*(f"{kind}-0.3" for kind in WITH_FRACTION if kind != "strokes"), "half"])
@pytest.mark.parametrize("size", [(200,), (8, 9, 10)])
def test_channels_noise_and_fill_go_with_every_kind(kind, size):
    images = uniform((3, 2, *size))
    observed, mask = parse_degradation(f"{kind}+channels+fill-0.25+noise-0.1")(images, range(3))
    assert mask.shape == images.shape
    assert not torch.equal(mask[:, 0], mask[:, 1])
    noise = (observed - mask * images - (1 - mask) * 0.25) / 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    filled = parse_degradation(f"{kind}+fill-noise")(images, range(3))
    hidden = filled.mask.expand_as(images) == 0
    assert torch.equal(filled.observed[~hidden], images[~hidden])
    assert 0.15 < float(filled.observed[hidden].std()) < 0.4


def test_ssim_of_volumes_is_that_of_torchmetrics_and_that_of_signals_the_one_of_their_windows():
    truth = uniform((2, 2, 12, 13, 11))
    images = truth + 0.2 * uniform(truth.shape, 3)
    expected = structural_similarity_index_measure(images, truth, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(images, truth), expected.view(-1), atol=1e-5, rtol=0)
    assert ssim(truth[:, :, :10], truth[:, :, :10]).isnan().all(), "smaller than the window"
    # A picture whose rows are all alike has in each window what its rows have.
    signal, other = uniform((2, 2, 30)), uniform((2, 2, 30), 4)
    pictures = [part[:, :, None].expand(-1, -1, 16, -1) for part in (signal, other)]
    torch.testing.assert_close(ssim(signal, other), ssim(*pictures), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(30,), (6, 7), (4, 5, 6)])
def test_appearance_and_hidden_values_by_a_loop(size):
    images, truth = uniform((1, 2, *size)), uniform((1, 2, *size), 4)
    mask = (uniform((1, 1, *size), 5) > 0.4).float()
    steps, errors = [], []
    for place in itertools.product(*map(range, size)):
        for channel in range(2):
            here = float(images[0, channel][place])
            if mask[0, 0][place] == 0:
                errors.append((here - float(truth[0, channel][place])) ** 2)
            for axis in range(len(size)):
                if place[axis]:
                    before = (*place[:axis], place[axis] - 1, *place[axis + 1 :])
                    steps.append((here - float(images[0, channel][before])) ** 2)
    assert roughness(images).item() == pytest.approx(math.sqrt(sum(steps) / len(steps)), rel=1e-5)
    assert hidden_psnr(images, truth, mask).item() == pytest.approx(-10 * math.log10(np.mean(errors)), abs=1e-4)


@pytest.mark.parametrize("size", [(64,), (16, 16), (8, 8, 16)])
def test_near_duplicates_are_those_of_all_pairs(size, monkeypatch):
    images = uniform((7, 2, *size))
    images[4], images[6] = images[1] * 0.97, images[2] + 0.2
    flat = images.flatten(1)
    errors = torch.cdist(flat, flat).square() / flat.shape[1] + torch.eye(7)
    expected = (errors <= 10**-2.5).any(1)
    assert expected.sum() == 2
    assert torch.equal(near_duplicates(images), expected)
    monkeypatch.setattr("lightning_memaudit.measurement.near_duplicates._VALUES_AT_ONCE", 3 * images[0].numel())
    assert torch.equal(near_duplicates(images), expected), "three at a time"


def test_a_trivial_copy_of_a_volume_is_smooth_along_every_axis():
    ramp = torch.linspace(0, 1, 16)
    volume = (ramp[:, None, None] + ramp[:, None] + ramp).expand(1, 1, -1, -1, -1) / 3
    assert float(trivial_error(volume)) < float(volume.var()) / 50
    assert float(trivial_error(uniform((1, 1, 16, 16, 16)))) > 0.05


def test_blocks_of_large_images_are_smaller_but_every_image_is_there_once(monkeypatch):
    images = uniform((20, 1, 4, 4, 4))
    monkeypatch.setattr(batches, "VALUES_AT_ONCE", 6 * 64)
    sizes = [len(block.images) for block in Group.whole("members", images).blocks(torch.clone, 512)]
    assert sizes == [6, 6, 6, 2]
    report = proximal_diagnostic(lambda x: 0.5 * x, images[:5], num_steps=3)
    assert report.spectral_norm == pytest.approx([0.5] * 5, abs=1e-4)


@pytest.mark.parametrize("size", [(30,), (4, 5, 6)])
def test_masks_that_are_shared_in_some_parts_are_joined_channel_by_channel(size):
    shared, own = np.zeros((2, 1, *size)), np.ones((1, 3, *size))
    traces = [part[:, None].repeat(2, 1) for part in (shared, own)]
    parts = {"members/positions": [np.arange(2), np.arange(1)]}
    parts |= {"members/half/blind/mask": [shared, own], "members/half/blind/trace_mask": traces}
    parts["members/half/blind/trace_image"] = [np.zeros((2, 2, 3, *size)), np.zeros((1, 2, 3, *size))]
    joined = join_recoveries(parts)
    assert joined["members/half/blind/mask"].shape == (3, 3, *size)
    assert joined["members/half/blind/trace_mask"].shape == joined["members/half/blind/trace_image"].shape


@pytest.mark.parametrize("size", [(60,), (4, 5, 6)])
def test_an_audit_tells_members_from_controls_and_its_arrays_say_the_same_again(size):
    members, controls = uniform((12, 2, *size)).split(6)

    def memory(x):
        return members[torch.cdist(x.flatten(1), members.flatten(1)).argmin(1)]

    report = audit(
        memory,
        members,
        controls,
        patterns=["random-0.5", "block-0.25+channels"],
        methods=["blind", "known_mask", "autoencoder_iterations", "biharmonic"],
        extraction=128,
    )
    for pattern in ("random-0.5", "block-0.25+channels"):
        rates = {group: report.rate("blind", pattern, group) for group in ("members", "controls")}
        assert rates == {"members": 1.0, "controls": 0.0}
        assert report.rate("biharmonic", pattern) == 0.0
    assert report.extraction.num_extracted > 0
    assert not list(verify._kind_problems(report.recoveries))
    again = verify._measured(report.recoveries, "members", "random-0.5", "biharmonic")
    cell = next(one for one in report.cells if (one.group, one.pattern, one.method)[1:] == ("random-0.5", "biharmonic"))
    np.testing.assert_allclose(again["hidden_psnr"], cell.columns["hidden_psnr"], atol=2e-3)
    fractions = largest_missing(memory, Group.whole("members", members), KnownMaskRecovery(), num_rounds=3)
    assert all(row["largest_missing"] >= 0.5 for row in fractions)


def volumes(number, side):
    """Smooth fields with texture and noise, of which an inpainter knows the smooth part alone."""
    generator = torch.Generator().manual_seed(0)
    coarse, middle, fine = (torch.rand(number, 1, *[part] * 3, generator=generator) for part in (4, side // 2, side))
    smooth = nn.functional.interpolate(coarse, size=fine.shape[2:], mode="trilinear", align_corners=True)
    return 0.5 * smooth + 0.35 * nn.functional.interpolate(middle, size=fine.shape[2:]) + 0.15 * fine


def fully_connected(side):
    number = side**3
    layers = [nn.Linear(number, 256), nn.PReLU(), nn.Linear(256, 256), nn.PReLU(), nn.Linear(256, number)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Unflatten(1, (1, side, side, side)))


def convolutional(side):
    """Without skip connections, down to a sixth of every side."""
    down = [nn.Conv3d(1, 24, 3, 2, 1), nn.PReLU(), nn.Conv3d(24, 192, 3, 3), nn.PReLU()]
    up = [nn.ConvTranspose3d(192, 24, 3, 3), nn.PReLU(), nn.ConvTranspose3d(24, 1, 2, 2)]
    return nn.Sequential(*down, *up)


@pytest.mark.slow
@pytest.mark.parametrize("make", [fully_connected, convolutional])
def test_volumes_that_an_autoencoder_memorized_come_back_and_others_do_not(make):
    torch.manual_seed(0)
    members, controls = volumes(32, 12).split(16)
    model = make(12)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(5000):
        loss = (model(members) - members).square().mean()
        if loss < 1e-4:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4
    report = audit(model.eval(), members, controls, methods=["blind", "biharmonic"])
    for pattern in ("random-0.5", "block-0.25"):
        assert report.rate("blind", pattern) > 0.9
        assert report.rate("blind", pattern, "controls") == 0.0
        assert report.rate("biharmonic", pattern) == 0.0

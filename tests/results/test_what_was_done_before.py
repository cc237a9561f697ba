"""Members that went through a codec, a resize or another frame than the controls: no network need remember those."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dct
from scipy.stats import skew
from skimage.data import astronaut, lfw_subset
from torch.nn.functional import avg_pool2d, interpolate

from lightning_memaudit import audit
from lightning_memaudit.measurement.appearance import APPEARANCE as MEASURED
from lightning_memaudit.measurement.compression import _steps
from lightning_memaudit.results.comparability import compare_groups

SIDE = 32


def photos():
    """Small images in colors that no codec has seen since they were made smaller, (n, 3, 32, 32)."""
    photo = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255
    crops = photo.unfold(1, 2 * SIDE, 40).unfold(2, 2 * SIDE, 40).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return avg_pool2d(crops, 2)[torch.randperm(len(crops), generator=torch.Generator().manual_seed(6))]


def compressed(images, quality, **how):
    """What JPEG makes of images in colors, or gray."""
    found = []
    for image in images:
        file = io.BytesIO()
        array = (255 * image).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array if len(image) == 3 else array[..., 0]).save(file, "JPEG", quality=quality, **how)
        found.append(torch.from_numpy(np.array(Image.open(file)).reshape(array.shape)).permute(2, 0, 1) / 255)
    return torch.stack(found)


def resized(images, factor, mode="bilinear"):
    """Made smaller, and as large as before, to 8 bits."""
    smaller = interpolate(images, scale_factor=factor, mode=mode, antialias=True)
    return (255 * interpolate(smaller, images.shape[2:], mode=mode)).round().clamp(0, 255) / 255


def told(members, controls):
    quantities = {name: (metric(members), metric(controls)) for name, metric in MEASURED.items()}
    return {one.name for one in compare_groups(quantities)}


@pytest.mark.parametrize("quality", [10, 37, 50, 51, 75, 80, 95])
def test_steps_are_those_of_the_codec(quality):
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
    assert Image.open(file).quantization[0] == _steps(torch.tensor([quality]).double()).flatten().tolist()


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("quality", [20, 50, 75, 80, 90])
def test_the_quality_of_a_codec_is_read_off_its_images(quality, gray):
    images = photos()[:40].mean(1, keepdim=True) if gray else photos()[:40]
    found = MEASURED["jpeg_quality"](compressed(images, quality))
    assert float((found - quality).abs().quantile(0.8)) < 2
    assert abs(float(found.median()) - quality) < 0.6
    assert 10 <= float(MEASURED["jpeg_quality"](images).min()) < float(MEASURED["jpeg_quality"](images).max()) <= 98


def test_the_quality_comes_out_the_same_in_single_precision_and_of_large_images():
    images = compressed(interpolate(photos()[:8], (100, 150), mode="bicubic").clamp(0, 1), 70)
    found = MEASURED["jpeg_quality"](images)
    assert found.dtype == images.dtype
    assert found.numpy() == pytest.approx(MEASURED["jpeg_quality"](images.double()).numpy(), abs=1e-3)
    assert found.numpy() == pytest.approx(70, abs=1)
    volumes = images[:, :, None].repeat(1, 1, 3, 1, 1)
    assert MEASURED["jpeg_quality"](volumes).numpy() == pytest.approx(70, abs=1)
    assert MEASURED["jpeg_quality"](torch.full((1, 1, 16, 16), 0.5)).item() == pytest.approx(54, abs=0.1)


DONE = {
    "jpeg at 75 and 80": ("jpeg_quality", lambda x: compressed(x, 75), lambda x: compressed(x, 80)),
    "jpeg at 90 and none": ("jpeg_quality", lambda x: compressed(x, 90), lambda x: x),
    "resized": ("sharpness", lambda x: resized(x, 0.9), lambda x: x),
    "resized twice and once": ("sharpness", lambda x: resized(resized(x, 0.9), 0.9), lambda x: resized(x, 0.9)),
}


@pytest.mark.parametrize("name", DONE)
def test_what_was_done_to_one_group_before_is_seen(name):
    quantity, to_members, to_controls = DONE[name]
    images = photos()
    assert quantity in told(to_members(images[:70]), to_controls(images[70:]))
    assert not told(to_members(images[:70]), to_members(images[70:]))
    assert not told(images[:70], images[70:])


def noise(num, seed):
    return torch.randn(num, 1, 24, 24, generator=torch.Generator().manual_seed(seed))


def rising(num, seed):
    """Slow rises before steep falls, at any place."""
    rate, phase = torch.rand(2, num, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    waves = ((2 + 2 * rate) * torch.linspace(0, 1, 24) + phase) % 1
    return 0.2 + 0.6 * waves + 0.02 * noise(num, seed)


def detailed(num, seed):
    """Of no mean, with more detail to the right."""
    return 0.5 + 0.1 * noise(num, seed) * torch.linspace(0.3, 1, 24)


def spotted(num, seed):
    """Of no mean, with few spots that are bright."""
    return 0.5 + 0.1 * (noise(num, seed).square() - 1)


FIELDS = {
    "edge_skewness": (rising, lambda images: images.flip(3)),
    "detail_balance": (detailed, lambda images: images.flip(3)),
    "skewness": (spotted, lambda images: 1 - images),
}


@pytest.mark.parametrize("name", FIELDS)
def test_mirrored_fields_and_negatives_are_told_though_their_means_and_slopes_are_alike(name):
    make, mirrored = FIELDS[name]
    members, controls = (make(50, seed) for seed in (0, 1))
    assert not told(members, controls)
    assert name in told(members, mirrored(controls)) <= {name, "value_range", "brightness"}


def test_balances_and_skewness_as_they_are_defined():
    images = torch.rand(3, 2, 9, 14, generator=torch.Generator().manual_seed(7))
    array = images.double().numpy()
    steps = [np.diff(array, axis=axis) for axis in (2, 3)]
    assert MEASURED["skewness"](images).numpy() == pytest.approx(skew(array.reshape(3, -1), axis=1), abs=1e-4)
    expected = sum(skew(one.reshape(3, -1), axis=1) for one in steps)
    assert MEASURED["edge_skewness"](images).numpy() == pytest.approx(expected, abs=1e-4)
    pairs = np.square(steps[0]), np.square(steps[1])
    within = pairs[0][:, :, ::2].mean((1, 2, 3)), pairs[1][..., ::2].mean((1, 2, 3))
    between = pairs[0][:, :, 1::2].mean((1, 2, 3)), pairs[1][..., 1::2].mean((1, 2, 3))
    expected = np.log2(within[0] / between[0]) + np.log2(within[1] / between[1])
    assert MEASURED["parity"](images).numpy() == pytest.approx(expected, abs=1e-3)
    third = [np.square(np.diff(array, n=3, axis=axis)).reshape(3, -1) for axis in (2, 3)]
    first = [one.reshape(3, -1) for one in pairs]
    expected = np.log2(np.concatenate(third, 1).mean(1) / np.concatenate(first, 1).mean(1))
    assert MEASURED["sharpness"](images).numpy() == pytest.approx(expected, abs=1e-3)
    turned = images.flip(2, 3)
    for name in ("edge_skewness", "detail_balance"):
        assert MEASURED[name](turned).numpy() == pytest.approx(-MEASURED[name](images).numpy(), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_faces_are_no_controls_though_faces_are_nearly_symmetric(seed):
    """A network that has learned from other faces fills in faces better than mirrored ones, by a decibel."""
    faces = torch.from_numpy(lfw_subset()[:100]).float()[:, None]
    faces = faces[torch.randperm(100, generator=torch.Generator().manual_seed(seed))]
    found = told(faces[:30], faces[30:60].flip(3))
    assert found
    assert found <= {"horizontal_wave_5", "horizontal_wave_7"}
    assert not told(faces[:30], faces[30:60])


def test_waves_are_projections_on_cosines():
    images = torch.rand(3, 2, 9, 14, generator=torch.Generator().manual_seed(8))
    profile = dct(images.double().numpy().mean((1, 2)), type=2) / 2 / 14
    for number in (3, 5, 7):
        wave = MEASURED[f"horizontal_wave_{number}"]
        assert wave(images).numpy() == pytest.approx(profile[:, number], abs=1e-6)
        assert wave(images.flip(3)).numpy() == pytest.approx(-wave(images).numpy(), abs=1e-6)
        assert wave(images[..., : 2 * number - 1]).isnan().all()
        assert wave(images.flatten(2)).isnan().all()


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1)])
def test_members_moved_by_a_pixel_are_no_controls_of_what_keeps_a_grid(shift):
    """What returns every image of pairs of pixels, and no other, remembers none of them."""
    faces = torch.from_numpy(lfw_subset()[:100]).float()[:, None, :13, :13]
    faces = faces[torch.randperm(100, generator=torch.Generator().manual_seed(3))]
    large = faces.repeat_interleave(2, 2).repeat_interleave(2, 3)
    members = large[:50, ..., :24, :24]
    down, across = shift
    moved = large[50:, ..., down : down + 24, across : across + 24]

    def of_pairs(images):
        return avg_pool2d(images, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)

    how = {"patterns": ["random-0.5"], "methods": ["blind_black_box", "biharmonic"]}
    report = audit(of_pairs, members, moved, **how)
    assert "parity" in {one.name for one in report.judgement.group_differences}
    assert report.verdict.outcome == "inconclusive"
    assert "groups_differ" in report.verdict.reasons
    assert not told(members, large[50:, ..., :24, :24])


def test_a_codec_of_nearly_the_same_quality_remembers_nothing():
    """It returns images that it made before better than those of the next quality."""
    images = photos()
    members, controls = compressed(images[:60], 50), compressed(images[60:120], 55)
    how = {"patterns": ["random-0.5"], "methods": ["blind_black_box", "biharmonic"]}
    report = audit(lambda images: compressed(images.clamp(0, 1), 50), members, controls, **how)
    assert [one.name for one in report.judgement.group_differences] == ["jpeg_quality"]
    assert report.verdict.outcome == "inconclusive"

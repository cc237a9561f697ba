"""Whether groups are of one source: seldom denied of one that is, always of clear differences, never of a small one."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dct, dctn
from scipy.stats import ks_2samp
from skimage.data import astronaut, lfw_subset

from lightning_memaudit import audit
from lightning_memaudit.measurement.appearance import APPEARANCE as MEASURED
from lightning_memaudit.results.comparability import APPEARANCE, compare_groups


@pytest.mark.slow
def test_groups_of_one_source_are_seldom_taken_for_different_ones():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        alarms += bool(compare_groups({str(i): (rng.normal(size=40), rng.normal(size=120)) for i in range(5)}))
    assert alarms <= 8, "one in a thousand at most is expected"


def test_a_clear_difference_is_found_and_the_clearest_named_first():
    rng = np.random.default_rng(1)
    members = {"contrast": rng.normal(0, 1, 60), "brightness": rng.normal(0, 1, 60), "alike": rng.normal(size=60)}
    controls = {"contrast": rng.normal(2, 1, 100), "brightness": rng.normal(4, 1, 100), "alike": rng.normal(size=100)}
    found = compare_groups({name: (members[name], controls[name]) for name in members})
    assert [one.name for one in found] == ["brightness", "contrast"]
    test = ks_2samp(members["contrast"], controls["contrast"])
    assert (found[1].p_value, found[1].distance) == (pytest.approx(test.pvalue), pytest.approx(test.statistic))
    wide = compare_groups({"spread": (rng.normal(0, 0.02, 200), rng.normal(0, 3, 200))})
    assert len(wide) == 1, "medians alone would not tell"


def test_a_small_difference_of_very_many_images_is_no_clear_one():
    rng = np.random.default_rng(2)
    members, controls = rng.normal(0, 1, 5000), rng.normal(0.3, 1, 5000)
    assert ks_2samp(members, controls).pvalue < 1e-9
    assert not compare_groups({"contrast": (members, controls)})


def test_what_was_not_measured_costs_no_significance():
    one, other = np.arange(40.0), np.arange(40.0) + 18.5
    p_value = ks_2samp(one, other).pvalue
    assert 1e-4 < p_value < 1e-3
    nothing = {str(i): (np.full(40, np.nan), one) for i in range(9)}
    assert compare_groups({"measured": (one, other), **nothing})
    assert not compare_groups({"measured": (one, other), **{str(i): (one, one) for i in range(9)}})


def test_what_is_missing_is_left_out():
    values = np.linspace(0, 1, 50)
    assert not compare_groups({"psnr": (np.r_[values, np.nan, np.inf], values)})
    assert not compare_groups({"psnr": (np.full(50, np.nan), values)})
    assert not compare_groups({"two images say nothing": (np.zeros(2), np.ones(20))})


@pytest.mark.parametrize("shape", [(5, 3, 8, 9), (1, 1, 1, 1), (0, 1, 8, 8), (2, 1, 1, 7), (3, 2, 7, 5)])
def test_appearance_of_images_of_any_shape(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    assert tuple(MEASURED) == APPEARANCE
    found = {name: metric(images).numpy() for name, metric in MEASURED.items()}
    assert all(values.shape == shape[:1] for values in found.values())
    assert found["brightness"] == pytest.approx(images.double().mean((1, 2, 3)).numpy())
    assert found["contrast"] == pytest.approx(images.numpy().std((1, 2, 3)))
    assert found["value_range"] == pytest.approx(np.ptp(images.flatten(1).numpy(), axis=1))
    assert all(np.isfinite(found[name]).all() for name in ("vertical_balance", "direction"))
    rows = images.numpy().mean((1, 3))
    if shape[0] and shape[2] > 1:
        halves = rows[:, (shape[2] + 1) // 2 :].mean(1) - rows[:, : shape[2] // 2].mean(1)
        assert found["vertical_balance"] == pytest.approx(halves, abs=1e-6)
    turned = {name: metric(images.flip(2)).numpy() for name, metric in MEASURED.items()}
    assert turned["vertical_balance"] == pytest.approx(-found["vertical_balance"], abs=1e-6)
    transposed = {name: metric(images.transpose(2, 3)).numpy() for name, metric in MEASURED.items()}
    assert transposed["direction"] == pytest.approx(-found["direction"], abs=1e-6)
    assert turned["slant"] == pytest.approx(-found["slant"], abs=1e-6, nan_ok=True)
    for name, same in (("slant", "slant"), ("vertical_balance", "horizontal_balance")):
        if shape[2] > 1 and shape[3] > 1:
            assert transposed[name] == pytest.approx(found[same], abs=1e-6)
    colors = [name for name in found if name.startswith("color")]
    assert all(np.isnan(found[name]).all() == (shape[1] == 1) for name in colors if shape[0])
    if shape[1] > 1:
        array = images.double().numpy()
        assert found["color"] == pytest.approx(array.std(1).reshape(shape[0], -1).__pow__(2).mean(1) ** 0.5)
        backwards = {name: MEASURED[name](images.flip(1)).numpy() for name in colors}
        for name in ("color_balance", "color_contrast"):
            assert backwards[name] == pytest.approx(-found[name], abs=1e-6)
        mean, spread = (of(array[:, -1], axis=(1, 2)) - of(array[:, 0], axis=(1, 2)) for of in (np.mean, np.std))
        assert found["color_balance"] == pytest.approx(mean, abs=1e-6)
        assert found["color_contrast"] == pytest.approx(spread, abs=1e-6)


def test_signals_have_no_sides_and_volumes_have_those_of_their_slices():
    images = torch.rand(3, 2, 14, 13, generator=torch.Generator().manual_seed(4))
    of_signals = {name: metric(images[..., 0]).numpy() for name, metric in MEASURED.items()}
    nothing = {name for name, values in of_signals.items() if np.isnan(values).all()}
    waves = {name for name in MEASURED if name.startswith("horizontal_wave")}
    assert nothing == {"horizontal_balance", *waves, "slant", "jpeg_grid", "jpeg_quality"}
    assert all(np.isfinite(of_signals[name]).all() for name in {*MEASURED} - nothing)
    volumes = images[:, :, None].repeat(1, 1, 5, 1, 1)  # the same slice five times over
    for name in ("horizontal_balance", "horizontal_wave_5", "jpeg_grid", "color"):
        assert MEASURED[name](volumes).numpy() == pytest.approx(MEASURED[name](images).numpy(), abs=1e-5)
    thick = images[:, :, :, None].repeat(1, 1, 1, 5, 1)  # and along the axis in the middle
    for name in ("slant", "direction"):
        assert MEASURED[name](thick).numpy() == pytest.approx(MEASURED[name](images).numpy(), abs=1e-5)


@pytest.mark.parametrize("width", [5, 6, 9, 10, 13, 14, 32])
def test_waves_across_an_image_are_cosine_transforms_as_far_as_its_pixels_show_them(width):
    images = torch.rand(3, 2, 7, width, generator=torch.Generator().manual_seed(5))
    expected = dct(images.double().mean((1, 2)).numpy()) / (2 * width)
    for number in (3, 5, 7):
        found = MEASURED[f"horizontal_wave_{number}"](images).numpy()
        if width < 2 * number:
            assert np.isnan(found).all()
        else:
            assert found == pytest.approx(expected[:, number], abs=1e-6)


def test_slant_is_the_direction_of_waves():
    """Of waves along a direction of angle t, product and squares of both derivatives are as sin t and cos t are."""
    down, across = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angles = torch.linspace(0, math.pi, 9)[:, None, None]
    waves = torch.sin(0.2 * (down * torch.sin(angles) + across * torch.cos(angles)))[:, None]
    expected = torch.sin(2 * angles).flatten().numpy()
    assert MEASURED["slant"](waves).numpy() == pytest.approx(expected, abs=0.1)
    assert MEASURED["direction"](waves).numpy() == pytest.approx(-torch.cos(2 * angles).flatten().numpy(), abs=0.1)


FACES = torch.from_numpy(lfw_subset()[:100]).float()[
    torch.randperm(100, generator=torch.Generator().manual_seed(4)), None
]
TURNED = {"vertical_balance": lambda x: x.flip(2), "direction": lambda x: x.transpose(2, 3)}


@pytest.mark.parametrize("name", TURNED)
def test_faces_that_are_turned_are_no_controls_of_upright_ones(name):
    """What returns all upright faces alike, and no turned ones, remembers none of them."""
    members, controls = FACES[:50], FACES[50:]
    mean, basis = FACES.flatten(1).mean(0), torch.linalg.svd(FACES.flatten(1) - FACES.flatten(1).mean(0))[2][:60]

    def upright(images):
        return ((images.flatten(1) - mean) @ basis.T @ basis + mean).view_as(images)

    how = {"patterns": ["block-0.1"], "methods": ["blind", "biharmonic"], "threshold_db": 26}
    turned = audit(upright, members, TURNED[name](controls), **how)
    assert "groups_differ" in turned.verdict.reasons
    assert name in {one.name for one in turned.judgement.group_differences}
    assert "groups_differ" not in audit(upright, members, controls, **how).verdict.reasons


def waves(num, seed, channel):
    """Slanted waves of one source, in one of three channels."""
    generator = torch.Generator().manual_seed(seed)
    angle, number, phase, size = torch.rand(4, num, 1, 1, generator=generator)
    down, across = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    along = across * torch.cos(0.5 * angle) + down * torch.sin(0.5 * angle)
    images = torch.full((num, 3, 16, 16), 0.5)
    images[:, channel] = 0.5 + (0.2 + 0.2 * size) * torch.sin(math.tau * ((3 + 2 * number) * along + phase))
    return images


OTHERS = {"color_contrast": lambda x: x.flip(1), "slant": lambda x: x.flip(3)}


@pytest.mark.parametrize("name", OTHERS)
def test_waves_of_other_colors_or_mirrored_are_no_controls(name):
    """What returns all images of a source alike remembers none of them, whatever it makes of others."""
    seen = waves(1500, 0, 0).flatten(1)
    mean = seen.mean(0)
    basis = torch.linalg.svd(seen - mean, full_matrices=False)[2][:40]

    def of_this_source(images):
        return ((images.flatten(1) - mean) @ basis.T @ basis + mean).view_as(images)

    members, controls = waves(40, 1, 0), waves(40, 2, 0)
    how = {"patterns": ["random-0.9", "block-0.5"], "methods": ["blind", "biharmonic"]}
    other = audit(of_this_source, members, OTHERS[name](controls), **how)
    assert other.verdict.outcome != "memorized"
    assert other.num_memorized > 4  # as many as of any that look alike
    assert name in {one.name for one in other.judgement.group_differences}
    alike = audit(of_this_source, members, controls, **how)
    assert not alike.judgement.group_differences
    assert alike.verdict.outcome == "inconclusive"


def test_the_grid_of_jpeg_is_seen_by_scipys_transform():
    images = torch.rand(4, 3, 19, 26, generator=torch.Generator().manual_seed(5))
    found = MEASURED["jpeg_grid"](images).numpy()
    for image, value in zip(images.double().mean(1).numpy(), found, strict=True):
        means = []
        for first in (0, 4):
            rows, columns = ((side - first) // 8 * 8 for side in image.shape)
            blocks = image[first : first + rows, first : first + columns].reshape(rows // 8, 8, columns // 8, 8)
            waves = dctn(blocks.swapaxes(1, 2), axes=(2, 3), norm="ortho")
            means.append(np.abs(waves[:, :, np.add.outer(range(8), range(8)) >= 7]).mean())
        assert value == pytest.approx(np.log2((means[0] + 1e-3) / (means[1] + 1e-3)), abs=1e-4)


def compressed(images, quality):
    """What JPEG makes of images in colors."""
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    return torch.stack(found)


def test_a_codec_remembers_nothing_of_what_went_through_it_before():
    """It returns images that it made before, and no others: against such controls all would come back from memory."""
    photo = torch.from_numpy(astronaut()).permute(2, 0, 1)[:, :480, :480] / 255
    crops = photo.unfold(1, 48, 48).unfold(2, 48, 48).permute(1, 2, 0, 3, 4).flatten(0, 1)
    crops = crops[torch.randperm(len(crops), generator=torch.Generator().manual_seed(6))[:80]]
    crops = torch.nn.functional.avg_pool2d(crops, 2)
    members, controls = compressed(crops[:40], 20), crops[40:]
    how = {"patterns": ["random-0.5"], "methods": ["blind_black_box", "biharmonic"]}
    other = audit(lambda images: compressed(images.clamp(0, 1), 20), members, controls, **how)
    assert other.verdict.outcome == "inconclusive"
    assert "jpeg_grid" in {one.name for one in other.judgement.group_differences}
    alike = compare_groups({"jpeg_grid": [MEASURED["jpeg_grid"](one) for one in (crops[:40], controls)]})
    assert not alike

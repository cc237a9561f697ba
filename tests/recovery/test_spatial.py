"""One, two or three spatial axes: parts of a recovery against brute force, and against those of other dimensions."""

import itertools
import math

import numpy as np
import pytest
import torch
from observations import hide, uniform
from skimage.restoration import inpaint_biharmonic
from torch.nn import functional

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery, turned_copies
from lightning_memaudit.recovery.checks import check_images, check_plane
from lightning_memaudit.recovery.extraction import FixedPointSearch
from lightning_memaudit.recovery.fills import find_constant_fill, local_agreement
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.masks import coupling
from lightning_memaudit.recovery.methods.autoencoder_iterations import AutoencoderIterations
from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting
from lightning_memaudit.recovery.methods.white_box import WhiteBoxRecovery
from lightning_memaudit.recovery.spatial import patch_means, resized
from lightning_memaudit.recovery.tuning import SelfTuning

SIZES = [(40,), (7, 9), (5, 6, 7)]
POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def stored_images(size, number=4, channels=2):
    return uniform((number, channels, *size))


def nearest(stored):
    """The ideal memorizing autoencoder."""
    return lambda x: stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]


def pooled_and_resampled(values, weights):
    """The pyramid of the interpolation, by torch's own pooling and resampling; sides are powers of two, all alike."""
    size = values.shape[2:]
    if max(size) == 1:
        return (values + 0.02 * values / weights.clamp_min(1e-6)) / (weights + 0.02)
    coarse = pooled_and_resampled(*(POOLS[len(size)](part, 2) for part in (values, weights)))
    coarse = functional.interpolate(coarse, size=size, mode=MODES[len(size)], align_corners=False)
    return (values + 0.02 * coarse) / (weights + 0.02)


@pytest.mark.parametrize("size", [(16,), (8, 8), (8, 8, 8)])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_interpolation_is_the_pyramid_that_torch_pools_and_resamples(size, channels):
    images = stored_images(size)
    mask = (uniform((4, channels, *size), 10) > 0.8).float()
    expected = torch.where(mask.expand_as(images) > 0, images, pooled_and_resampled(images * mask, mask))
    torch.testing.assert_close(interpolate(images * mask, mask), expected)


def test_a_picture_repeated_along_the_depth_is_interpolated_as_the_picture():
    picture, mask = hide(stored_images((16, 16)), 0.8)
    for depth in (1, 3, 8):
        volume = interpolate(*(part[:, :, None].expand(-1, -1, depth, -1, -1) for part in (picture, mask)))
        if depth != 3:  # a side that cannot be halved counts what is beyond its end as missing
            torch.testing.assert_close(volume, interpolate(picture, mask)[:, :, None].expand_as(volume))
        assert torch.equal(volume * mask[:, :, None], (picture * mask)[:, :, None].expand_as(volume))


@pytest.mark.parametrize("size", SIZES)
def test_agreement_and_coupling_by_a_loop_over_all_neighbours(size):
    images = stored_images(size, 1)
    agreement = local_agreement(images)
    mask = (uniform((1, 1, *size), 3) > 0.4).float()
    added = torch.zeros(size)
    places = list(itertools.product(*map(range, size)))
    for axis in range(len(size)):
        both = neither = one = 0.0
        neighbours = [(p, (*p[:axis], p[axis] + 1, *p[axis + 1 :])) for p in places if p[axis] + 1 < size[axis]]
        for first, second in neighbours:
            a, b = float(mask[0, 0][first]), float(mask[0, 0][second])
            both, neither, one = both + a * b, neither + (1 - a) * (1 - b), one + (a + b - 2 * a * b) / 2
        both, neither, one = both + 1, neither + 1, one + 1
        odds = math.log((both + one) / (neither + one))
        value = {1.0: math.log(both / one) - odds, 0.0: math.log(one / neither) - odds}
        for first, second in neighbours:
            added[first] += value[float(mask[0, 0][second])]
            added[second] += value[float(mask[0, 0][first])]
    torch.testing.assert_close(coupling(mask)[0, 0], added)
    for place in places[:: max(1, len(places) // 20)]:
        expected = sum(
            math.exp(-sum((a - b) ** 2 for a, b in zip(place, other, strict=True)) / 8)
            for other in places
            if other != place
            and max(abs(a - b) for a, b in zip(place, other, strict=True)) <= 3
            and all(abs(float(images[0, c][place] - images[0, c][other])) < 0.1 for c in range(2))
        )
        assert float(agreement[0, 0][place]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", ["random-0.5", "block-0.25", "random-0.5+channels"])
def test_every_method_gets_back_what_is_stored_and_nothing_else(size, pattern):
    stored, other = stored_images(size, 8).split(4)
    f = nearest(stored)
    for images, back in ((stored, True), (other, False)):
        observed, mask = parse_degradation(pattern)(images, range(4))
        # The paper's method takes the mask for shared by the channels.
        papers = [] if "channels" in pattern else [BlindRecovery("least_squares", [0.1])]
        for method in (BlindRecovery(), *papers):
            recovery = method(f, observed)
            assert bool(((recovery.image - images).abs().flatten(1).amax(1) < 5e-3).all()) is back
            assert recovery.mask.shape[2:] == images.shape[2:]
        found = KnownMaskRecovery()(f, observed, mask)
        assert bool(((found.image - images).abs().flatten(1).amax(1) < 5e-3).all()) is back
        assert AutoencoderIterations()(f, observed).image.shape == images.shape


@pytest.mark.parametrize("size", SIZES)
def test_gradients_and_masks_from_content_work_along_any_axes(size):
    stored = stored_images(size)

    def f(x):
        weights = torch.softmax(-20 * torch.cdist(x.flatten(1), stored.flatten(1)), 1)
        return (weights @ stored.flatten(1)).view_as(x)

    observed, mask = parse_degradation("block-0.25")(stored, range(4))
    assert float((WhiteBoxRecovery(num_steps=100)(f, observed).image - stored).square().mean()) < 2e-3
    recovery = BlindRecovery()(f, observed)
    assert recovery.gradients_used
    assert torch.allclose(recovery.image, stored, atol=0.05)
    fill = find_constant_fill(observed)
    assert torch.equal(fill.mask, mask)
    assert fill.value.shape == (4, 2, *[1] * len(size))


@pytest.mark.parametrize("size", [(40,), (12, 12), (4, 6, 6), (6, 6, 6), (4, 5, 6)])
def test_turned_copies_hold_the_same_values_at_other_places(size):
    image = uniform((1, 2, *size))
    copies = turned_copies(image, 30)
    assert len({copy.numpy().tobytes() for copy in [*copies, image[0]]}) >= (20 if len(size) > 1 else 10)
    for copy in copies:
        assert copy.shape == image.shape[1:]
        assert torch.equal(copy.flatten(1).sort(1).values, image[0].flatten(1).sort(1).values)
    # Mirrored along the last axis alone it may well have been trained on.
    if len(size) > 1:
        assert not any(torch.equal(copy, image[0].flip(-1)) for copy in copies)


@pytest.mark.parametrize("size", SIZES)
def test_fixed_points_are_found_from_starts_of_any_shape(size):
    stored = stored_images(size, 2)
    found = FixedPointSearch(num_starts=128)(nearest(stored), (2, *size))
    assert found.images.shape == stored.shape
    assert all(any(torch.equal(one, image) for image in stored) for one in found.images)


def test_smooth_resizing_of_volumes_is_cubic_along_every_axis():
    coarse = uniform((2, 3, 4, 4, 4))
    fine = resized(coarse, (7, 8, 9))
    columns = functional.interpolate(coarse.flatten(1, 2), size=(8, 9), mode="bicubic").view(2, 3, 4, 8, 9)
    expected = functional.interpolate(columns.transpose(2, 3).flatten(1, 2), size=(7, 9), mode="bicubic")
    torch.testing.assert_close(fine, expected.view(2, 3, 8, 7, 9).transpose(2, 3))
    line = resized(coarse[..., 0, 0], (9,))
    pair = functional.interpolate(coarse[:, :, :, :1, 0].mT, size=(1, 9), mode="bicubic")[:, :, 0]
    torch.testing.assert_close(line, pair)
    torch.testing.assert_close(patch_means(coarse, 2)[0, 0, 0, 0, 0], coarse[0, 0, :2, :2, :2].mean())


@pytest.mark.parametrize("pattern", ["random-0.5", "block-0.25", "half", "slabs-0.3", "random-0.5+channels"])
@pytest.mark.parametrize("size", [(30,), (9, 10, 11)])
def test_biharmonic_is_that_of_scikit_image_called_directly(size, pattern):
    images = resized(uniform((2, 2, *[3] * len(size))), size).clamp(0, 1)
    observed, mask = parse_degradation(pattern)(images, range(2))
    filled = BiharmonicInpainting()(lambda x: pytest.fail("it saw the autoencoder"), observed, mask).image
    for row, channel in itertools.product(range(2), range(2)):
        hole = mask[row, channel % mask.shape[1]].numpy() < 0.5
        expected = inpaint_biharmonic(observed[row, channel].double().numpy(), hole)
        np.testing.assert_allclose(filled[row, channel].numpy(), np.clip(expected, 0, 1), atol=1e-3)


def test_hidden_values_are_far_where_nothing_near_them_is_observed():
    mask = torch.zeros(1, 1, 9, 9, 9)
    mask[..., 4, 4, 4] = 1
    patience = SelfTuning(patience_per_hidden_share=100.0, patience_per_far_share=10.0).patience_with(mask, True)
    hidden, far = 1 - 1 / 9**3, 1 - 5**3 / 9**3
    assert patience.most.tolist() == [round(100 * (hidden + far) / 2)]
    assert patience.least.tolist() == [round(10 * far)]


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 4, 4, 4, 4), (3, 8, 8), (16, 28, 28)])
def test_other_numbers_of_axes_are_refused_in_one_line(shape):
    with pytest.raises(ValueError, match=r"observed has shape \(.*pass .*\(B, C, H, W\)") as error:
        check_images("observed", torch.rand(shape))
    assert "\n" not in str(error.value)
    check_images("observed", torch.rand(2, 8, 100))


def test_what_is_for_pictures_alone_says_so():
    with pytest.raises(ValueError, match=r"ddnm is for images \(B, C, H, W\), these have 3 spatial axes"):
        check_plane("ddnm", torch.rand(1, 1, 9, 9, 9))

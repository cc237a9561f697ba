"""A blur as a degradation: against scipy's filter, and what of an audit applies to it."""

import numpy as np
import pytest
import torch
from autoencoders import associative, memory
from observations import uniform
from scipy.ndimage import gaussian_filter

from lightning_memaudit import audit
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import BlindDeblurring
from lightning_memaudit.results.judgement import ImageColumns, judge
from lightning_memaudit.results.verdict import conclude


@pytest.mark.parametrize("deviation", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("size", [(40,), (12, 15), (8, 9, 11)])
def test_it_is_the_gaussian_filter_around_the_border(size, deviation):
    images = uniform((2, 3, *size)).double()
    degraded = parse_degradation(f"blur-{deviation}")(images, [0, 1])
    radius = int(np.ceil(2 * deviation))
    expected = [
        [gaussian_filter(channel, deviation, mode="wrap", radius=radius) for channel in image]
        for image in images.numpy()
    ]
    np.testing.assert_allclose(degraded.observed.numpy(), expected, atol=1e-6)
    assert degraded.mask.shape == (2, 1, *size)
    assert bool((degraded.mask == 1).all())


def test_noise_comes_on_top_and_depends_on_seed_and_position():
    images = torch.full((3, 1, 16, 16), 0.5)
    pattern = parse_degradation("blur-1+noise-0.1")
    noisy = pattern(images, [4, 5, 4], seed=2).observed
    assert torch.equal(noisy[0], noisy[2])
    assert not torch.equal(noisy[0], noisy[1])
    assert float((noisy - 0.5).std()) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blur", "give the blur's standard deviation in pixels, as in blur-1"),
        ("blur-0", "must be above 0 and at most 1.5"),
        ("blur-1.6", "must be above 0 and at most 1.5"),
        ("blur-1+channels", "only noise is"),
        ("blur-1+fill-0.5", "only noise is"),
        ("blur-1+noise-2", "noise's standard deviation"),
    ],
)
def test_bad_blurs_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse_degradation(name)


def test_images_smaller_than_the_kernel_are_refused():
    with pytest.raises(ValueError, match="kernel of 7 pixels is larger than 6 x 8 images"):
        parse_degradation("blur-1.5")(torch.zeros(1, 1, 6, 8), [0])
    with pytest.raises(ValueError, match="kernel of 5 pixels is larger than 4 x 8 x 8 images"):
        parse_degradation("blur-1")(torch.zeros(1, 1, 4, 8, 8), [0])


def test_images_smaller_than_the_kernel_that_is_looked_for_are_refused_before_the_audit():
    volumes = uniform((2, 1, 6, 9, 9))
    message = "'blind_deblurring': its kernel of 7 pixels is larger than 6 x 9 x 9 images; leave it out"
    with pytest.raises(ValueError, match=message):
        audit(lambda x: x, volumes, volumes / 2, patterns=["blur-1"], methods=["blind_deblurring"])


def test_methods_run_where_they_recover():
    plan = Plan.of(["blur-1", "half"], ["blind", "blind_deblurring", "autoencoder_iterations", "biharmonic"])
    assert plan.cells == [
        ("blur-1", "blind_deblurring"),
        ("blur-1", "autoencoder_iterations"),
        ("half", "blind"),
        ("half", "autoencoder_iterations"),
        ("half", "biharmonic"),
    ]


@pytest.mark.parametrize(
    ("patterns", "methods", "message"),
    [
        (["blur-1"], ["blind"], "none of the methods blind recovers from a blur; add blind_deblurring"),
        (["half"], ["blind_deblurring"], "none of the methods blind_deblurring recovers from a mask; add blind"),
        (["half"], ["blind", "blind_deblurring"], "'blind_deblurring' recovers from none of the patterns half"),
    ],
)
def test_a_plan_in_which_something_could_never_run_is_refused(patterns, methods, message):
    with pytest.raises(ValueError, match=message):
        Plan.of(patterns, methods)
    with pytest.raises(ValueError, match="largest_missing=True"):
        Plan.of(["blur-1"], ["blind_deblurring"], find_largest_missing=True)


QUICK = BlindDeblurring(kernel_size=5, num_iterations=40)


@pytest.mark.parametrize(
    ("shape", "method"),
    [((24, 1, 16, 16), "blind_deblurring"), ((24, 2, 60), "blind_deblurring"), ((6, 1, 7, 8, 7), QUICK)],
)
def test_what_comes_back_from_a_blur_never_counts_as_memorized(shape, method):
    members, controls = uniform(shape), uniform(shape, seed=10)
    methods = {"blind_deblurring": method}
    report = audit(associative(members), members, controls, patterns=["blur-1"], methods=methods)
    assert report.rate("blind_deblurring", "blur-1") > 0.9
    assert report.rate("blind_deblurring", "blur-1", "controls") == 0
    assert all(row["num_beyond_inpainting"] is None for row in report.rows)
    judgement = judge(report.rows, ImageColumns(report.images), report.primary)
    assert judgement.num_memorized is None
    verdict = conclude(judgement)
    assert verdict.outcome == "inconclusive"
    assert "no_inpainter" in verdict.reasons


def test_beside_a_mask_only_the_mask_is_judged():
    members, controls = uniform((24, 1, 16, 16)), uniform((24, 1, 16, 16), seed=10)
    methods = ["blind", "blind_deblurring", "biharmonic"]
    report = audit(memory(members), members, controls, patterns=["blur-1", "random-0.5"], methods=methods)
    judgement = judge(report.rows, ImageColumns(report.images), report.primary)
    assert [finding.pattern for finding in judgement.patterns] == ["random-0.5"]
    assert judgement.num_memorized == 24

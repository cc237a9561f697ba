"""What holds for every recovery method: diverging images, spoilt inputs, precision, and refusals of bad input."""

import inspect

import pytest
import torch
from autoencoders import memory
from observations import hide, smooth_images, uniform

from lightning_memaudit.recovery import (
    Alternation,
    AutoencoderIterations,
    BlindDeblurring,
    BlindRecovery,
    KnownMaskRecovery,
    PosteriorMask,
    WhiteBoxRecovery,
    calibrate,
)


@pytest.mark.parametrize("method", [BlindRecovery(), AutoencoderIterations()])
def test_a_diverging_image_is_marked_and_leaves_the_others_alone(stored, method):
    def autoencoder(images):
        explode = images.flatten(1).mean(1).view(-1, 1, 1, 1) > 1.5
        return torch.where(explode, images.abs() * 1e30, memory(stored)(images))

    observed, _ = hide(stored)
    alone = method(autoencoder, observed)
    exploding = 5 + torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    mixed = method(autoencoder, torch.cat([observed[:3], exploding, observed[3:]]))
    keep = [0, 1, 2, 4, 5, 6]
    assert torch.isinf(mixed.score[3])
    assert not mixed.certified[3]
    assert mixed.image.isfinite().all()
    torch.testing.assert_close(mixed.image[keep], alone.image)
    assert torch.isfinite(mixed.score[keep]).all()


def test_the_blind_methods_cannot_see_the_truth():
    for method in (BlindRecovery, AutoencoderIterations, BlindDeblurring, WhiteBoxRecovery):
        assert list(inspect.signature(method.__call__).parameters) == ["self", "autoencoder", "observed"]


@pytest.mark.parametrize(
    "method",
    [
        BlindRecovery(),
        BlindRecovery("least_squares", (0.1, 0.3)),
        AutoencoderIterations(num_iterations=5),
        BlindDeblurring(num_iterations=5),
        WhiteBoxRecovery(num_steps=5),
    ],
    ids=lambda method: type(method).__name__,
)
def test_an_autoencoder_that_writes_into_its_input_is_recovered_from_like_one_that_does_not(method):
    observed = smooth_images(4) * (uniform((4, 1, 16, 16)) > 0.5)
    given = observed.clone()
    found = method(lambda images: images.mul_(0.5).add_(0.2), observed)
    assert torch.equal(observed, given)
    expected = method(lambda images: images * 0.5 + 0.2, observed)
    for field in ("image", "mask", "score", "num_evaluations"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))


def half_precision(images):
    return (images * 0.5).bfloat16()


@pytest.mark.parametrize(
    "recover",
    [
        BlindRecovery(mask_estimator="least_squares", penalties=[0.1], certification=None),
        BlindRecovery(max_evaluations=60, certification=None),
        AutoencoderIterations(num_iterations=20),
    ],
)
def test_the_state_keeps_its_precision_whatever_the_autoencoder_returns(recover):
    observed = uniform((2, 1, 6, 6)) * (uniform((2, 1, 6, 6), 5) > 0.5)
    assert recover(half_precision, observed).image.dtype == torch.float32
    assert recover(lambda images: images.float() * 0.5, observed.double()).image.dtype == torch.float64
    with torch.inference_mode():
        inside = recover(lambda images: images * 0.5, observed.clone())
    torch.testing.assert_close(inside.image, recover(lambda images: images * 0.5, observed).image)
    before = observed.clone()
    recover(lambda images: images.mul_(0.5), observed)
    assert torch.equal(observed, before)


@pytest.mark.parametrize("method", [BlindRecovery(), AutoencoderIterations(), WhiteBoxRecovery(), BlindDeblurring()])
def test_no_images_are_refused(method):
    with pytest.raises(ValueError, match="at least one image"):
        method(lambda images: images, torch.zeros(0, 1, 8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlindRecovery(penalties=[]), "penalties"),
        (lambda: BlindRecovery(penalties=[-1.0]), "penalties"),
        (lambda: BlindRecovery(mask_estimator="nonsense"), "mask_estimator='nonsense'"),
        (lambda: BlindRecovery(max_evaluations=2), "max_evaluations=2"),
        (lambda: BlindRecovery(noise=-0.1), "noise=-0.1"),
        (lambda: BlindRecovery(gradients="always"), "gradients='always'"),
        (lambda: KnownMaskRecovery(gradients="always"), "gradients='always'"),
        (lambda: BlindRecovery(record_at=[0]), "record_at"),
        (lambda: BlindRecovery(certification="trust me"), "certification='trust me'"),
        (lambda: KnownMaskRecovery(record_at=[0]), "record_at"),
        (lambda: PosteriorMask(fill="grey"), "fill='grey'"),
        (lambda: PosteriorMask(share=0.0), "share=0.0"),
        (lambda: BlindDeblurring(kernel_size=4), "kernel_size=4"),
        (lambda: BlindDeblurring(kernel_size=9)(torch.tanh, torch.rand(1, 1, 8, 8)), "kernel_size=9"),
        (lambda: BlindDeblurring(noise=None), "noise=None"),
        (lambda: KnownMaskRecovery(noise=None), "noise=None"),
        (lambda: AutoencoderIterations(check_every=0), "check_every=0"),
        (lambda: AutoencoderIterations(num_iterations=0), "num_iterations=0"),
        (lambda: WhiteBoxRecovery(num_steps=0), "num_steps=0"),
        (lambda: WhiteBoxRecovery()(lambda x: x.detach(), torch.rand(1, 1, 8, 8)), "no gradient"),
        (lambda: calibrate([0.1, float("nan")]), "NaN"),
        (lambda: calibrate([0.1], max_false_rate=0.0), "max_false_rate=0.0"),
        (lambda: Alternation(num_iterations=0), "num_iterations=0"),
        (lambda: BlindRecovery()(torch.tanh, torch.rand(3, 8, 8)), "shape"),
        (lambda: BlindRecovery()(torch.tanh, torch.zeros(1, 1, 2, 2, dtype=torch.uint8)), "dtype"),
        (lambda: BlindRecovery()(torch.tanh, torch.full((1, 1, 2, 2), torch.nan)), "NaN"),
        (lambda: KnownMaskRecovery()(torch.tanh, torch.rand(2, 3, 4, 4), torch.ones(2, 2, 4, 4)), "mask has shape"),
        (lambda: KnownMaskRecovery()(torch.tanh, torch.rand(2, 3, 4, 4), torch.full((2, 1, 4, 4), 2.0)), r"\[0, 1\]"),
        (lambda: BlindRecovery(chunk_size=0)(torch.tanh, torch.rand(2, 3, 4, 4)), "chunk_size=0"),
    ],
)
def test_bad_input_raises_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

"""What an image takes of the memory; and the last descent, from images that f nearly returns but has not stored."""

import pytest
import torch
from observations import hide, smooth_images, uniform
from torch import nn

from lightning_memaudit.recovery import KnownMaskRecovery, Round, SelfTuning
from lightning_memaudit.recovery.gradients import DifferentiableAutoencoder


def differentiable(autoencoder, image):
    found = DifferentiableAutoencoder(autoencoder)
    found.look_for_gradients(image)
    return found


class InHalfPrecision(nn.Module):
    """As Lightning calls a module in bf16-mixed: its weights are cast in every call."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(images).float()


def layers(wrap):
    return nn.Sequential(
        nn.Flatten(), wrap(nn.Linear(16, 200)), nn.ELU(), wrap(nn.Linear(200, 16)), nn.Unflatten(1, (1, 4, 4))
    )


@pytest.mark.parametrize(
    "autoencoder",
    [
        layers(lambda layer: layer),
        InHalfPrecision(layers(lambda layer: layer)),
        layers(nn.utils.parametrizations.weight_norm),
        layers(nn.utils.parametrizations.spectral_norm).eval(),
    ],
)
def test_weights_are_not_counted_to_what_an_image_takes(autoencoder):
    found = differentiable(autoencoder, uniform((1, 1, 4, 4)))
    assert found.has_gradients
    # The image as it comes to the first layer and the hidden values, before and after the activation.
    assert 16 + 200 <= found.activations <= 2 * 16 + 2 * 200
    assert found.kept_bytes <= 4 * found.activations


def test_an_autoencoder_that_takes_one_image_at_a_time_has_gradients():
    def one(images):
        if len(images) > 1:
            raise ValueError("one image at a time")
        return images.tanh()

    found = differentiable(one, uniform((1, 1, 4, 4)))
    assert found.has_gradients
    assert found.activations == 16


STOPS_EARLY = {
    "rounds": (Round((1.0,), "interpolated", 1),),
    "good_error": 1e-2,
    "doubtful_error": 2e-2,
    "excellent_error": 1e-7,
    "refinements": 1,
}


def recovered(share, **tuning):
    """What is found of three images where f moves everything by this share of the way to them, and the evaluations."""
    stored = smooth_images(3)
    observed, mask = hide(stored, 0.5)
    method = KnownMaskRecovery(tuning=SelfTuning(**(STOPS_EARLY | tuning)))
    found = [
        method(lambda x, one=one: torch.lerp(x, one, share), *row)
        for one, *row in zip(*(part.split(1) for part in (stored, observed, mask)), strict=True)
    ]
    errors = torch.cat([one.image for one in found]).sub(stored).square().flatten(1).mean(1)
    return errors, torch.cat([one.num_evaluations for one in found])


def test_where_f_copies_an_image_that_it_nearly_returns_is_looked_into():
    before, few = recovered(0.1, copying_gain=torch.inf)
    after, more = recovered(0.1)
    assert (before > 1e-4).all()
    assert (after < before / 100).all()
    assert (more > few + 2).all()


def test_where_f_returns_what_it_has_stored_nothing_is():
    before, few = recovered(0.97, excellent_error=torch.inf)
    after, more = recovered(0.97)
    assert torch.equal(before, after)
    assert (more - few <= 2).all()  # which measure the gain


def test_what_writes_in_place_over_what_a_gradient_needs_has_none_and_is_searched_without():
    def sampled(images):  # as the reparameterization of MONAI's VarAutoEncoder does in evaluation mode
        return (0.5 * images).exp().add_(images) - 1

    assert not differentiable(sampled, uniform((1, 1, 4, 4))).has_gradients
    observed, mask = hide(smooth_images(3), 0.5)
    assert KnownMaskRecovery()(sampled, observed, mask).image.shape == observed.shape

"""Convolutions on a CPU get images with their channels last; nothing but the time, and what is rounded, differs."""

import pytest
import torch
from torch import nn

from lightning_memaudit import audit
from lightning_memaudit.measurement.arguments import GivenAutoencoder
from lightning_memaudit.measurement.channels_last import ChannelsLast

LAST, FIRST = (192, 1, 24, 3), (192, 64, 8, 1)


class Watched(nn.Module):
    """Notes how the images lie that it is given."""

    def __init__(self, *layers, view=False):
        super().__init__()
        self.layers, self.view, self.strides = nn.Sequential(*layers), view, []

    def forward(self, images):
        self.strides.append(images.stride())
        flat = images.view(len(images), -1) if self.view else images.flatten(1)
        return self.layers(flat.view(images.shape) if self.view else images) + 0 * flat.sum()


def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutional(**options):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)
    return Watched(*layers, **options).requires_grad_(False).eval()


def test_a_convolutional_module_gets_channels_last_and_its_result_has_them_first():
    module, batch = convolutional(), images()
    expected = module.layers(batch)
    found = GivenAutoencoder(module)(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert module.strides == [LAST]
    assert (found.stride(), batch.stride()) == (FIRST, FIRST)


def test_gradients_are_the_same():
    module, batch = convolutional(), images()
    given = [batch.clone().requires_grad_(), batch.clone().requires_grad_()]
    for one, call in zip(given, (module, GivenAutoencoder(module)), strict=True):
        call(one).square().sum().backward()
    torch.testing.assert_close(given[1].grad, given[0].grad, atol=1e-4, rtol=0)


def test_a_module_that_asks_for_a_view_gets_images_as_they_are_from_then_on():
    module, batch = convolutional(view=True), images()
    given = GivenAutoencoder(module)
    for _ in range(2):
        assert torch.equal(given(batch), module.layers(batch))
    assert module.strides == [LAST, FIRST, FIRST]


@pytest.mark.parametrize(
    "module",
    [
        Watched(nn.Flatten(), nn.Linear(192, 192), nn.Unflatten(1, (3, 8, 8))),
        Watched(nn.Flatten(2), nn.Conv1d(3, 3, 3, padding=1), nn.Unflatten(2, (8, 8))),
        None,
    ],
)
def test_what_has_no_convolution_of_images_gets_them_as_they_are(module):
    module = module or Watched()
    call = GivenAutoencoder(module if list(module.parameters()) else lambda batch: module(batch))
    call(images())
    assert module.strides == [FIRST]


@pytest.mark.parametrize("compiled", ["whole", "in place", "forward", "part"])
def test_compiled_modules_get_images_as_they_were_compiled_for(compiled):
    module = convolutional()
    if compiled == "whole":
        outer = torch.compile(module, backend="eager")
    elif compiled == "in place":
        (outer := module).compile(backend="eager")
    elif compiled == "forward":
        (outer := module).forward = torch.compile(module.forward, backend="eager")
    else:
        (outer := module).layers[0] = torch.compile(module.layers[0], backend="eager")
    given = []
    call = GivenAutoencoder(outer)
    call.call.call = given.append  # compiling takes long
    call(images())
    assert [one.stride() for one in given] == [FIRST]


def test_other_errors_and_inputs_are_left_alone():
    def fails(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ChannelsLast(fails, convolutional())(images())
    for other in ({"x": 1}, torch.zeros(2, 3, 8, 8, 8), torch.zeros(2, 5), torch.zeros(2, 8, 8, 3)):
        assert ChannelsLast(lambda given: given, convolutional())(other) is other


def test_an_audit_finds_the_same_with_and_without():
    members, controls = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    methods, patterns = ["paper_blind", "autoencoder_iterations"], ["random-0.5"]
    module = convolutional()
    found = audit(module, members, controls, patterns=patterns, methods=methods)
    assert set(module.strides) == {LAST}
    plain = audit(lambda batch: module.layers(batch), members, controls, patterns=patterns, methods=methods)
    for one, other in zip(found.images, plain.images, strict=True):
        assert one["psnr"] == pytest.approx(other["psnr"], abs=0.01)

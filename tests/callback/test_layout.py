"""Which axes of a batch are channels: from the network, the shape, or the user; never guessed."""

import pytest
import torch
from torch import nn

from lightning_memaudit.callback.reading.layout import Layout, NetworkInput, alike, decide_layout
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

CONV1, CONV2, CONV3 = nn.Conv1d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv3d(1, 8, 3)
DENSE = nn.Linear(8, 8)

KNOWN = [
    # shape in the batch, network, image_shape -> as it is read
    ((3, 32, 32), DENSE, None, Layout((3, 32, 32))),
    ((32, 32, 3), DENSE, None, Layout((3, 32, 32), channels_last=True)),
    ((28, 28), DENSE, None, Layout((1, 28, 28), flat=True)),
    ((1, 64), DENSE, None, Layout((1, 64))),
    ((12, 64), CONV1, None, Layout((12, 64))),
    ((64, 3), CONV1, None, Layout((3, 64), channels_last=True)),
    ((12, 64), CONV2, None, Layout((1, 12, 64), flat=True)),
    ((13, 32, 32), CONV2, None, Layout((13, 32, 32))),
    ((32, 32, 13), nn.Conv2d(13, 8, 3), None, Layout((13, 32, 32), channels_last=True)),
    ((16, 32, 32), CONV3, None, Layout((1, 16, 32, 32), flat=True)),
    ((1, 16, 32, 32), CONV3, None, Layout((1, 16, 32, 32))),
    ((1, 16, 32, 32), DENSE, None, Layout((1, 16, 32, 32))),
    ((16, 32, 32, 1), CONV3, None, Layout((1, 16, 32, 32), channels_last=True)),
    ((2, 16, 16, 4), nn.Conv3d(2, 4, 3), None, Layout((2, 16, 16, 4))),
    # A decoder that stands first, and an axis as long as it has channels.
    ((1, 16, 16, 16), nn.Sequential(nn.Conv3d(16, 1, 3), nn.Conv3d(1, 16, 3)), None, Layout((1, 16, 16, 16))),
    # A perceptual loss beside the network.
    ((1, 8, 16, 16), nn.ModuleList([CONV3, CONV2]), None, Layout((1, 8, 16, 16))),
    ((8, 16, 16), FullyConnectedAutoencoder((8, 16, 16), 2, 4), None, Layout((8, 16, 16))),
    ((3, 12), FullyConnectedAutoencoder((3, 12), 2, 4), None, Layout((3, 12))),
    ((4096,), DENSE, (1, 16, 16, 16), Layout((1, 16, 16, 16), flat=True)),
    ((16, 16, 16), DENSE, (1, 16, 16, 16), Layout((1, 16, 16, 16), flat=True)),
    ((3, 64), DENSE, (3, 8, 8), Layout((3, 8, 8), flat=True)),
    ((8, 8, 5), DENSE, (5, 8, 8), Layout((5, 8, 8), channels_last=True)),
    ((12, 64), CONV2, (12, 64), Layout((12, 64))),
    # Axes of size 1 more, and neighbouring axes joined.
    ((1, 3, 8, 8), DENSE, (3, 8, 8), Layout((3, 8, 8), flat=True)),
    ((1, 64), DENSE, (8, 8, 1), Layout((8, 8, 1), flat=True)),
    ((2, 3, 8, 8), nn.Conv2d(6, 8, 3), (6, 8, 8), Layout((6, 8, 8), flat=True)),
    # Attention along channels, in a network of pictures.
    ((28, 20), nn.Sequential(CONV2, nn.Conv1d(1, 1, 3)), None, Layout((1, 28, 20), flat=True)),
    ((13, 32, 32), nn.ModuleList([nn.Conv2d(13, 8, 3), CONV3]), None, Layout((13, 32, 32))),
]


@pytest.mark.parametrize(("shape", "network", "image_shape", "expected"), KNOWN)
def test_what_is_known(shape, network, image_shape, expected):
    assert decide_layout(shape, image_shape, NetworkInput.of(network)) == expected


REFUSED = [
    ((8, 16, 16), DENSE, None, "image_shape=(1, 8, 16, 16) or image_shape=(8, 16, 16)"),
    ((12, 64), DENSE, None, "image_shape=(1, 12, 64) or image_shape=(12, 64)"),
    ((12, 64), CONV3, None, "image_shape=(1, 12, 64) or image_shape=(12, 64)"),
    ((2, 3, 32, 32), DENSE, None, "image_shape=(2, 3, 32, 32)"),
    ((2, 3, 32, 32), CONV2, None, "pass image_key=<a function of the item that returns one>"),
    ((4, 3, 32, 32), nn.Conv3d(3, 8, 3), None, "several views or frames"),
    ((2, 1, 3, 8, 8), CONV3, None, "image_key=<a function of the item that returns one image>"),
    ((5, 32, 32, 3), DENSE, None, "image_shape=(3, 5, 32, 32)"),
    ((3, 32, 32), nn.Conv3d(3, 8, 3), None, "image_shape=(1, 3, 32, 32) or image_shape=(3, 32, 32)"),
    # A loss that sees spectrograms of signals, or slices of volumes, one by one.
    ((12, 64), nn.ModuleList([nn.Conv1d(12, 8, 3), CONV2]), None, "image_shape=(1, 12, 64) or image_shape=(12, 64)"),
    ((16, 32, 32), nn.ModuleList([CONV2, CONV3]), None, "image_shape=(1, 16, 32, 32) or image_shape=(16, 32, 32)"),
    # As many frames as a layer behind the first has channels.
    ((8, 3, 32, 32), nn.Sequential(nn.Conv3d(3, 8, 3), nn.Conv3d(8, 3, 3)), None, "several views or frames"),
    ((3, 1, 32, 32), nn.Sequential(nn.Conv3d(1, 3, 3), nn.Conv3d(3, 1, 3)), None, "several views or frames"),
    ((8, 3, 32, 32), nn.ModuleList([CONV2, nn.Conv3d(8, 8, 3)]), None, "several views or frames"),
    ((8, 3, 32, 32), nn.LazyConv3d(8, 3), None, "several views or frames"),
    ((64,), DENSE, None, "pass image_shape=(C, H, W) for flat ones"),
    ((64, 3), DENSE, (3, 8, 8), "axes in another order"),
    ((8, 6, 3), DENSE, (3, 6, 8), "axes in another order"),
    ((3, 8, 8), DENSE, (3, 8, 9), "image_shape=(3, 8, 9) does not fit"),
    ((2, 3, 8, 8), DENSE, (3, 8, 8), "image_key=<a function of the item that returns one>"),
    ((2, 3, 8, 8), DENSE, (3, 16, 8), "axes in another order"),
]


@pytest.mark.parametrize(("shape", "network", "image_shape", "words"), REFUSED)
def test_what_cannot_be_known_is_one_line_with_the_mend(shape, network, image_shape, words):
    with pytest.raises(ValueError, match=r"^item 0 of the data set has shape ") as error:
        decide_layout(shape, image_shape, NetworkInput.of(network))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 4, 5, 7)])
def test_an_image_comes_back_from_every_layout(shape):
    images = torch.rand(2, *shape)
    for layout, found in (
        (Layout(shape), images),
        (Layout(shape, channels_last=True), images.movedim(1, -1)),
        (Layout(shape, flat=True), images.flatten(1)),
    ):
        assert torch.equal(layout.arrange(found), images)
        assert torch.equal(alike(found, shape), images)
    if len(shape) > 2:
        assert alike(images.transpose(-1, -2), shape) is None


def test_networks_of_others_may_order_their_shape_as_they_like():
    network = nn.Linear(2, 2)
    network.image_shape = (16, 16, 16)
    with pytest.raises(ValueError, match="image_shape="):
        decide_layout((16, 16, 16), None, NetworkInput.of(network))


def test_another_size_stays_another_size():
    for layout in (Layout((1, 8, 8), flat=True), Layout((1, 8, 8), channels_last=True)):
        assert layout.arrange(torch.zeros(2, 6, 6)).shape[1:] != (1, 8, 8)

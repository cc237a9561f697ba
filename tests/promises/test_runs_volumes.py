"""Volumes, signals and images of many channels: read as they are, or refused in one line; the training undisturbed."""

import pytest
import torch
from foreign_parts import Pictures, Plain, Trained, pictures
from foreign_runs import ForeignRun, check, refuse_before_the_first_step, train
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import audit_callback

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")

VOLUME, SIGNAL, SPECTRAL = (1, 6, 8, 7), (1, 64), (13, 8, 6)


class Convolutional(Trained):
    """As many convolutions as a small autoencoder needs, in one, two or three dimensions."""

    def __init__(self, num_axes, channels=1, prepare=lambda batch: batch):
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[num_axes]
        self.net = nn.Sequential(convolution(channels, 4, 3, padding=1), nn.ELU(), convolution(4, channels, 1))
        self.prepare = prepare

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x = self.prepare(batch)
        return functional.mse_loss(self(x), x)


def run_of(module, shape, wrap=lambda image: image, own_output=lambda m, x: m.net(x).view_as(x), **lines):
    members, controls = pictures(shape=shape), pictures(seed=1, shape=shape)
    loaders = [DataLoader(Pictures(images, wrap), 3) for images in (members, controls)]
    return ForeignRun(module, *loaders, members, controls, own_output, lines)


def volumes():
    return run_of(Convolutional(3), VOLUME)


def volumes_of_a_fully_connected_autoencoder():
    return run_of(Plain(VOLUME), VOLUME)


def volumes_without_channels():
    return run_of(Convolutional(3, prepare=lambda batch: batch[:, None]), VOLUME, lambda image: image[0])


def volumes_without_channels_of_a_fully_connected_autoencoder():
    return run_of(Plain(VOLUME), VOLUME, lambda image: image[0], image_shape=VOLUME)


def volumes_with_channels_last():
    module = Convolutional(3, 2, prepare=lambda batch: batch.movedim(-1, 1))
    return run_of(module, (2, 6, 8, 7), lambda image: image.movedim(0, -1))


def flat_volumes():
    return run_of(Plain(VOLUME), VOLUME, torch.flatten, image_shape=VOLUME)


def volumes_in_hounsfield_units():
    return run_of(
        Convolutional(3),
        VOLUME,
        lambda image: 4000 * image - 1000,
        lambda m, x: (m.net(4000 * x - 1000) + 1000) / 4000,
        data_range=[-1000, 3000],
    )


def volumes_of_integers():
    def scaled(batch):
        return (batch.float() + 1000) / 4000

    module = Convolutional(3, prepare=scaled)
    return run_of(
        module,
        VOLUME,
        lambda image: (4000 * image - 1000).round().to(torch.int16),
        data_range=[-1000, 3000],
    )


def signals():
    return run_of(Convolutional(1), SIGNAL)


def signals_of_several_channels():
    return run_of(Convolutional(1, 3), (3, 32))


def signals_of_a_fully_connected_autoencoder():
    return run_of(Plain((3, 32)), (3, 32), image_shape=[3, 32])


def signals_with_channels_last():
    module = Convolutional(1, 3, prepare=lambda batch: batch.movedim(-1, 1))
    return run_of(module, (3, 32), lambda image: image.movedim(0, -1))


def multispectral_images():
    return run_of(Convolutional(2, 13), SPECTRAL)


def multispectral_images_with_channels_last():
    module = Convolutional(2, 13, prepare=lambda batch: batch.movedim(-1, 1))
    return run_of(module, SPECTRAL, lambda image: image.movedim(0, -1))


def multispectral_images_of_a_fully_connected_autoencoder():
    return run_of(Plain(SPECTRAL), SPECTRAL, image_shape=SPECTRAL)


def one_of_several_views():
    module = Convolutional(2, 3, prepare=lambda batch: batch.flatten(0, 1))
    lines = {"image_key": lambda item: item[0]}
    return run_of(module, (3, 8, 6), lambda image: torch.stack([image, image.flip(-1)]), **lines)


def integers_to_within_half(build):
    """What integers hold of an image."""
    run = build()
    for images in (run.members, run.controls):
        images.copy_(((4000 * images - 1000).round() + 1000) / 4000)
    return run


FAST = [
    volumes,
    volumes_without_channels_of_a_fully_connected_autoencoder,
    volumes_in_hounsfield_units,
    signals,
    multispectral_images_with_channels_last,
]
OTHERS = [
    volumes_of_a_fully_connected_autoencoder,
    volumes_without_channels,
    volumes_with_channels_last,
    flat_volumes,
    signals_of_several_channels,
    signals_of_a_fully_connected_autoencoder,
    signals_with_channels_last,
    multispectral_images,
    multispectral_images_of_a_fully_connected_autoencoder,
]
RUNS = [*FAST, *(pytest.param(build, marks=pytest.mark.slow) for build in OTHERS)]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


@pytest.mark.slow
def test_integers():
    check(lambda: integers_to_within_half(volumes_of_integers))


def test_one_of_several_views():
    run, _, _, callback = train(one_of_several_views, lambda run: audit_callback(**run.lines))
    truth = torch.from_numpy(callback.last_report.recoveries["members/truth"])
    torch.testing.assert_close(truth, run.members, atol=2e-5, rtol=0)


CUBE = (1, 8, 8, 8)
REFUSED = {
    "volumes or pictures of eight channels": (
        lambda: run_of(Plain(CUBE), CUBE, lambda image: image[0]),
        r"item 0 of the data set has shape \(8, 8, 8\): .* pass image_shape=\(1, 8, 8, 8\) or image_shape=\(8, 8, 8\)",
    ),
    "signals or pictures": (
        lambda: run_of(Plain((12, 32)), (12, 32)),
        r"has shape \(12, 32\): .* pass image_shape=\(1, 12, 32\) or image_shape=\(12, 32\)",
    ),
    "several views": (
        lambda: run_of(Convolutional(2, 3, lambda batch: batch.flatten(0, 1)), (2, 3, 8, 8)),
        r"has shape \(2, 3, 8, 8\): several views .* pass image_shape=.* image_key=<a function of the item",
    ),
    "several views of a fully connected autoencoder": (
        lambda: run_of(Plain((3, 8, 8), lambda batch: batch.flatten(0, 1)), (2, 3, 8, 8)),
        r"has shape \(2, 3, 8, 8\): several views .* image_key=<a function of the item",
    ),
    "frames first": (
        lambda: run_of(Convolutional(3, 3, lambda batch: batch.movedim(2, 1)), (8, 3, 8, 8)),
        r"has shape \(8, 3, 8, 8\): several views or frames",
    ),
    "one view's shape for several": (
        lambda: run_of(Convolutional(2, 3), (2, 3, 8, 8), image_shape=(3, 8, 8)),
        r"has shape \(2, 3, 8, 8\): image_shape=\(3, 8, 8\) does not fit; of several views",
    ),
    "axes in another order": (
        lambda: run_of(Plain((3, 8, 6)), (6, 3, 8), image_shape=(3, 8, 6)),
        r"image_shape=\(3, 8, 6\) has its axes in another order; pass image_key=<a function",
    ),
    "Hounsfield units": (
        lambda: run_of(Convolutional(3), CUBE, lambda image: 4000 * image - 1000),
        r"members has values in \[-1000, 3000\]: .*data_range=\[<lowest>, <highest possible value>\]",
    ),
    "each volume normalized by itself": (
        lambda: run_of(Convolutional(3), CUBE, lambda image: (image - image.mean()) / image.std()),
        r"members has values in \[-\d.*\]: .*data_range=.* if each image is normalized by itself",
    ),
    "integers": (
        lambda: run_of(Convolutional(3), CUBE, lambda image: (4000 * image - 1000).short()),
        r"members: images are torch.int16 .* of unknown range: pass std=.* data_range=",
    ),
    "beyond the range": (
        lambda: run_of(Convolutional(3), CUBE, lambda image: 4000 * image - 1000, data_range=(-1000, 1000)),
        r"members has values in \[-1000, 3000\], beyond data_range=\[-1000, 1000\]: pass a range that holds all",
    ),
    "rows for depth": (
        lambda: run_of(Convolutional(3, 1, lambda batch: batch.transpose(2, 4)), CUBE),
        r"training_step gives the model depth and columns of its images in another order",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_run_is_refused_before_its_first_step(name):
    refuse_before_the_first_step(*REFUSED[name])

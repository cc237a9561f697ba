"""Which changes of images are told: made by torchvision, on smooth images like photographs."""

import pytest
import torch
from smooth_images import color_space, photographs, stretched
from torch.nn import functional
from torchvision.transforms import v2

from lightning_memaudit.callback.changes import change_between


def each(transform):
    return lambda images: torch.stack([transform(image) for image in images])


def with_block(images, share=0.5):
    taken, size = images.clone(), int(32 * share**0.5)
    for image in taken:
        top, left = torch.randint(33 - size, (2,)).tolist()
        image[:, top : top + size, left : left + size] = 0.5
    return taken


RANDOM = {
    "crops": each(v2.RandomCrop(32, padding=4)),
    "resized crops": each(v2.RandomResizedCrop(32, scale=(0.5, 1.0), antialias=True)),
    "shifts and turns": each(v2.RandomAffine(10, (0.1, 0.1))),
    "colors": each(v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
    "flips": lambda images: images.flip(-1),
}
FIXED = {
    "another color space": color_space,
    "gray": lambda images: images.mean(1, keepdim=True).expand_as(images),
    "stretched": stretched,
    "standardized": lambda images: (
        (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)
    ),
}
DENOISED = {
    "nothing": lambda images: images,
    "noise": lambda images: images + 0.2 * torch.randn_like(images),
    "much noise": lambda images: 0.7 * images + 0.7 * torch.randn_like(images),
    "noise, clamped": lambda images: (images + 0.2 * torch.randn_like(images)).clamp(0, 1),
    "speckles": lambda images: images * (1 + 0.2 * torch.randn_like(images)),
    "missing pixels": lambda images: images * (torch.rand_like(images[:, :1]) < 0.5),
    "few pixels left": lambda images: images * (torch.rand_like(images[:, :1]) < 0.05),
    "block": with_block,
    "large block": lambda images: with_block(images, 0.9),
    "patches": lambda images: images * functional.interpolate((torch.rand(len(images), 1, 8, 8) < 0.25) * 1.0, 32),
    "half of them flipped": lambda images: torch.cat([images[::2], images[1::2].flip(-1)]),
}


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", [*RANDOM, *FIXED, *DENOISED])
def test_what_moves_cuts_or_recolors_is_told_and_noise_and_holes_are_not(name, normalized):
    torch.manual_seed(0)
    images = photographs()
    changed = (RANDOM | FIXED | DENOISED)[name](images)
    if name == "half of them flipped":
        images = torch.cat([images[::2], images[1::2]])
    if normalized and name != "standardized":
        images, changed = 4 * images - 2, 4 * changed - 2
    change = change_between(images, changed)
    if name in DENOISED:
        assert change is None
    else:
        assert change is not None
        assert change.is_fixed == (name in FIXED)


@pytest.mark.parametrize("shape", [(8, 1, 40), (4, 2, 6, 6, 6)])
def test_signals_and_volumes_that_are_turned_round_are_told(shape):
    images = torch.rand(shape)
    assert change_between(images, images.flip(-1)).words.startswith("flipped")
    assert change_between(images, images + torch.randn_like(images)) is None


def test_constant_images_are_no_change():
    assert change_between(torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)) is None
    assert change_between(torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, 3, 8, 8)) is None

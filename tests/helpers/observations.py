"""Images to recover, smooth ones and noise, and their random masks; each the same in every test."""

import torch


def smooth_images(number, channels=3, size=16, seed=8):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return images * 0.8 + 0.1


def uniform(shape, seed=9):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def hide(images, fraction=0.5, seed=5):
    mask = (
        torch.rand(len(images), 1, *images.shape[2:], generator=torch.Generator().manual_seed(seed)) >= fraction
    ).float()
    return images * mask, mask

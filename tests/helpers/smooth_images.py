"""Images as smooth as photographs, and what is done to them."""

import torch
from torch.nn import functional


def photographs(count=24, channels=3, side=32):
    """Scales from coarse to fine, whose power falls as that of photographs does."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for size in (4, 8, 16, 32):
        layer = torch.rand(count, channels, size, size, generator=generator) / (size / 4)
        layers.append(functional.interpolate(layer, size=(side, side), mode="bicubic"))
    images = torch.stack(layers).sum(0)
    low, high = images.amin(), images.amax()
    return (images - low) / (high - low)


def color_space(images):
    matrix = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    return torch.einsum("ij,bjhw->bihw", matrix, images) + torch.tensor([0, 0.5, 0.5]).view(3, 1, 1)


def stretched(images):
    low, high = (end(images, dim=(1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    return (images - low) / (high - low)

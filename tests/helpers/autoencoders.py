"""Autoencoders of which it is known what can be recovered from them."""

import torch


def linear(matrix):
    """An autoencoder that is a matrix on flattened images."""
    return lambda images: (images.flatten(1) @ matrix.to(images).T).view_as(images)


def memory(stored):
    """The ideal memorizing autoencoder: the nearest stored image."""

    def autoencoder(images):
        return stored[torch.cdist(images.flatten(1), stored.flatten(1)).argmin(1)]

    return autoencoder


def associative(stored, sharpness=20.0):
    """A smooth memory: stored images weighted by their nearness (modern Hopfield network)."""

    def autoencoder(images):
        distance = torch.cdist(images.flatten(1), stored.flatten(1)).square()
        return (torch.softmax(-sharpness * distance, 1) @ stored.flatten(1)).view_as(images)

    return autoencoder

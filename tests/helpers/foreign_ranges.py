"""Runs whose images are in another range, or of another type, on their way to the model."""

from foreign_parts import MEAN, RGB, STD, pictures
from foreign_runs import ForeignRun
from torch.utils.data import DataLoader, TensorDataset, default_collate

MEMBERS, CONTROLS = pictures(shape=RGB), pictures(seed=1, shape=RGB)


def through_normalization(module, images):
    """By hand, for a model that works on normalized images."""
    return module.net((images - MEAN) / STD).view_as(images) * STD + MEAN


def run_of(module, wrap=lambda images: images, own_output=through_normalization, collate=default_collate, **more):
    loaders = [
        DataLoader(TensorDataset(wrap(images)), 3, shuffle=not number, collate_fn=collate)
        for number, images in enumerate((MEMBERS, CONTROLS))
    ]
    return ForeignRun(module, *loaders, MEMBERS, CONTROLS, own_output, **more)

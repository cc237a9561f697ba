"""What the runs in other projects' styles are made of: images, data sets and small autoencoders."""

import lightning
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

RGB = (3, 8, 8)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def pictures(count=6, seed=0, shape=(1, 8, 8)):
    """Images in [0, 1] that 8 bits hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, *shape), generator=generator).float() / 255


class Pictures(Dataset):
    """Each image as ``wrap(image)``."""

    def __init__(self, images, wrap=lambda image: image):
        self.images, self.wrap = images, wrap

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.wrap(self.images[index])


def normalized(images):
    """As for networks that were trained on ImageNet."""
    return (images - MEAN) / STD


def in_bytes(images):
    return (images * 255).round().to(torch.uint8)


def first(batch):
    return batch[0]


class Trained(lightning.LightningModule):
    """All of a module but the autoencoder and its training step."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Plain(Trained):
    """A small fully connected autoencoder; ``unwrap`` finds in a batch what it is trained on."""

    def __init__(self, shape=(1, 8, 8), unwrap=lambda batch: batch):
        super().__init__()
        size = int(np.prod(shape))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.ELU(), nn.Linear(24, size))
        self.unwrap = unwrap

    def forward(self, x):
        return self.net(x).view_as(x)

    def training_step(self, batch, batch_idx):
        x = self.unwrap(batch)
        return functional.mse_loss(self(x), x)


def plainly(module, images):
    """What :class:`Plain` makes of images, by hand."""
    return module.net(images).view_as(images)

"""Runs that leave no choice of what an argument must be: it is found, and nothing has to be passed."""

import pytest
import torch
from foreign_parts import RGB, Pictures, Plain, pictures
from foreign_runs import ForeignRun, check
from torch.nn import functional
from torch.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")

MEMBERS, CONTROLS = pictures(shape=RGB), pictures(seed=1, shape=RGB)


def run_of(module, wrap=lambda image: image, own_output=lambda m, x: m.net(x).view_as(x), collate=None):
    loaders = [DataLoader(Pictures(images, wrap), 3, collate_fn=collate) for images in (MEMBERS, CONTROLS)]
    return ForeignRun(module, *loaders, MEMBERS, CONTROLS, own_output)


class Nested(Plain):
    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]["inputs"]["pixels"]), batch[0]["inputs"]["pixels"])


class Variational(Plain):
    """Its input and numbers stand beside the reconstruction."""

    def forward(self, x):
        return [x.mean((1, 2, 3)), x, super().forward(x)]

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch)[2], batch)


class Probabilistic(Plain):
    """What is returned has the image's shape as logits and as probabilities: the mean is the reconstruction."""

    def forward(self, x):
        return torch.distributions.Bernoulli(logits=super().forward(x), validate_args=False)

    def training_step(self, batch, batch_idx):
        return -self(batch).log_prob(batch).mean()


class FlatOnly(Plain):
    def forward(self, x):
        return self.net[1:](x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch.flatten(1)), batch.flatten(1))


def listed(wrap, image_in, collate=list):
    """Batches that hold their images one by one, as many as each has channels: none is a batch of one channel."""
    module = Plain(RGB, lambda batch: torch.stack([image_in(one) for one in batch]))
    return run_of(module, wrap, collate=collate)


FOUND = {
    "images in a list": lambda: listed(lambda x: x, lambda one: one),
    "pairs in a list": lambda: listed(lambda x: (x, 0), lambda one: one[0]),
    "dictionaries in a list": lambda: listed(lambda x: {"x": x, "id": 0}, lambda one: one["x"]),
    "a list of images beside one of labels": lambda: run_of(
        Plain(RGB, lambda batch: torch.stack(batch[0])),
        lambda x: (x, 0),
        collate=lambda items: tuple(zip(*items, strict=True)),
    ),
    "the only image in an item": lambda: run_of(Nested(RGB), lambda x: ({"inputs": {"pixels": x}, "length": 3}, 0)),
    "the only new image of several outputs": lambda: run_of(Variational(RGB)),
    "the mean of a distribution": lambda: run_of(
        Probabilistic(RGB), own_output=lambda m, x: m.net(x).view_as(x).sigmoid()
    ),
    "flat images": lambda: run_of(FlatOnly(RGB)),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_leaves_no_choice_is_found(name):
    check(FOUND[name])

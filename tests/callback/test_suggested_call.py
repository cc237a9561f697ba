"""The parts of a module that a message suggests as the autoencoder."""

import pytest
import torch
from torch import nn

from lightning_memaudit.callback.seen import Seen
from lightning_memaudit.callback.suggested_call import suggested_call


class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x):
        return {"loss": x.mean(), "image": self.layer(x.flatten(1)).view_as(x)}


@pytest.mark.parametrize(
    ("parts", "call"),
    [
        ({"model": Coded()}, "module.model(images)['image']"),
        (
            {"encoder": nn.Linear(64, 5), "decoder": nn.Linear(5, 64)},
            "module.decoder(module.encoder(images.flatten(1)))",
        ),
        (
            {"encoder": nn.Conv2d(1, 3, 1), "head": nn.Linear(9, 2), "decoder": nn.Conv2d(3, 1, 1)},
            "module.decoder(module.encoder(images))",
        ),
        ({"same": nn.Identity(), "loss": nn.MSELoss(), "encoder": nn.Linear(64, 5)}, None),
    ],
)
def test_what_returns_images_is_suggested(parts, call):
    found = suggested_call(nn.ModuleDict(parts), Seen(), torch.rand(2, 1, 8, 8))
    assert found == (None if call is None else f"lambda module, images: {call}")


def test_the_suggestion_is_code_that_gives_images():
    module = nn.ModuleDict({"one": nn.Linear(64, 5), "other": nn.Linear(5, 64)})
    images = torch.rand(2, 1, 8, 8)
    function = eval(suggested_call(module, Seen(), images))
    assert torch.equal(function(module, images), module["other"](module["one"](images.flatten(1))))

"""Hooks of the callback on layers and tensors, against trainings that copy, keep and transform those."""

import copy
import pickle
import warnings

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images, trainer_with

pytestmark = [pytest.mark.usefixtures("without_report", "reads_here", "nothing_compiled")]


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ELU(), nn.Linear(16, 64))

    def forward(self, x):
        return self.net(x).view_as(x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.net(batch[0]).view_as(batch[0]), batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module, output=None):
    """What was said in a run of three epochs."""
    lightning.seed_everything(0)
    callback = audit_callback(output=output, controls=TensorDataset(images(24, seed=1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=3).fit(module, DataLoader(TensorDataset(images(24)), 6, shuffle=True))
    return [str(one.message) for one in caught]


class Teacher(Plain):
    """Copies and saves its network within each step, as a teacher is made; its trainer cannot be copied."""

    def training_step(self, batch, batch_idx):
        self.trainer.fit_loop.cannot_be_copied = (one for one in ())
        teacher = pickle.loads(pickle.dumps(copy.deepcopy(self.net)))
        return super().training_step(batch, batch_idx) + 0 * teacher(batch[0]).mean()


def test_copies_that_are_made_within_a_step_leave_the_hooks_behind():
    fit(Teacher())


class Keeps(Plain):
    """Returns a parameter beside its output, and keeps the outputs of all steps."""

    def __init__(self):
        super().__init__()
        self.book, self.kept = nn.Parameter(torch.zeros(6, 64)), []

    def forward(self, x):
        return super().forward(x) + self.book.mean(0).view_as(x[0]), self.book

    def training_step(self, batch, batch_idx):
        output, book = self(batch[0])
        self.kept.append(output)
        return functional.mse_loss(output, batch[0]) + book.square().mean()


def test_no_hook_stays_on_tensors_that_outlive_a_step():
    module = Keeps()
    fit(module, output=0)
    assert len(module.kept) == 12
    assert not any(one._backward_hooks for one in [module.book, *module.kept])


class ByImage(Plain):
    """Takes the gradient of each image by itself, as for differential privacy."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        weights = dict(self.net.named_parameters())

        def loss(weights, x):
            return functional.mse_loss(torch.func.functional_call(self.net, weights, (x[None],)), x.flatten()[None])

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, batch[0])
        for name, weight in weights.items():
            weight.grad = gradients[name].mean(0)
        self.optimizers().step()


def test_within_vmap_nothing_is_compared():
    said = fit(ByImage())
    assert sum("could not be compared" in one for one in said) == 1
    assert not any("of the 6 images" in one for one in said)

"""Which images a training learns from, against what its loss is made of."""

import warnings
from contextlib import contextmanager

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images, trainer_with

from lightning_memaudit.callback.learned_rows import LearnedRows

NUM = 24
MEMBERS = images(NUM)
WEIGHTS = (torch.arange(NUM) % 3 != 1).float()
pytestmark = [pytest.mark.usefixtures("without_report", "reads_here", "nothing_compiled")]


class Weighted(lightning.LightningModule):
    """A small autoencoder; ``loss(module, images, output, weights)`` is that of a batch."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 64))
        self.loss = loss

    def forward(self, x):
        return self.net(x).view_as(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self, *batch)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def errors(module, x):
    return (module(x) - x).square().mean((1, 2, 3))


def run(module, output=None, members=MEMBERS, shuffle=True, **arguments):
    """The doubts of the last audit, and the warnings about them."""
    callback = audit_callback(num_members=None, output=output, controls=TensorDataset(images(NUM, seed=1)))
    trainer = trainer_with(callback, **({"max_epochs": 4} | arguments))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader(TensorDataset(members, WEIGHTS), 6, shuffle=shuffle))
    said = [str(one.message) for one in caught if "no part in the loss" in str(one.message)]
    return {one["code"]: one["text"] for one in callback.last_report.doubts}, said


LEAVE_OUT = {
    "weights": lambda module, x, w: (errors(module, x) * w).sum() / w.sum(),
    "weights of pixels": lambda module, x, w: ((module(x) - x).abs() * w.view(-1, 1, 1, 1)).mean(),
    "chosen outputs": lambda module, x, w: functional.mse_loss(module(x)[w > 0], x[w > 0]),
    "the inner network": lambda module, x, w: ((module.net(x).view_as(x) - x).square().mean((1, 2, 3)) * w).mean(),
    "two parts": lambda module, x, w: (errors(module, x) * w + 0.1 * errors(module, x) * w).mean(),
}


@pytest.mark.parametrize("loss", LEAVE_OUT.values(), ids=LEAVE_OUT)
def test_members_that_the_loss_leaves_out_are_counted(loss):
    lightning.seed_everything(0)
    doubts, said = run(Weighted(loss))
    count = int((WEIGHTS == 0).sum())
    assert list(doubts) == ["members_without_loss"]
    assert doubts["members_without_loss"].startswith(f"{count} of {NUM} audited members")
    assert len(said) == 1
    assert "pass members=" in said[0]


class Skips(Weighted):
    """Returns before it calls its network where a batch begins with a dark image."""

    def training_step(self, batch, batch_idx):
        return None if batch[0][0].mean() < 0.1 else super().training_step(batch, batch_idx)


def test_members_of_batches_that_are_skipped_are_counted():
    lightning.seed_everything(0)
    dark = MEMBERS * torch.where(torch.arange(NUM) < 12, 0.1, 1.0).view(-1, 1, 1, 1)
    doubts, said = run(Skips(HONEST["all"][1]), members=dark, shuffle=False)
    assert doubts["members_without_loss"].startswith(f"12 of {NUM} audited members")
    assert len(said) == 1


def random_half(module, x, w):
    return errors(module, x)[torch.randperm(len(x))[: len(x) // 2]].mean()


class LossInside(Weighted):
    """Its forward pass gives the loss, and the reconstruction beside it."""

    def forward(self, x):
        output = super().forward(x)
        return functional.mse_loss(output, x), output

    def training_step(self, batch, batch_idx):
        return self(batch[0])[0]


class LossKept(Weighted):
    """Its forward pass keeps the loss, and nothing is learned from what it gives."""

    def forward(self, x):
        output = super().forward(x)
        self.kept = functional.mse_loss(output, x)
        return output

    def training_step(self, batch, batch_idx):
        self(batch[0])
        return self.kept


def settled(module, x, w):
    """Images that come out well enough have no part any more; at first all have."""
    return functional.relu(errors(module, x) - (0 if module.global_step < 8 else 10)).mean()


HONEST = {
    "all": (Weighted, lambda module, x, w: errors(module, x).mean()),
    "half of each batch at random": (Weighted, random_half),
    "a margin": (Weighted, settled),
    "weights that are small": (Weighted, lambda module, x, w: (errors(module, x) * (w + 1e-6)).mean()),
    "the loss comes out": (LossInside, None),
    "the loss is kept": (LossKept, None),
}


@pytest.mark.parametrize("name", HONEST)
def test_nothing_is_said_where_all_members_are_learned_from(name):
    lightning.seed_everything(0)
    kind, loss = HONEST[name]
    doubts, said = run(kind(loss), output=1 if kind is LossInside else None, max_epochs=10)
    assert ("members_without_loss" in doubts, said) == (False, [])


def test_what_a_hard_choice_has_not_come_to_yet_is_no_warning():
    lightning.seed_everything(0)
    doubts, said = run(Weighted(LEAVE_OUT["weights"]), max_epochs=2)
    assert (list(doubts), said) == (["members_not_yet_given"], [])


@contextmanager
def watching(learned):
    """A step on three images."""
    learned.begin(3)
    yield
    learned.end()


def test_gradients_and_the_layer_stay_as_they_are():
    layer = nn.Linear(4, 4)
    x = torch.rand(3, 4)
    layer(x).square().sum().backward()
    wanted = [one.grad.clone() for one in layer.parameters()]
    layer.zero_grad()
    learned = LearnedRows(layer)
    with watching(learned):
        layer(x).square().sum().backward()
    assert all(torch.equal(one.grad, other) for one, other in zip(layer.parameters(), wanted, strict=True))
    assert not layer._forward_hooks
    assert learned.rows().tolist() == [True] * 3


@pytest.mark.parametrize("count", [2, 6])
def test_of_other_rows_than_the_images_nothing_is_known(count):
    layer = nn.Linear(4, 4)
    learned = LearnedRows(layer)
    with watching(learned):
        layer(torch.rand(count, 4)).square().sum().backward()
    assert learned.rows() is None


def test_a_step_of_a_discriminator_teaches_nothing():
    layer = nn.Linear(4, 4)
    learned = LearnedRows(layer)
    with watching(learned):
        layer(torch.rand(3, 4)).square().sum().backward()
    with watching(learned):
        layer(torch.rand(3, 4)).detach()
    assert learned.rows().tolist() == [False] * 3


def test_a_step_that_comes_to_a_loss_elsewhere_tells_nothing():
    layer = nn.Linear(4, 4)
    learned = LearnedRows(layer)
    with watching(learned):
        layer(torch.rand(3, 4)).square().sum().backward()
    with watching(learned):
        learned.see_loss()
    assert learned.rows() is None


def test_a_step_that_was_left_in_the_middle_leaves_no_hook():
    layer = nn.Linear(4, 4)
    learned = LearnedRows(layer)
    learned.begin(3)
    kept = layer(torch.rand(3, 4))
    with watching(learned):
        assert len(layer._forward_hooks) == 1
        kept.square().sum().backward()  # of the step before
    assert not layer._forward_hooks
    assert learned.rows() is None


class Returning(nn.Module):
    """A layer of which ``returned(layer, x)`` is returned."""

    def __init__(self, returned):
        super().__init__()
        self.weight, self.returned = nn.Parameter(torch.rand(3, 4)), returned

    def forward(self, x):
        return self.returned(self, x)


def rows_after(returned, loss):
    """Of a step on three images whose loss is made of what the layer returned."""
    layer = Returning(returned)
    learned = LearnedRows(layer)
    with watching(learned):
        loss(layer, torch.rand(3, 4)).backward()
    rows = learned.rows()
    return None if rows is None else rows.tolist()


MIDDLE_LEFT_OUT = torch.tensor([1.0, 0.0, 1.0])


def test_a_parameter_that_is_returned_beside_is_no_image():
    def loss(layer, x):
        output, weight = layer(x)
        return output.square().sum(1) @ MIDDLE_LEFT_OUT + weight.sum()

    assert rows_after(lambda layer, x: (x * layer.weight, layer.weight), loss) == [True, False, True]


def test_of_losses_that_come_out_nothing_is_known():
    """Each may be of any of the images."""
    assert rows_after(lambda layer, x: (x * layer.weight).sum(1), lambda layer, x: layer(x) @ MIDDLE_LEFT_OUT) is None


def test_of_a_gradient_by_something_else_nothing_is_known():
    def loss(layer, x):
        return layer(x).square().sum(1) @ MIDDLE_LEFT_OUT + layer(x.repeat(2, 1)).sum()

    assert rows_after(lambda layer, x: x * layer.weight[0], loss) is None


def test_what_any_of_several_calls_learns_from_is_learned_from():
    def loss(layer, x):
        return layer(x)[0].sum() + layer(x)[2].sum()

    assert rows_after(lambda layer, x: x * layer.weight, loss) == [True, False, True]


def test_a_call_of_which_no_gradient_was_ever_taken_tells_nothing():
    """As where the loss is taken within the layer; later it tells, whatever else is returned beside."""
    layer = Returning(lambda layer, x: (x * layer.weight, layer.weight.mean() * 2))
    learned = LearnedRows(layer)
    with watching(learned):
        layer(torch.rand(3, 4))
        learned.see_loss()
    assert learned.rows() is None
    with watching(learned):
        layer(torch.rand(3, 4))[0].sum().backward()
    with watching(learned):
        layer(torch.rand(3, 4))
        learned.see_loss()
    assert learned.rows().tolist() == [False] * 3


def test_a_step_that_calls_the_layer_within_vmap_alone_tells_nothing():
    """No gradient by what is seen of that is one by an image; so none does not mean that nothing was learned."""
    layer = nn.Linear(4, 4)
    learned = LearnedRows(layer)
    with watching(learned):
        layer(torch.rand(3, 4)).sum().backward()
    assert learned.rows().all()
    with watching(learned):
        weights = dict(layer.named_parameters())
        loss = torch.func.grad(lambda weights, x: torch.func.functional_call(layer, weights, (x,)).square().sum())
        torch.func.vmap(loss, (None, 0))(weights, torch.rand(5, 3, 4))
        learned.see_loss()
    assert learned.rows() is None

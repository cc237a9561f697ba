"""What the loss of a training makes the model return, against losses that were written for it."""

import re
import warnings

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images, trainer_with

from lightning_memaudit.callback.hooks import OwnHook
from lightning_memaudit.callback.loss_target import find_target, left_out
from lightning_memaudit.callback.target_watch import TargetWatch

SHAPE = (2, 8, 8)
MEMBERS, OTHERS = images(24, shape=SHAPE), images(24, seed=2, shape=SHAPE)
pytestmark = [pytest.mark.usefixtures("without_report", "reads_here", "nothing_compiled")]


class Returns(lightning.LightningModule):
    """A small network; ``loss(module, images, others)`` is that of a batch."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.ELU(), nn.Linear(32, 128))
        self.loss = loss

    def forward(self, x):
        return self.net(x).view_as(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self, *batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


class Sigmoid(Returns):
    """Its loss is of the logits, and its forward pass returns images."""

    def forward(self, x):
        return super().forward(x).sigmoid()

    def logits(self, x):
        return self.net(x).view_as(x)


def run(module, **settings):
    """What was said of it, and the texts of the doubts."""
    callback = audit_callback(controls=TensorDataset(images(24, seed=1, shape=SHAPE)), **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=2).fit(module, DataLoader(TensorDataset(MEMBERS, OTHERS), 6, shuffle=True))
    said = [str(one.message) for one in caught if "takes it for the images" in str(one.message)]
    return said, [one["text"] for one in callback.last_report.doubts if one["code"] == "learns_otherwise"]


def slope_of_energy(module, x):
    """Of the sum of the squares that come out, by what goes in: its gradient is taken within the step."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(module(x).square().sum(), x, create_graph=True)[0].square().mean()


mse, logits = functional.mse_loss, functional.binary_cross_entropy_with_logits


def some_columns(output, images):
    columns = torch.randperm(8)[:4]
    return mse(output[..., columns], images[..., columns])


def logits_of_itself(module, x):
    return logits(module(x), x)


OTHERWISE = {
    "logits": (lambda m, x, o: logits(m(x), x), 'logits.*output="torch.sigmoid"'),
    "logits of what it is given": (lambda m, x, o: logits_of_itself(m, torch.bernoulli(x)), 'output="torch.sigmoid"'),
    "negative": (lambda m, x, o: mse(m(x), 1 - x), r"\(image - 1\) / -1"),
    "another range": (lambda m, x, o: 3 * mse(m(x), 2 * x - 1), r"\(image - 0.5\) / 0.5"),
    "ranges of channels": (
        lambda m, x, o: mse(m(x), (x - 0.5) / torch.tensor([0.2, 0.4]).view(2, 1, 1)),
        r"\[0.2, 0.4\]",
    ),
    "other images": (lambda m, x, o: mse(m(x), o), "image_key=1"),
    "logits of other images": (lambda m, x, o: logits(m(x), o), "image_key=1"),
    "all but the border": (lambda m, x, o: mse(m(x)[..., 1:-1], x[..., 1:-1]), "leaves out 32 of the 128 values"),
    "one channel": (lambda m, x, o: functional.l1_loss(m(x)[:, 0], x[:, 0]), "leaves out 64 of the 128 values"),
    "what is added": (lambda m, x, o: mse(x + m(x), x), "the same of all images"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_no_image_is_told_in_the_first_steps(name):
    lightning.seed_everything(0)
    loss, words = OTHERWISE[name]
    said, doubts = run(Returns(loss))
    assert len(said) == len(doubts) == 1
    assert re.search(words, said[0])


@pytest.mark.parametrize("output", ["out", ["out"]])
def test_the_mend_for_logits_keeps_the_key_of_the_output(output):
    class Named(Returns):
        def forward(self, x):
            return {"out": super().forward(x)}

    lightning.seed_everything(0)
    [said], _ = run(Named(lambda m, x, o: logits(m(x)["out"], x)), output=output)
    assert "pass output=['out', 'torch.sigmoid']" in said


RANGE = {"reconstruct": lambda module, images: module(4 * images - 2) / 4 + 0.5}
NORMALIZED = {"mean": [0.25], "std": [0.5]}  # of images in [0.25, 0.75]
AS_THE_AUDIT_HAS_IT = {
    "its images": (Returns, lambda m, x, o: mse(m(x), x), {}),
    "of half as bright ones": (
        Returns,
        lambda m, x, o: mse(m(x / 2), x),
        {"reconstruct": lambda module, images: module(images / 2)},
    ),
    "with noise": (Returns, lambda m, x, o: mse(m(x + 0.1 * torch.randn_like(x)), x), {}),
    "moved": (Returns, lambda m, x, o: mse(m(x.roll(3, 3)), x.roll(3, 3)), {}),
    "with a second loss": (Returns, lambda m, x, o: mse(m(x), x) + 0.1 * m(x).abs().mean(), {}),
    "nothing of noise": (Returns, lambda m, x, o: mse(m(x), x) + m(torch.rand_like(x)).square().mean(), {}),
    "nothing of noise beside absolute errors": (
        Returns,
        lambda m, x, o: functional.l1_loss(m(x), x) + m(torch.rand_like(x)).square().mean(),
        {},
    ),
    "beside those of moved images": (
        Returns,
        lambda m, x, o: m(torch.rand_like(x)).square().mean() + functional.l1_loss(m(x.roll(3, 3)), x.roll(3, 3)),
        {},
    ),
    "a penalty of energy": (Returns, lambda m, x, o: mse(m(x), x) + slope_of_energy(m, x), {}),
    "some values at random": (Returns, lambda m, x, o: mse(m(x)[torch.rand(x.shape) > 0.9], x[0, 0, 0, 0]), {}),
    "the same of a batch at random": (Returns, lambda m, x, o: some_columns(m(x), x), {}),
    "a border that the audit fills in": (
        Returns,
        lambda m, x, o: mse(m(x)[..., 1:-1], x[..., 1:-1]),
        {"reconstruct": lambda module, images: nn.functional.pad(module(images)[..., 1:-1], (1, 1))},
    ),
    "absolute errors": (Returns, lambda m, x, o: functional.l1_loss(m(x), x), {}),
    "a range like small logits": (Returns, lambda m, x, o: mse(m(4 * x - 2), 4 * x - 2), RANGE),
    "and moved": (Returns, lambda m, x, o: mse(m(4 * x.flip(3) - 2), 4 * x.flip(3) - 2), RANGE),
    "normalized": (Returns, lambda m, x, o: mse(m(x), x), NORMALIZED),
    "normalized and moved": (Returns, lambda m, x, o: mse(m(x.flip(3)), x.flip(3)), NORMALIZED),
    "logits behind": (Sigmoid, lambda m, x, o: logits(m.logits(x), x), {}),
    "sigmoid in the audit": (Returns, lambda m, x, o: logits(m(x), x), {"output": "torch.sigmoid"}),
    "undone in the audit": (
        Returns,
        lambda m, x, o: mse(m(x), 2 * x - 1),
        {"reconstruct": lambda module, images: module(images) / 2 + 0.5},
    ),
}


@pytest.mark.parametrize("name", AS_THE_AUDIT_HAS_IT)
def test_nothing_is_told_of_what_the_audit_takes_for_the_images_too(name):
    lightning.seed_everything(0)
    kind, loss, settings = AS_THE_AUDIT_HAS_IT[name]
    assert run(kind(loss), **settings) == ([], [])


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("kind", ["images", "logits"])
def test_logits_are_told_from_images_at_any_stage(scale, kind):
    output = (scale * torch.randn(6, *SHAPE)).requires_grad_()
    {"images": mse, "logits": logits}[kind](output, MEMBERS[:6]).backward()
    found = find_target(output.detach(), output.grad, MEMBERS[:6], {(0,): MEMBERS[:6]})
    assert found.is_logits == (kind == "logits")


@pytest.mark.parametrize("loss", [functional.l1_loss, lambda y, x: (y - x).abs().pow(1.5).mean()])
def test_of_other_losses_nothing_is_known(loss):
    output = torch.randn(6, *SHAPE).requires_grad_()
    loss(output, MEMBERS[:6]).backward()
    assert find_target(output.detach(), output.grad, MEMBERS[:6], {(0,): MEMBERS[:6]}) is None


def test_what_is_clamped_in_all_images_is_not_left_out():
    """As at the beginning of a training, where a deep network returns nearly the same of all images."""
    output = (torch.randn(SHAPE).expand(6, *SHAPE) + 1e-6 * torch.randn(6, *SHAPE)).requires_grad_()
    mse(output.clamp(0, 1), MEMBERS[:6]).backward()
    assert (output.grad == 0).any()
    assert left_out(output.detach(), output.grad) is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_no_number_tells_nothing(value):
    output = torch.randn(6, *SHAPE)
    gradient = output - MEMBERS[:6]
    gradient[0, 0, 0, 0] = value
    assert find_target(output, gradient, MEMBERS[:6], {(0,): MEMBERS[:6]}) is None


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("moved", [False, True])
def test_images_in_a_range_like_that_of_small_logits_are_none(scale, moved):
    target = 4 * MEMBERS[:6] - 2
    output, target = (scale * torch.randn(6, *SHAPE)).requires_grad_(), target.flip(3) if moved else target
    mse(output, target).backward()
    found = find_target(output.detach(), output.grad, target, {(0,): MEMBERS[:6]})
    assert found is None or not found.is_logits
    assert found is not None or scale < 0.1  # so near zero nobody knows


class Watched(Returns):
    """Notes in each step whether what its loss makes it return is looked at."""

    def __init__(self, loss):
        super().__init__(loss)
        self.steps = []

    def training_step(self, batch, batch_idx):
        calls = [one.call for one in self._forward_hooks.values() if isinstance(one, OwnHook)]
        self.steps.append(any(isinstance(getattr(call, "__self__", None), TargetWatch) for call in calls))
        return super().training_step(batch, batch_idx)


LOOKED_AT = [
    (lambda m, x, o: functional.l1_loss(m(x), x), 3, [1, 2, 3, 4]),  # of what nothing is known, four steps
    (lambda m, x, o: functional.l1_loss(m(x), x), 24, [1, 2]),  # in later epochs two
    (lambda m, x, o: mse(m(x), x), 3, [1, 2]),  # two that agree
    (lambda m, x, o: mse(m(x), 1 - x), 24, [1, 2]),
]


@pytest.mark.parametrize(("loss", "size", "steps"), LOOKED_AT)
def test_no_more_steps_are_looked_at_than_it_takes(loss, size, steps):
    """From the second on: the first one shows from which layer the images come."""
    lightning.seed_everything(0)
    module = Watched(loss)
    callback = audit_callback(controls=TensorDataset(images(24, seed=1, shape=SHAPE)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer_with(callback, max_epochs=6).fit(module, DataLoader(TensorDataset(MEMBERS, OTHERS), size))
    assert [step for step, is_watched in enumerate(module.steps) if is_watched] == steps


def test_two_steps_that_show_different_things_tell_nothing():
    """The negative of the images, and a fainter one, in turn."""
    lightning.seed_everything(0)
    module = Returns(lambda m, x, o: mse(m(x), (1 - x) / (1 + 3 * (m.trainer.global_step % 2))))
    assert run(module) == ([], [])

"""What training gives a model beside images, or instead of them, is told; nothing that it is given ends a training."""

import warnings

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import Items, audit_callback, images, trainer_with

pytestmark = pytest.mark.usefixtures("reads_here")

LABELS = torch.arange(8) % 4


class Conditional(nn.Module):
    """A convolution, and what a layer makes of a condition, if there is one: wherever that stands."""

    def __init__(self):
        super().__init__()
        self.image, self.condition, self.given = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(4, 1), None

    def forward(self, x, more=None):
        x, more = x if isinstance(x, tuple) else (x, more)
        more = more["label"] if isinstance(more, dict) else more
        more = self.given if more is None else more
        if more is None or more.is_sparse or more.ndim == 0:
            return self.image(x)
        return self.image(x) + self.condition(more.flatten(1)[:, :4])[:, :, None, None]


class Run(lightning.LightningModule):
    def __init__(self, step, network=None):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.step = Conditional() if network is None else network, step

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, labels = batch if isinstance(batch, list) else (batch, None)
        condition = None if labels is None else functional.one_hot(labels, 4).float()
        return functional.mse_loss(self.step(self.network, x, condition), x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def by_attribute(network, x, condition):
    network.given = condition
    output = network(x)
    network.given = None
    return output


def raw_first(network, x, condition):
    with torch.no_grad():
        network(x)
    return network((x - 0.5) / 0.25)


CONDITIONS = {
    "plain": lambda network, x, condition: network(x, condition),
    "in a dictionary": lambda network, x, condition: network(x, {"label": condition}),
    "in a tuple": lambda network, x, condition: network((x, condition)),
    "tokens": lambda network, x, condition: network(x, condition[:, None].expand(-1, 3, -1)),
    "an attribute": by_attribute,
}
HARMLESS = {
    "one number": lambda network, x, condition: network(x, torch.tensor(0.5)),
    "sparse": lambda network, x, condition: network(x, condition.to_sparse()),
    "logged first": lambda network, x, condition: [network(x).detach(), network(x)][1],
}


def fit(module, train=None, others=None, **loading):
    """What was said, and the codes of the last audit's doubts."""
    train = TensorDataset(images(8, 0), LABELS) if train is None else train
    others = TensorDataset(images(8, 1), LABELS) if others is None else others
    loading = {"batch_size": 4} | loading
    callback = audit_callback()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(
            module, DataLoader(train, **loading), DataLoader(others, **loading)
        )
    said = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    return said, [doubt["code"] for doubt in callback.last_report.doubts], callback.last_report


@pytest.mark.parametrize("step", CONDITIONS.values(), ids=CONDITIONS)
def test_a_condition_is_told_wherever_it_stands(step):
    said, doubts, _ = fit(Run(step))
    assert doubts == ["called_otherwise"]
    assert len(said) == 1


@pytest.mark.parametrize("step", HARMLESS.values(), ids=HARMLESS)
def test_anything_else_neither_ends_the_training_nor_is_told(step):
    assert fit(Run(step))[:2] == ([], [])


def test_what_is_learned_from_counts_not_what_is_logged():
    with pytest.raises(ValueError, match=r"gives the model \(image - 0.5\) / 0.25"):
        fit(Run(raw_first))


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_compiled_network_is_given_is_compared(whole):
    network = Conditional()
    if whole:
        network.compile(backend="eager")
    else:
        network = torch.compile(network, backend="eager")
    with pytest.raises(ValueError, match=r"gives the model \(image - 0.5\) / 0.25"):
        fit(Run(lambda network, x, condition: network((x - 0.5) / 0.25), network))
    said, doubts, _ = fit(Run(lambda network, x, condition: network(x), network))
    assert (said, doubts) == ([], [])


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_network_that_was_cast_by_hand_is_given_what_it_takes(kind):
    module = Run(lambda network, x, condition: network(x.to(kind)).float(), Conditional().to(kind))
    assert fit(module)[:2] == ([], [])


class WithHeads(Conditional):
    """Parts of a network that training calls by themselves: on noise, on what gets no gradients, on a smaller image."""

    def __init__(self):
        super().__init__()
        self.critic, self.probe, self.small = nn.Linear(5, 1), nn.Linear(64, 2), nn.Linear(16, 2)


def with_heads(network, x, condition):
    output = network(x)
    heads = network.critic(torch.randn(len(x), 5)), network.probe(output.detach().flatten(1))
    return output + sum(head.sum() for head in heads) + network.small(x[..., ::2, ::2].flatten(1)).sum()


def test_heads_that_training_calls_by_themselves_are_not_told():
    assert fit(Run(with_heads, WithHeads()))[:2] == ([], [])


class SkipsItsFirstEpoch(Run):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.current_epoch == 0 else None


def test_a_compiled_call_is_restored_where_a_step_was_skipped():
    network = Conditional()
    network.compile(backend="eager")
    before = network.__dict__["_compiled_call_impl"]
    loaders = [DataLoader(TensorDataset(images(8, seed), LABELS), 4) for seed in (0, 1)]
    trainer_with(audit_callback(), max_epochs=3, num_sanity_val_steps=0).fit(
        SkipsItsFirstEpoch(lambda net, x, condition: net(x), network), *loaders
    )
    assert network.__dict__["_compiled_call_impl"] is before
    assert not network._forward_pre_hooks


def test_of_items_that_are_batches_all_images_are_audited():
    train = Items(images(20, 0).split(5))
    said, doubts, report = fit(Run(HARMLESS["logged first"]), train, Items(images(10, 1).split(5)), batch_size=None)
    assert (said, doubts) == ([], [])
    members = {row["num_images"] for row in report.rows if row["group"] == "members"}
    controls = {row["num_images"] for row in report.rows if row["group"] == "controls"}
    assert (members, controls) == ({20}, {10})


def test_of_items_that_are_batches_some_are_chosen():
    train = Items(images(40, 0).split(4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*twice.*")
        callback = audit_callback(num_members=10)
        trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(
            Run(HARMLESS["logged first"]), DataLoader(train, None), DataLoader(Items([images(10, 1)]), None)
        )
    assert {row["num_images"] for row in callback.last_report.rows} == {10}


def in_patches(items):
    return torch.cat([torch.stack(items)[..., :4, :4], torch.stack(items)[..., 4:, 4:]])


def test_batches_of_other_images_than_the_items_are_told():
    said, doubts, _ = fit(Run(HARMLESS["logged first"]), list(images(8)), list(images(8, 1)), collate_fn=in_patches)
    assert doubts == ["called_otherwise"]
    assert "do not hold the images of its data set" in said[0]


def test_batches_of_several_sizes_are_refused_by_the_argument_that_mends_it():
    several = [images(1, 0, (1, side, side))[0] for side in (8, 8, 12, 12)]
    with pytest.raises(ValueError, match=r"members: its batches hold images of shapes .* pass members="):
        fit(Run(HARMLESS["logged first"]), several, several, batch_size=1)

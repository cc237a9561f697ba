"""A condition that training keeps on the model, where the network finds it, is told; other attributes are not."""

import random
import warnings

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images, trainer_with

from lightning_memaudit.callback.kept_conditions import KeptConditions

pytestmark = pytest.mark.usefixtures("reads_here")

LABELS = torch.tensor([1, 3, 2, 0, 3, 0, 1, 2])


class Network(nn.Module):
    """A convolution, shifted by what was kept as a condition in any of some forms."""

    def __init__(self):
        super().__init__()
        self.image, self.row, self.table = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(4, 1), nn.Embedding(4, 1)
        self.labels, self.one_hot, self.context = torch.zeros(1).long(), torch.zeros(1, 4), None
        self.number, self.level, self.calls, self.output, self.size = 0, 0.0, 0, None, 0

    def forward(self, x):
        output = self.image(x) + self.level + self.number
        for layer, kept in ((self.table, self.labels), (self.row, torch.atleast_2d(self.one_hot))):
            output = output + layer(kept[torch.arange(len(x)) % len(kept)]).view(-1, 1, 1, 1)
        if self.context is not None:
            output = output + self.context["labels"].float().mean()
        self.calls, self.output, self.size = self.calls + 1, output, len(x)
        return output


class Run(lightning.LightningModule):
    def __init__(self, keep):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.keep = Network(), keep
        self.batch = self.images = self.labels = self.loss = None
        self.steps, self.losses = 0, []

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, labels = batch
        self.keep(self, x, labels)
        loss = functional.mse_loss(self(x), x)
        self.loss = loss
        self.losses.append(loss.detach())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def kept_on(name, value):
    return lambda run, x, labels: setattr(run.network, name, value(labels))


TOLD = {
    "of each image": (kept_on("labels", lambda labels: labels), "network.labels"),
    "one-hot of each image": (kept_on("one_hot", lambda labels: functional.one_hot(labels, 4).float()), "one_hot"),
    "one-hot of the first": (kept_on("one_hot", lambda labels: functional.one_hot(labels[0], 4).float()), "one_hot"),
    "the first": (kept_on("labels", lambda labels: labels[:1]), "network.labels"),
    "a number": (kept_on("number", lambda labels: labels[0].item()), "network.number"),
    "in a dictionary": (kept_on("context", lambda labels: {"labels": labels}), "network.context"),
}
SILENT = {
    "nothing": lambda run, x, labels: None,
    "the images": lambda run, x, labels: setattr(run, "images", x),
    "a batch that nobody reads": lambda run, x, labels: setattr(run, "batch", (x, labels)),
    "labels that nobody reads": lambda run, x, labels: setattr(run, "labels", labels),
    "a counter": lambda run, x, labels: setattr(run, "steps", run.steps + 1),
    "a level that is drawn": lambda run, x, labels: setattr(run.network, "level", random.random()),
    "what is set and is the same": kept_on("labels", lambda labels: torch.zeros(1).long()),
}


def fit(module, labels=LABELS, **settings):
    callback = audit_callback(**settings)
    loaders = [DataLoader(TensorDataset(images(8, seed), labels), 4) for seed in (0, 1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(module, *loaders)
    said = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    return said, [doubt["code"] for doubt in callback.last_report.doubts]


@pytest.mark.parametrize(("keep", "name"), TOLD.values(), ids=TOLD)
def test_a_condition_that_is_kept_on_the_model_is_told(keep, name):
    said, doubts = fit(Run(keep))
    assert doubts.count("called_otherwise") == 1  # what one image returns may depend on the others too
    told = "of the model from what its batches hold beside the images, which the audit does not: pass reconstruct="
    (words,) = [one for one in said if told in one]
    assert name in words


@pytest.mark.parametrize("keep", SILENT.values(), ids=SILENT)
def test_other_attributes_are_not_told(keep):
    assert fit(Run(keep)) == ([], [])


def test_a_number_that_the_first_batch_leaves_as_it_was_is_told_by_the_next():
    labels = torch.tensor([0, 3, 2, 0, 3, 0, 1, 2])
    assert fit(Run(TOLD["a number"][0]), labels)[1] == ["called_otherwise"]


def test_what_the_given_function_sets_itself_is_not_told():
    def reconstruct(module, batch):
        module.network.labels = batch[1]
        return module(batch[0])

    assert fit(Run(TOLD["of each image"][0]), reconstruct=reconstruct) == ([], [])
    said, doubts = fit(Run(TOLD["of each image"][0]), reconstruct=lambda module, batch: module(batch[0]))
    assert "called_otherwise" in doubts
    assert any("the training sets network.labels of the model" in one for one in said)


def test_the_weights_are_the_same_with_and_without_an_audit():
    def weights(*callbacks):
        torch.manual_seed(0)
        module = Run(TOLD["of each image"][0])
        loaders = [DataLoader(TensorDataset(images(8, seed), LABELS), 4, shuffle=seed == 0) for seed in (0, 1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer_with(*callbacks, max_epochs=2, num_sanity_val_steps=0).fit(module, *loaders)
        return torch.cat([one.detach().flatten() for one in module.parameters()]), module.network.labels

    (audited, kept), (alone, also) = weights(audit_callback()), weights()
    assert torch.equal(audited, alone)
    assert torch.equal(kept, also)


def test_nothing_that_holds_a_graph_is_kept_during_a_step():
    module = nn.Identity()
    module.output = torch.ones(3, requires_grad=True) * 2
    kept = KeptConditions(module)
    kept.begin()
    module.output = torch.ones(3, requires_grad=True) * 3
    assert kept.end([torch.full((3,), 3.0)]) == []

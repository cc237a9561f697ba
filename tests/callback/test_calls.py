"""What training gives its network beside the images, in whatever form, is told where it makes a difference."""

import random
import re
import warnings

import lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import audit_callback, images, trainer_with

pytestmark = pytest.mark.usefixtures("reads_here")

MAPS = (images(8, 5) > 0.5).float()
LABELS = torch.arange(8) % 4


class Network(nn.Module):
    """A convolution of images and a map, scaled and shifted by what is given."""

    def __init__(self):
        super().__init__()
        self.image, self.map = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(2, 1, 1)
        self.table = nn.Parameter(torch.arange(4.0))
        self.noise, self.dropout = 0.0, nn.Dropout(0.5)

    def forward(self, x, more=None, scale=1.0, *, ratio=0.0, draw=None):
        if x.shape[1] == 2:
            return self.map(x)
        output = self.image(x) * scale + self.noise * self.dropout(x)
        if isinstance(more, torch.Tensor):
            output = output + more.expand_as(output) if more.ndim == 4 else output
        elif more is not None:
            output = output + self.table[more["y"]].view(-1, 1, 1, 1)
        hidden = torch.rand_like(x) < ratio  # it draws as many numbers without
        if draw is not None:
            hidden = torch.from_numpy(np.array([draw() for _ in range(x.numel())]).reshape(x.shape) < 0.5)
        return output.where(~hidden, torch.zeros(()))


class Run(lightning.LightningModule):
    def __init__(self, step, noise=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.step = Network(), step
        self.network.noise = noise

    def forward(self, x, more=None):
        return self.network(x, more)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.step(self, *batch), batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(module, **settings):
    callback = audit_callback(**settings)
    loaders = [DataLoader(TensorDataset(images(8, seed), MAPS, LABELS), 4) for seed in (0, 1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(module, *loaders)
    texts = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    said = [text for text in texts if "an item holds 2 different images" not in text]
    return said, [doubt["code"] for doubt in callback.last_report.doubts]


class AsksForTheStage(Run):
    def forward(self, x, more=None):
        return self.network(x, scale=2.0 if self.trainer.training else 1.0)


TOLD = {
    "a number": (lambda run, x, m, y: run.network(x, None, 0.5), "scale=0.5, which the audit does not give"),
    "a number by name": (lambda run, x, m, y: run.network(x, scale=0.5), "scale=0.5, which the audit does not give"),
    "the only label of a batch": (lambda run, x, m, y: run(x, {"y": 2}), "calls Run with more.y=2, which the audit"),
    "a map as large as the image": (lambda run, x, m, y: run(x, m), "calls Run with more, which the audit"),
    "beside something larger": (
        lambda run, x, m, y: run.network(x, {"y": y, "noise": torch.randn(len(x), 40)}),
        "calls Network with more.y, which",
    ),
    "a channel": (lambda run, x, m, y: run.network(torch.cat([x, m], 1)), "with values beside those of the images"),
}
SILENT = {
    "nothing": lambda run, x, m, y: run.network(x),
    "defaults": lambda run, x, m, y: run.network(x, more=None, scale=1.0),
    "what changes nothing": lambda run, x, m, y: run.network(x, ratio=0),
    "a drawn mask as large": lambda run, x, m, y: run(x, (torch.rand_like(x) < 0.5).float()),
    "noise as large": lambda run, x, m, y: run(x, torch.randn_like(x)),
    "a share that it hides": lambda run, x, m, y: run.network(x, ratio=0.75),
    "a mask that numpy draws": lambda run, x, m, y: run.network(x, draw=np.random.rand),
    "a mask that Python draws": lambda run, x, m, y: run.network(x, draw=random.random),
    "noisy images": lambda run, x, m, y: run.network(x + 0.1 * torch.randn_like(x)),
}


def two_channels(module, x):
    return module.network(torch.cat([x, torch.zeros_like(x)], 1))


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["plain", "with dropout"])
@pytest.mark.parametrize("name", TOLD)
def test_what_makes_a_difference_is_a_doubt(name, noise):
    step, words = TOLD[name]
    settings = {"reconstruct": two_channels} if name == "a channel" else {}
    said, doubts = fit(Run(step, noise), **settings)
    assert doubts.count("called_otherwise") == 1
    assert len([text for text in said if re.search(words, text)]) == 1, said


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("name", SILENT)
def test_what_makes_none_or_is_drawn_is_silent(name):
    said, doubts = fit(Run(SILENT[name]))
    assert (said, "called_otherwise" in doubts) == ([], False)


def test_a_forward_pass_that_asks_for_the_stage():
    said, doubts = fit(AsksForTheStage(lambda run, x, m, y: run(x)))
    assert "calls AsksForTheStage otherwise than the audit" in said[0]
    assert "called_otherwise" in doubts


def test_the_function_that_is_asked_for_ends_it():
    step = TOLD["a number"][0]
    assert fit(Run(step), reconstruct=lambda module, x: module.network(x, None, 0.5)) == ([], [])
    step = TOLD["a map as large as the image"][0]
    said, doubts = fit(Run(step), reconstruct=lambda module, batch: module(batch[0], batch[1]))
    assert (said, doubts) == ([], [])


def test_a_map_that_comes_first_is_not_taken_for_the_image():
    class Swapped(Run):
        def training_step(self, batch, batch_idx):
            _, x, _ = batch
            return functional.mse_loss(self.network(x), x)

    others = (images(8, 6) > 0.5).float()
    both = (MAPS, images(8, 0), LABELS), (others, images(8, 1), LABELS)
    loaders = [DataLoader(TensorDataset(*one), 4) for one in both]
    with pytest.raises(ValueError, match=r"the images at 1 of its batches, .* those at 0: pass image_key=1"):
        trainer_with(audit_callback(), max_epochs=1, num_sanity_val_steps=0).fit(Swapped(None), *loaders)
    callback = audit_callback(image_key=1)
    trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(Swapped(None), *loaders)
    assert callback.last_report.doubts == []


class Accumulates(Run):
    """Several backward passes in one step."""

    def __init__(self, step):
        super().__init__(step)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        for x in batch[0].chunk(2):
            self.manual_backward(functional.mse_loss(self.step(self, x, None, None), x) / 2)
        self.optimizers().step()


def test_parts_of_a_batch_are_compared():
    assert fit(Accumulates(SILENT["nothing"])) == ([], [])
    with pytest.raises(ValueError, match=r"gives the model \(image - 0.5\) / 0.5"):
        fit(Accumulates(lambda run, x, m, y: run.network(2 * x - 1)))
    said, doubts = fit(Accumulates(TOLD["a number"][0]))
    assert ("scale=0.5" in said[0], doubts) == (True, ["called_otherwise"])


def test_the_training_goes_on_as_without():
    weights = []
    for callback in ([], [audit_callback()]):
        module = Run(lambda run, x, m, y: run.network(x, {"y": y}, 0.5, ratio=0.3), noise=1.0)
        module.network.image = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        torch.manual_seed(0)
        data = TensorDataset(images(8), MAPS, LABELS), TensorDataset(images(8, 1), MAPS, LABELS)
        trainer_with(*callback, max_epochs=2).fit(module, *(DataLoader(one, 4) for one in data))
        weights.append([one.clone() for one in module.state_dict().values()] + [torch.get_rng_state()])
    assert all(map(torch.equal, *weights))


def test_lazy_layers_are_refused_by_what_mends_it():
    class Lazy(Run):
        def __init__(self):
            super().__init__(SILENT["nothing"])
            self.network = nn.LazyConv2d(1, 3, padding=1)

        def forward(self, x):
            return self.network(x)

    with pytest.raises(ValueError, match=r"network.weight gets its shape only in the first step.*configure_model"):
        fit(Lazy())

    class Called(Lazy):
        def configure_model(self):
            self.network(torch.zeros(1, 1, 8, 8))

    assert fit(Called()) == ([], [])


class Modulated(nn.Module):
    """Labels modulate it by a layer that begins with zeros, as in diffusion transformers, or by nothing at all."""

    def __init__(self, used):
        super().__init__()
        self.image, self.embedding = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(4, 2)
        self.modulation, self.last, self.used = nn.Linear(2, 1), nn.Conv2d(1, 1, 1), used
        for one in (self.modulation, self.last):
            nn.init.zeros_(one.weight), nn.init.zeros_(one.bias)

    def forward(self, x, y=None):
        x = self.image(x)
        if self.used:
            y = torch.zeros(len(x), dtype=torch.long) if y is None else y
            x = x * (1 + self.modulation(self.embedding(y)).view(-1, 1, 1, 1))
        return self.last(x)


@pytest.mark.parametrize("used", [True, False])
def test_labels_that_begin_without_effect_are_told_and_those_that_are_left_alone_are_not(used):
    module = Run(lambda run, x, m, y: run.network(x, y))
    module.network = Modulated(used)
    module.forward = lambda x: module.network(x)
    said, doubts = fit(module)
    assert (len(said), "called_otherwise" in doubts) == (used, used)


class Flattens(lightning.LightningModule):
    """Takes images of either layout; training_step moves the channels of bytes to the front."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(192, 192)

    def forward(self, x):
        return self.network(x.flatten(1)).view(-1, 3, 8, 8)

    def training_step(self, batch, batch_idx):
        x = batch[0].movedim(-1, 1) / 255
        return functional.mse_loss(self(x), x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_of_two_layouts_that_a_network_takes_the_one_that_it_returns_is_meant():
    bytes_ = [(255 * images(8, seed, (8, 8, 3))).to(torch.uint8) for seed in (0, 1)]
    module = Flattens()
    callback = audit_callback()
    loaders = [DataLoader(TensorDataset(one), 4) for one in bytes_]
    trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(module, *loaders)
    members = bytes_[0].movedim(-1, 1) / 255
    with torch.no_grad():
        error = functional.mse_loss(module(members), members)
    assert callback.last_report.headline["train_loss"] == pytest.approx(float(error), rel=1e-4)


class Coder(Run):
    """Training calls the encoder and the decoder by themselves, with something beside the code."""

    def __init__(self, beside):
        super().__init__(None)
        self.beside = beside
        self.encoder, self.decoder = nn.Linear(64, 8), nn.Linear(12, 64)

    def forward(self, x):
        return self.decoder(torch.cat([self.encoder(x.flatten(1)), torch.zeros(len(x), 4)], 1)).view_as(x)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        code = torch.cat([self.encoder(x.flatten(1)), self.beside(batch[2])], 1)
        return functional.mse_loss(self.decoder(code).view_as(x), x)


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        (lambda y: functional.one_hot(y, 4).float(), True),
        (lambda y: torch.randn(len(y), 4), False),
        (lambda y: torch.zeros(len(y), 4), False),
    ],
    ids=["labels", "noise", "nothing"],
)
def test_labels_beside_a_code_are_told(beside, told):
    said, doubts = fit(Coder(beside))
    assert ("called_otherwise" in doubts) == told
    assert [text for text in said if "calls Linear with values beside those of the images" in text][told:] == []


SOME = {
    "a half": (lambda x: x[:2], "2 of the 4 images"),
    "some": (lambda x: x[torch.tensor([True, False, True, True])], "3 of the 4 images"),
}


@pytest.mark.parametrize("name", SOME)
def test_images_that_training_leaves_out_of_its_batches_are_told(name):
    class Chooses(Run):
        def training_step(self, batch, batch_idx):
            x = some(batch[0])
            return functional.mse_loss(self.network(x), x)

    some, words = SOME[name]
    said, doubts = fit(Chooses(None))
    assert words in said[-1]
    assert "called_otherwise" in doubts


VIEWS = {
    "after each other": lambda x: torch.cat([x.flip(-1), x]),
    "of each image": lambda x: torch.stack([x.flip(-1), x], 1).flatten(0, 1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_images_among_several_views_are_found(name):
    assert fit(Run(lambda run, x, m, y: run.network(VIEWS[name](x))[: len(x)])) == ([], [])


def test_a_function_of_the_item_finds_its_frame_in_the_batch():
    class Frames(Run):
        def training_step(self, batch, batch_idx):
            x = batch[0][:, 2]
            return functional.mse_loss(self.network(self.step(x)), x)

    def run(step):
        callback = audit_callback(image_key=lambda item: item[0][2])
        loaders = [DataLoader(TensorDataset(images(8, seed, (3, 1, 8, 8))), 4) for seed in (0, 1)]
        trainer_with(callback, max_epochs=2, num_sanity_val_steps=0).fit(Frames(step), *loaders)
        return callback.last_report.doubts

    assert run(lambda x: x) == []
    with pytest.raises(ValueError, match=r"gives the model \(image - 0.5\) / 0.5"):
        run(lambda x: 2 * x - 1)


class TakesBatches(Run):
    """Its forward pass takes a whole batch; the audit gives it one with labels of its own."""

    def forward(self, batch):
        return self.network(batch["x"], {"y": batch["label"]})

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self({"label": batch[2], "x": batch[0]}), batch[0])


@pytest.mark.parametrize("right", [True, False])
def test_a_batch_that_the_audit_makes_up_must_say_of_the_images_what_theirs_does(right):
    def reconstruct(module, batch):
        labels = batch[2] if right else torch.zeros_like(batch[2])
        return module({"label": labels, "x": batch[0]})

    said, doubts = fit(TakesBatches(None), reconstruct=reconstruct)
    assert ("called_otherwise" in doubts) != right
    assert ["with batch.label, which the audit" in text for text in said] == [True] * (not right)

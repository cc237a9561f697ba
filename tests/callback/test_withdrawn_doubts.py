"""Doubts of the first batches that later ones no longer show: of an audit, those count that were seen before it."""

import lightning
import pytest
import torch
from smooth_images import photographs
from test_first_steps import Colors
from test_later_steps import codes, fit
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2
from training_runs import audit_callback, trainer_with

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
WITHDRAWN = "unlike before, the training gives the model what the audit gives it"


class Earlier(Colors):
    """Prepares images otherwise in the first epochs."""

    def __init__(self, prepare, epochs=2):
        super().__init__(prepare)
        self.epochs = epochs

    def training_step(self, batch, batch_idx):
        x = self.prepare(batch[0]) if self.current_epoch < self.epochs else batch[0]
        return functional.mse_loss(self(x), x)


def smaller(images):
    return functional.avg_pool2d(images, 2)


EARLIER = {
    "smaller": smaller,
    "blurred": v2.GaussianBlur(9, 3.0),
    "gray": v2.Grayscale(3),
    "moved": lambda x: x.roll(4, 3),
}


@pytest.mark.parametrize("prepare", EARLIER.values(), ids=EARLIER)
def test_a_doubt_is_withdrawn_when_the_images_have_come_to_reach_the_model_as_in_the_audit(prepare):
    said, report = fit(Earlier(prepare), settings={"every_n_epochs": 1})
    assert codes(report) == []
    assert sum(WITHDRAWN in one for one in said) == 1
    assert "in epoch 2, " in said[-1]


@pytest.mark.parametrize("prepare", EARLIER.values(), ids=EARLIER)
def test_a_doubt_stays_while_the_images_are_changed(prepare):
    said, report = fit(Earlier(prepare, epochs=4), settings={"every_n_epochs": 1})
    assert codes(report) == ["called_otherwise"]
    assert not any(WITHDRAWN in one for one in said)


class First(Earlier):
    """The first epochs give the model half of each batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step([batch[0][:4] if self.current_epoch < self.epochs else batch[0]], batch_idx)


class Labeled(Earlier):
    """Becomes a network with a condition when the images have come to be as large as in the audit."""

    def __init__(self, prepare):
        super().__init__(prepare, epochs=3)
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, x, label=None):
        return super().forward(x if label is None else x + self.bias * label.view(-1, 1, 1, 1))

    def training_step(self, batch, batch_idx):
        is_small = self.current_epoch < self.epochs
        x = self.prepare(batch[0]) if is_small else batch[0]
        return functional.mse_loss(self(x, None if is_small else torch.linspace(0.1, 0.5, len(x))), x)


@pytest.mark.parametrize(
    ("module", "words"), [(First(lambda x: x), "4 of the 8 images"), (Labeled(smaller), "label")], ids=["half", "label"]
)
def test_what_the_newest_batches_cannot_show_stays_a_doubt(module, words):
    _, report = fit(module)
    assert codes(report) == ["called_otherwise"]
    assert words in report.doubts[0]["text"]


class Resized(Dataset):
    """Gives smaller images in the first epochs."""

    def __init__(self, images):
        self.images, self.factor = images, 2

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return functional.avg_pool2d(self.images[index], self.factor)


class Resizes(lightning.Callback):
    def __init__(self, begin):
        self.begin = begin

    def on_train_epoch_start(self, trainer, module):
        trainer.train_dataloader.dataset.factor = 1 if trainer.current_epoch >= self.begin else 2


@pytest.mark.parametrize(
    ("begin", "members", "wanted"), [(2, None, ["members_left_out"]), (4, None, []), (2, "last", [])]
)
def test_members_of_a_size_that_the_training_has_left_behind_are_a_doubt(begin, members, wanted):
    torch.manual_seed(0)
    images = photographs(48)
    callback = audit_callback(
        every_n_epochs=2,
        members=None if members is None else TensorDataset(images[:24]),
        controls=TensorDataset(images[24:]),
    )
    module = Colors()
    module.training_step = lambda batch, batch_idx: functional.mse_loss(module(batch), batch)
    trainer = trainer_with(callback, Resizes(begin), max_epochs=4)
    trainer.fit(module, DataLoader(Resized(images[:24]), 8, shuffle=True))
    assert codes(callback.last_report) == wanted

"""What a training comes to do with its images after its first batch: a doubt or a warning before an audit, or none."""

import re
import warnings

import lightning
import pytest
import torch
from smooth_images import photographs
from test_first_steps import Colors
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2
from training_runs import audit_callback, trainer_with

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


class Later(Colors):
    """Prepares images otherwise from the third of four epochs on."""

    def training_step(self, batch, batch_idx):
        x = self.prepare(batch[0]) if self.current_epoch > 1 else batch[0]
        return functional.mse_loss(self(x), x)


class Running(Colors):
    """Normalizes by running statistics, which the first batch does not have yet."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("var", torch.ones(1))

    def training_step(self, batch, batch_idx):
        x = (batch[0] - self.mean) / self.var.sqrt()
        self.mean.lerp_(batch[0].mean(), 0.5)
        self.var.lerp_(batch[0].var(), 0.5)
        return functional.mse_loss(self(x), x)


class ByHand(Later):
    """The same by manual optimization, without a loss that is returned."""

    def __init__(self, prepare):
        super().__init__(prepare)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()
        self.optimizers().zero_grad()


def fit(module, size=8, number=24, settings=None, **trainer):
    """What was said of how the training calls the model, and the last report."""
    torch.manual_seed(0)
    images = photographs(48)
    callback = audit_callback(**(settings or {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, **{"max_epochs": 4, "num_sanity_val_steps": 0} | trainer).fit(
            module,
            DataLoader(TensorDataset(images[:number]), size, shuffle=True),
            DataLoader(TensorDataset(images[24:]), 8),
        )
    said = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    return said, callback.last_report


def codes(report):
    return [doubt["code"] for doubt in report.doubts]


def each(transform):
    return lambda images: torch.stack([transform(image) for image in images])


FIXED = {
    "another range": (lambda x: 2 * x - 1, r"\(image - 0.5\) / 0.5"),
    "inverted": (lambda x: 1 - x, r"\(image - 1\) / -1"),
    "darker": (lambda x: 0.7 * x, "image / 1.4286"),
    "a power": (lambda x: x**2, "a curve"),
    "other channels": (lambda x: x.flip(1), "channels of its images in another order"),
    "gray": (lambda x: x.mean(1, keepdim=True).expand_as(x), "color space"),
    "smaller": (lambda x: functional.avg_pool2d(x, 2), r"images of shape \(3, 16, 16\)"),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_the_training_has_come_to_do_is_a_doubt_of_the_audit(name):
    prepare, words = FIXED[name]
    said, report = fit(Later(prepare))
    assert codes(report) == ["called_otherwise"]
    assert report.doubts[0]["text"].startswith("in epoch 3, unlike in the first batch, ")
    assert len(said) == 1
    assert re.search(f"{words}.*pass reconstruct=", said[0]), said


MAY_BE_RANDOM = {"cropped": each(v2.RandomResizedCrop(32, (0.3, 0.6))), "blurred": v2.GaussianBlur(9, (2.0, 4.0))}


@pytest.mark.parametrize("prepare", MAY_BE_RANDOM.values(), ids=MAY_BE_RANDOM)
def test_what_may_be_random_is_a_warning_if_all_the_newest_images_have_it(prepare):
    said, report = fit(Later(prepare))
    assert codes(report) == []
    assert len(said) == 1
    assert said[0].startswith("members: in epoch 3 the training changes its images before the model gets them")


RANDOM = {
    "flips": each(v2.RandomHorizontalFlip()),
    "noise": lambda x: x + 0.2 * torch.randn_like(x),
    "holes": lambda x: x * (torch.rand(len(x), 1, 32, 32) > 0.5),
    "nothing": lambda x: x,
    "nearly nothing": lambda x: 0.99 * x,
}


@pytest.mark.parametrize("name", RANDOM)
def test_of_what_is_random_nothing_is_said(name):
    said, report = fit(Later(RANDOM[name]))
    assert said == []
    assert codes(report) == []


def test_what_the_first_batch_has_shown_is_not_said_again():
    said, report = fit(Colors(each(v2.RandomCrop(32, padding=4))), settings={"at_epochs": [2]})
    assert len(said) == 1
    assert "those of the first batch are" in said[0]
    assert codes(report) == []


def test_running_statistics_are_told_and_an_audit_that_uses_them_is_not_doubted():
    """The formula of the doubt, taken as it stands, makes the audit that is not doubted."""
    said, untold = fit(Running(), settings={"at_epochs": [2], "at_fit_end": False})
    assert codes(untold) == ["called_otherwise"]
    assert len(said) == 1

    def normalized(module, images):
        deviation = module.var.sqrt()
        return deviation * module((images - module.mean) / deviation) + module.mean

    said, told = fit(Running(), settings={"at_epochs": [2], "at_fit_end": False, "reconstruct": normalized})
    assert said == []
    assert codes(told) == []
    assert told.headline["train_loss"] != pytest.approx(untold.headline["train_loss"], rel=0.01)


RUNS = {
    "one batch an epoch": {"size": 24, "max_epochs": 6},
    "accumulated": {"accumulate_grad_batches": 2},
    "part of the batches": {"limit_train_batches": 2, "max_epochs": 5},
    "steps": {"max_epochs": -1, "max_steps": 12},
    "a smaller batch at the end": {"size": 10},
    "epochs": {"settings": {"at_epochs": [3], "at_fit_end": False}},
}


@pytest.mark.parametrize("name", RUNS)
def test_it_is_seen_whenever_the_audit_comes(name):
    said, report = fit(Later(lambda x: 2 * x - 1), **RUNS[name])
    assert codes(report) == ["called_otherwise"]
    assert any("(image - 0.5) / 0.5" in one for one in said)


def test_it_is_seen_in_passing_where_the_training_ends_unannounced():
    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 9

    stopping = [Stop()]
    module = Later(lambda x: 2 * x - 1)
    module.configure_callbacks = lambda: stopping
    _, report = fit(module, max_epochs=1000)
    assert codes(report) == ["called_otherwise"]


def test_it_is_seen_when_the_loss_nears_the_level_of_an_audit():
    class Falling(Later):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            return 0 * self.network.weight.sum() + (1.0, 0.9, 0.11, 0.09)[self.current_epoch]

    _, report = fit(Falling(lambda x: 2 * x - 1), settings={"at_train_loss": [0.1], "at_fit_end": False})
    assert codes(report) == ["called_otherwise"]


def test_manual_optimization_is_watched_too():
    _, report = fit(ByHand(lambda x: 2 * x - 1))
    assert codes(report) == ["called_otherwise"]


def test_to_watch_changes_no_weights():
    class Drawing(Later):
        def __init__(self, prepare):
            super().__init__(prepare)
            self.network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.1))

    watched, alone = (Drawing(RANDOM["noise"]) for _ in range(2))
    fit(watched)
    torch.manual_seed(0)
    images = photographs(48)
    trainer = trainer_with(max_epochs=4, num_sanity_val_steps=0)
    trainer.fit(
        alone, DataLoader(TensorDataset(images[:24]), 8, shuffle=True), DataLoader(TensorDataset(images[24:]), 8)
    )
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_a_step_that_fails_while_it_is_watched_leaves_no_hooks():
    class Failing(Later):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 3:
                raise RuntimeError("out of memory")
            return super().training_step(batch, batch_idx)

    module = Failing(lambda x: x)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def test_a_look_that_fails_does_not_end_the_training(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such layer")

    monkeypatch.setattr("lightning_memaudit.callback.later_batches.LaterBatches._compare", fails)
    said, report = fit(Later(lambda x: 2 * x - 1))
    assert report is not None
    assert len(said) == 1
    assert "could not be compared, in epoch 3," in said[0]
    assert "no such layer" in said[0]

"""Integers that are no bytes: a model gets what the training gives it, and the numbers are those of its images."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, saved_truth

pytestmark = [pytest.mark.usefixtures("without_report"), pytest.mark.filterwarnings("ignore:.*LeafSpec.*")]

LOW, HIGH = -1000, 3000
UNIT = Items(images(8)), Items(images(4, seed=1))


def hounsfield(dtype=torch.int16):
    return [Items([(LOW + (HIGH - LOW) * image).round().to(dtype) for image in group.items]) for group in UNIT]


class Network(Module):
    """On numbers in [0, 1] or, where ``scales``, on Hounsfield units as they stand in the batch."""

    def __init__(self, scales):
        super().__init__()
        self.net, self.scales = nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), scales

    def forward(self, x):
        if not self.scales:
            return self.net(x).view_as(x)
        return self.net((x - LOW) / (HIGH - LOW)).view(x.shape) * (HIGH - LOW) + LOW

    def training_step(self, batch, batch_idx):
        x = batch if self.scales else (batch.float() - LOW) / (HIGH - LOW)
        return functional.mse_loss(self(x) / 4000, x / 4000)


def train_loss(module, groups, **settings):
    callback = audit_callback(controls=groups[1], every_n_epochs=1, data_range=[LOW, HIGH], **settings)
    fit(callback, module, DataLoader(groups[0], 4))
    return callback.last_report.headline["train_loss"]


@pytest.mark.parametrize("scales", [True, False], ids=["forward", "training_step"])
def test_whatever_scales_them_the_error_is_that_of_the_images(scales):
    module, groups = Network(scales), hounsfield()
    found = train_loss(module, groups)
    stored = torch.stack(groups[0].items).double()
    given = stored if scales else (stored - LOW) / (HIGH - LOW)
    with torch.no_grad():
        returned = module.double()(given)
    returned = returned if scales else returned * (HIGH - LOW) + LOW
    assert found == pytest.approx(float(((returned - stored) / (HIGH - LOW)).square().mean()), rel=1e-4)


def test_the_formula_of_a_refusal_says_what_its_image_is_and_the_mend_works():
    class Casts(Network):
        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch.float()) / 4000, batch / 4000)

    module, groups = Casts(scales=False), hounsfield()
    told = r"gives the model \(image - 0.25\) / 0.00025 and .* would give it image, where image is in \[0, 1\]: pass"
    with pytest.raises(ValueError, match=told):
        train_loss(module, groups)
    found = train_loss(module, groups, reconstruct=lambda module, x: module(x.float()))
    stored = torch.stack(groups[0].items).float()
    with torch.no_grad():
        expected = functional.mse_loss(module(stored) / 4000, stored / 4000)
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_a_model_of_integers_that_returns_small_numbers_is_asked_what_they_are():
    class Returns(Network):
        def forward(self, x):
            return self.net((x - LOW) / (HIGH - LOW)).view(x.shape)

    with pytest.raises(ValueError, match="takes integers, and whether it returns values in their range or numbers in"):
        train_loss(Returns(scales=True), hounsfield())


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e4m3fn])
def test_types_that_torch_can_do_little_with(dtype):
    is_integer = not dtype.is_floating_point
    high = 65535 if is_integer else 1.0
    groups = [Items([(high * image).to(dtype) for image in group.items]) for group in UNIT]

    class Scales(Network):
        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch.float() / high), batch.float() / high)

    module = Scales(scales=False)
    callback = audit_callback(controls=groups[1], std=[1 / high] if is_integer else None)
    fit(callback, module, DataLoader(groups[0], 4))
    values = torch.stack(groups[0].items).float() / high
    with torch.no_grad():
        expected = functional.mse_loss(module(values), values)
    assert callback.last_report.headline["train_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_complex_images_are_refused_in_one_line():
    groups = [Items([image.to(torch.complex64) for image in group.items]) for group in UNIT]
    with pytest.raises(ValueError, match=r"images are torch.complex64: pass image_key=<a function of the item"):
        train_loss(Network(scales=False), groups)


@pytest.mark.parametrize(("highest", "is_refused"), [(1, True), (16, True), (17, False), (255, False)])
def test_bytes_of_few_steps_are_asked_what_they_are(highest, is_refused):
    """As masks, label maps and digits in 16 steps are; of photographs none uses so few of its 256 values."""
    groups = [Items([(highest * image).round().byte() for image in group.items]) for group in UNIT]
    for group in groups:
        group.items[0][..., 0, 0] = highest

    class OnBytes(Module):
        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch.float() / 255), batch.float() / 255)

    def trained():
        how = {"reconstruct": lambda module, images: 255 * module(images / 255)}
        fit(audit_callback(controls=groups[1], **how), OnBytes(), DataLoader(groups[0], 4))

    if is_refused:
        with pytest.raises(ValueError, match=f"torch.uint8 with values up to {highest}, of unknown range"):
            trained()
    else:
        trained()


class Bytes(Module):
    def training_step(self, batch, batch_idx):
        x = batch.float() / 255
        return functional.mse_loss(x * self.weight, x)


def test_bytes_that_begin_dark_are_no_labels():
    stored = (255 * images(140)).byte()
    stored[:130] //= 17
    fit(audit_callback(num_controls=0), Bytes(), DataLoader(stored, 10))
    distance = (saved_truth().flatten(1)[:, None] - stored.flatten(1) / 255).abs().amax(2)
    assert float(distance.amin(1).max()) < 1e-6

"""What training_step does with its images before the model gets them, the audit must do too, or nothing is audited."""

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Network(Module):
    """``prepare`` is what training_step does with its batch; the network's layers see what comes of it."""

    def __init__(self, prepare=lambda x: x, shape=(1, 8, 8), through_forward=True):
        super().__init__()
        self.prepare, self.through_forward = prepare, through_forward
        size = torch.Size(shape).numel()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, size))

    def forward(self, x):
        return self.net(x).view_as(x)

    def training_step(self, batch, batch_idx):
        x = self.prepare(batch)
        output = self(x) if self.through_forward else self.net(x).view_as(x)
        return functional.mse_loss(output, x)


def run(module, shape=(1, 8, 8), data=None, **arguments):
    data = images(8, shape=shape) if data is None else data
    others = images(4, seed=1, shape=shape)
    callback = audit_callback(**arguments)
    fit(callback, module, DataLoader(Items(data), 4), DataLoader(Items(others.to(data.dtype)), 4))
    return callback


@pytest.mark.parametrize("through_forward", [True, False])
def test_a_normalization_within_training_step_is_refused_before_the_first_step(through_forward):
    module = Network(lambda x: (x - 0.5) / 0.25, through_forward=through_forward)
    before = [parameter.clone() for parameter in module.parameters()]
    text = r"training_step gives the model \(image - 0.5\) / 0.25 and the audit would give it image: pass reconstruct="
    with pytest.raises(ValueError, match=text):
        run(module)
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))
    assert not any(submodule._forward_pre_hooks for submodule in module.modules())


def test_with_the_function_that_it_asks_for_it_goes_on():
    def normalized(module, x):
        return module((x - 0.5) / 0.25) * 0.25 + 0.5

    run(Network(lambda x: (x - 0.5) / 0.25), reconstruct=normalized)
    assert len(rows()) == 1


def test_per_channel():
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    module = Network(lambda x: (x - mean) / std, shape=(3, 8, 8))
    with pytest.raises(ValueError, match=r"\(image - \[0.5, 0.4, 0.3\]\) / \[0.2, 0.25, 0.3\]"):
        run(module, shape=(3, 8, 8))


def test_moved_channels_are_refused():
    module = Network(lambda x: x.permute(0, 2, 3, 1), shape=(3, 8, 8))
    with pytest.raises(ValueError, match="training_step moves the channels"):
        run(module, shape=(3, 8, 8))


@pytest.mark.parametrize(
    "prepare",
    [
        lambda x: x,
        lambda x: x.flatten(1).view_as(x),
        lambda x: x + 0.1 * torch.randn_like(x),
        lambda x: x * (torch.rand_like(x) > 0.5),
        lambda x: x.flip(-1),
    ],
)
def test_denoising_masking_and_augmenting_are_no_faults(prepare):
    run(Network(prepare))
    assert len(rows()) == 1


def test_members_in_another_range_than_the_training_are_refused():
    normalized = images(8) * 4 - 2
    with pytest.raises(ValueError, match=r"those of the training's first batch are in \[-1.9"):
        run(Network(), data=normalized, members=Items(images(8)), controls=Items(images(4, seed=1)))


def test_bytes_that_training_step_scales():
    callback = run(
        Network(lambda x: x.float() / 255), data=(images(8) * 255).round().byte(), controls=Items(images(4, 1))
    )
    assert callback.last_report.images[0]["group"] == "members"
    truth = callback.last_report.recoveries["members/truth"]
    assert torch.equal(torch.from_numpy(truth), (images(8) * 255).round() / 255)


def test_bytes_that_the_model_scales():
    class Scales(Network):
        def forward(self, x):
            x = x.float() / 255
            return self.net(x).view_as(x) * 255

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch) / 255, batch.float() / 255)

    data = (images(8) * 255).round().byte()
    others = Items((images(4, seed=1) * 255).round().byte())

    module = Scales()
    callback = run(module, data=data, controls=others)
    with torch.no_grad():
        expected = functional.mse_loss(module(data) / 255, data.float() / 255)
    assert callback.last_report.headline["train_loss"] == pytest.approx(float(expected), rel=1e-4)


class Bytes(Network):
    """Takes bytes and scales them; ``told`` may be by their type, and ``scale`` the range of what it returns."""

    def __init__(self, scale, told=True):
        super().__init__()
        self.scale, self.told = scale, told

    def forward(self, x):
        x = x.float() / 255 if x.dtype == torch.uint8 or not self.told else x
        return self.net(x).view_as(x) * self.scale

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch) / self.scale, batch.float() / 255)


@pytest.mark.parametrize("told", [True, False])
def test_a_model_of_bytes_that_may_return_either_is_refused_and_the_mend_works(told):
    data, others = ((images(8, seed=seed) * 255).round().byte() for seed in (0, 1))
    with pytest.raises(ValueError, match="whether it returns bytes or numbers in"):
        run(Bytes(1.0, told), data=data, controls=Items(others))
    module = Bytes(1.0, told)
    callback = run(module, data=data, controls=Items(others), reconstruct=lambda module, x: 255 * module(x))
    with torch.no_grad():
        expected = functional.mse_loss(module(data), data.float() / 255)
    assert callback.last_report.headline["train_loss"] == pytest.approx(float(expected), rel=1e-4)


def noisy(x):
    return 2 * x - 1 + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize(
    "prepare",
    [
        noisy,
        lambda x: (2 * x - 1).flip(-1),
        lambda x: (2 * x - 1) * (torch.rand_like(x) > 0.5),
        lambda x: x.sub_(0.5).div_(0.5),
    ],
)
def test_a_normalization_is_seen_behind_noise_flips_masks_and_work_in_place(prepare):
    with pytest.raises(ValueError, match="training_step gives the model"):
        run(Network(prepare))


@pytest.mark.parametrize("shape_of", [lambda x: x[:, :, :4, :4], lambda x: functional.interpolate(x, 4)])
def test_crops_and_other_sizes_are_said(shape_of):
    class Convolutional(Network):
        def __init__(self):
            super().__init__(shape_of)
            self.net = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.net(x)

    with pytest.warns(UserWarning, match=r"the training gives the model images of shape \(1, 4, 4\), and the audit"):
        run(Convolutional())


def test_channels_that_stand_last_in_the_batch_and_first_before_the_model():
    """A fully connected network takes both layouts, and means another image by them."""

    class Moved(Network):
        def __init__(self):
            super().__init__(lambda x: x.permute(0, 3, 1, 2), (3, 8, 8))

    data, others = (images(8, seed=seed, shape=(3, 8, 8)).permute(0, 2, 3, 1).contiguous() for seed in (0, 1))
    with pytest.raises(
        ValueError, match=r"moves the channels .* gets \(3, 8, 8\), and the audit would give it \(8, 8, 3"
    ):
        run(Moved(), data=data, controls=Items(others))


class Shifts(lightning.Callback):
    """Works on the batch before training_step gets it, as other callbacks do."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.mul_(0.9).add_(0.05)


def test_another_callback_that_changes_the_batch_is_seen():
    loaders = DataLoader(Items(images(8)), 4), DataLoader(Items(images(4, seed=1)), 4)
    with pytest.raises(
        ValueError, match=r"first batch holds \(image \+ 0.055556\) / 1.1111 of the images that the audit"
    ):
        fit([Shifts(), audit_callback()], Network(), *loaders)


def test_brightness_that_is_drawn_for_every_image_is_no_range():
    class Brightness(Items):
        def __getitem__(self, index):
            return super().__getitem__(index) * (0.7 + 0.3 * torch.rand(()))

    data = Brightness(images(8))
    loaders = DataLoader(data, 4), DataLoader(Items(images(4, seed=1)), 4)
    with pytest.warns(UserWarning, match="none of the images of the training's first batch"):
        fit(audit_callback(members=Items(images(8))), Network(), *loaders)
    assert len(rows()) == 1


def test_a_first_batch_of_which_no_loss_comes_is_not_the_one_to_look_at():
    class Skips(Network):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"training_step gives the model \(image - 0.5\) / 0.25"):
        run(Skips(lambda x: (x - 0.5) / 0.25))


@pytest.mark.parametrize("order", [lambda x: x.flip(1), lambda x: x.transpose(-1, -2)])
def test_channels_or_rows_in_another_order_are_no_augmentation(order):
    with pytest.raises(ValueError, match="in another order than the audit would"):
        run(Network(order, shape=(3, 8, 8)), shape=(3, 8, 8))


def test_all_calls_of_the_first_step_are_looked_at():
    class Twice(Network):
        def training_step(self, batch, batch_idx):
            self(torch.rand_like(batch))
            return super().training_step(batch, batch_idx)

    run(Twice())
    with pytest.raises(ValueError, match=r"training_step gives the model \(image - 0.5\) / 0.5"):
        run(Twice(lambda x: 2 * x - 1))

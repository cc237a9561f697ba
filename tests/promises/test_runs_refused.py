"""Runs that cannot be audited as they are: refused before the first step, in one line that says what to pass."""

import lightning
import pytest
import torch
from foreign_parts import RGB, Pictures, Plain, in_bytes, pictures
from foreign_runs import ForeignRun, check, train
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from training_runs import audit_callback

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")

MEMBERS, CONTROLS = pictures(shape=RGB), pictures(seed=1, shape=RGB)


def run_of(module, wrap=lambda image: image, own_output=lambda m, x: m(x), **more):
    loaders = [DataLoader(Pictures(images, wrap), 3) for images in (MEMBERS, CONTROLS)]
    return ForeignRun(module, *loaders, MEMBERS, CONTROLS, own_output, **more)


class MaskedAutoencoder(Plain):
    """As ViT-MAE: patches of 4 x 4 pixels, masked at random; ``logits`` are patches, not images."""

    def __init__(self):
        super().__init__(RGB)
        self.embed, self.decode = nn.Linear(48, 16), nn.Linear(16, 48)
        self.generator = torch.Generator().manual_seed(0)

    def patchify(self, x):
        return x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(len(x), 4, 48)

    def unpatchify(self, patches):
        return patches.view(len(patches), 2, 2, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, 8, 8)

    def forward(self, pixel_values, mask_ratio=0.5):
        patches = self.patchify(pixel_values)
        mask = torch.rand(patches.shape[:2], generator=self.generator) < mask_ratio
        logits = self.decode(self.embed(patches.masked_fill(mask[..., None], 0)))
        return {"loss": ((logits - patches).square().mean(-1) * mask).mean(), "logits": logits, "mask": mask}

    def training_step(self, batch, batch_idx):
        return self(batch)["loss"]


def unmasked(module, images):
    return module.unpatchify(module(images, mask_ratio=0.0)["logits"])


class ChannelsLastOutput(Plain):
    def forward(self, x):
        return super().forward(x).permute(0, 2, 3, 1)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch).permute(0, 3, 1, 2), batch)


class Embedding(Plain):
    """Lightning's first example: ``forward`` is the encoder."""

    def forward(self, x):
        return self.net[:2](x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.net(batch).view_as(batch), batch)


class WithoutForward(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(192, 8), nn.Linear(8, 192)

    def training_step(self, batch, batch_idx):
        x = batch.flatten(1)
        return functional.mse_loss(self.decoder(self.encoder(x)), x)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


class FlatBesideMask(Plain):
    """The only output of an image's shape is called a mask."""

    def forward(self, x):
        return {"image": super().forward(x).flatten(1), "mask": super().forward(x).sigmoid()}

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch)["image"], batch.flatten(1))


class ManyOutputs(Plain):
    """As a variational autoencoder: its input and numbers beside the reconstruction, or several images."""

    def __init__(self, shape, num_images=1):
        super().__init__(shape)
        self.num_images = num_images

    def forward(self, x):
        images = super().forward(x)
        return [*(images.clone() for _ in range(self.num_images)), x, x.mean((1, 2, 3))]

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch)[0], batch)


class Restoring(Plain):
    """Trained on pairs: it gets the degraded image, and shall return the other."""

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch["lq"]), batch["gt"])


class Conditional(Plain):
    def forward(self, x, label):
        return super().forward(x) + label.to(x).view(-1, 1, 1, 1)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(*batch), batch[0])


class FlatOnly(Plain):
    def forward(self, x):
        return self.net[1:](x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch.flatten(1)), batch.flatten(1))


class Prepares(Plain):
    """``training_step`` prepares its images in a way of its own, and returns what the model gets and shall return."""

    def __init__(self, prepare, net=None):
        super().__init__(RGB)
        self.prepare, self.net = prepare, net or self.net

    def training_step(self, batch, batch_idx):
        given, target = self.prepare(batch)
        return functional.mse_loss(self(given), target)


def prepares(prepare, wrap=lambda image: image, net=None):
    def both(batch):
        prepared = prepare(batch)
        return prepared if isinstance(prepared, tuple) else (prepared, prepared)

    return lambda: run_of(Prepares(both, net), wrap)


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ELU(), nn.Conv2d(4, 3, 3, padding=1))


def channels_last(image):
    return image.permute(1, 2, 0).contiguous()


class BesideCoordinates(Plain):
    def __init__(self):
        super().__init__(RGB)
        self.net = nn.Conv2d(4, 3, 3, padding=1)

    def decoded(self, x):
        return self.net(torch.cat([x, torch.linspace(0, 1, 8).expand(len(x), 1, 8, 8)], 1))

    def forward(self, x):
        return self.decoded(x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.decoded(2 * batch - 1), 2 * batch - 1)


class WithoutLayers(Plain):
    def __init__(self):
        super().__init__(RGB)
        self.weight = nn.Parameter(torch.eye(192) + 0.05 * torch.randn(192, 192))

    def forward(self, x):
        return functional.linear(x.flatten(1), self.weight).view_as(x)

    def training_step(self, batch, batch_idx):
        x = 2 * batch - 1
        return functional.mse_loss(functional.linear(x.flatten(1), self.weight).view_as(x), x)


class NormalizesOneOfMany(Plain):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {name: part - 0.5 for name, part in batch.items()} if isinstance(batch, dict) else batch - 0.5

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch["one"]), batch["one"])


def hook_of_several_loaders():
    run = run_of(NormalizesOneOfMany(RGB))
    run.train = {"one": run.train, "other": DataLoader(Pictures(pictures(6, 5, RGB)), 3)}
    return run


class NormalizesInACallback(lightning.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.sub_(0.5)


def members_in_another_range(prepare):
    def build():
        run = run_of(Plain(RGB), lines={"members": Pictures(MEMBERS)})
        run.train = DataLoader(Pictures(prepare(MEMBERS)), 3)
        return run

    return build


class Stream(IterableDataset):
    def __iter__(self):
        return iter(MEMBERS)


def streamed(**lines):
    run = run_of(Plain(RGB), lines=lines)
    run.train = DataLoader(Stream(), 3)
    return run


def same_images():
    run = run_of(Plain(RGB))
    run.validation = DataLoader(Pictures(MEMBERS.clone()), 3)
    return run


def flatly(module, x):
    return module.decoder(module.encoder(x.flatten(1)))


REFUSED = {
    "patches of a masked autoencoder": (
        lambda: run_of(MaskedAutoencoder(), lines={"output": "logits"}),
        ["(2, 4, 48)", "patches", "reconstruct="],
    ),
    "a masked autoencoder, no lines": (
        lambda: run_of(MaskedAutoencoder()),
        ["the model returned dict", "reconstruct="],
    ),
    "outputs with channels last": (
        lambda: run_of(ChannelsLastOutput(RGB)),
        ["(2, 8, 8, 3)", "reconstruct=", ".permute(0, 3, 1, 2)"],
    ),
    "forward is the encoder": (
        lambda: run_of(Embedding(RGB)),
        ["(2, 24)", "pass reconstruct=lambda module, images: module.net(images)"],
    ),
    "no forward": (
        lambda: run_of(WithoutForward()),
        ["pass reconstruct=lambda module, images: module.decoder(module.encoder(images.flatten(1)))"],
    ),
    "several outputs": (
        lambda: run_of(ManyOutputs(RGB, 2)),
        ["the model returned list", "output=", "such as 0 or 1"],
    ),
    "the only image is a mask": (lambda: run_of(FlatBesideMask(RGB)), ["the model returned dict", "output="]),
    "the degraded image goes in": (
        lambda: run_of(Restoring(RGB), lambda x: {"lq": x / 2, "gt": x}, lines={"image_key": "gt"}),
        ["training_step gives the model image / 2", "reconstruct="],
    ),
    "a label is needed": (lambda: run_of(Conditional(RGB), lambda x: (x, 0.0)), ["label", "reconstruct="]),
    "several images in a dict": (
        lambda: run_of(Restoring(RGB), lambda x: {"inputs": {"lq": x / 2, "gt": x}, "y": 0}),
        ["image_key=", "such as ['inputs', 'lq']"],
    ),
    "moves the channels of floats": (
        prepares(lambda x: x.permute(0, 3, 1, 2), channels_last),
        ["training_step", "channels", "reconstruct="],
    ),
    "moves the channels of bytes": (
        prepares(lambda x: x.permute(0, 3, 1, 2).float() / 255, lambda x: channels_last(in_bytes(x))),
        ["training_step", "channels", "reconstruct="],
    ),
    "normalized in place": (
        prepares(lambda x: x.sub_(0.5).div_(0.5)),
        ["training_step gives the model (image - 0.5) / 0.5", "reconstruct="],
    ),
    "normalized and noisy": (
        prepares(lambda x: (2 * x - 1 + 0.1 * torch.randn_like(x), 2 * x - 1)),
        ["training_step", "reconstruct="],
    ),
    "normalized and flipped": (prepares(lambda x: (2 * x - 1).flip(-1)), ["training_step", "reconstruct="]),
    "normalized and masked": (
        prepares(lambda x: ((2 * x - 1) * (torch.rand_like(x) > 0.3), 2 * x - 1)),
        ["training_step", "reconstruct="],
    ),
    "coordinates beside the images": (lambda: run_of(BesideCoordinates()), ["training_step", "reconstruct="]),
    "hook of several loaders": (
        hook_of_several_loaders,
        ["members", "(image - 0.5) / 1 of the images that the audit reads"],
    ),
    "a callback that normalizes": (lambda: run_of(Plain(RGB), callbacks=[NormalizesInACallback()]), ["members"]),
    "members in another range": (members_in_another_range(lambda images: images - 0.5), ["members"]),
    "members of less contrast": (members_in_another_range(lambda images: 0.8 * images + 0.1), ["members"]),
    "a stream of unknown length": (lambda: streamed(num_members=None), ["num_members="]),
    "validation on the training images": (same_images, ["6 of the controls are identical to members", "controls="]),
}


class Steps(lightning.Callback):
    def __init__(self):
        self.count = 0

    def on_before_optimizer_step(self, *arguments):
        self.count += 1


@pytest.mark.parametrize("name", REFUSED)
def test_the_run_is_refused(name):
    build, parts = REFUSED[name]
    steps = Steps()

    def built():
        run = build()
        run.callbacks = [*run.callbacks, steps]
        return run

    with pytest.raises((ValueError, TypeError)) as error:
        train(built, lambda run: audit_callback(**run.lines))
    message = str(error.value)
    assert isinstance(error.value, ValueError), message
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message
    assert "logits'" not in message  # never to be recommended: they are no images
    assert steps.count == 0


def with_labels(module, batch):
    return module(*batch)


MENDED = {
    "patches of a masked autoencoder": lambda: run_of(
        MaskedAutoencoder(),
        lines={"reconstruct": unmasked},
        own_output=lambda m, x: m.unpatchify(m.decode(m.embed(m.patchify(x)))),
    ),
    "outputs with channels last": lambda: run_of(
        ChannelsLastOutput(RGB),
        lines={"reconstruct": lambda module, images: module(images).permute(0, 3, 1, 2)},
        own_output=lambda m, x: m.net(x).view_as(x),
    ),
    "forward is the encoder": lambda: run_of(
        Embedding(RGB),
        lines={"reconstruct": lambda module, images: module.net(images)},
        own_output=lambda m, x: m.net(x).view_as(x),
    ),
    "no forward": lambda: run_of(
        WithoutForward(), lines={"reconstruct": flatly}, own_output=lambda m, x: flatly(m, x).view_as(x)
    ),
    "several outputs": lambda: run_of(
        ManyOutputs(RGB, 2), lines={"output": 0}, own_output=lambda m, x: m.net(x).view_as(x)
    ),
    "the degraded image goes in": lambda: run_of(
        Restoring(RGB),
        lambda x: {"lq": x / 2, "gt": x},
        lines={"image_key": "gt", "reconstruct": lambda module, images: module(images / 2)},
        own_output=lambda m, x: m.net(x / 2).view_as(x),
    ),
    "a label is needed": lambda: run_of(
        Conditional(RGB),
        lambda x: (x, 0.25),
        lines={"reconstruct": with_labels},
        own_output=lambda m, x: m.net(x).view_as(x) + 0.25,
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_the_message_says_mends_it(name):
    check(MENDED[name])


OTHER_SIZES = {
    "crops": prepares(lambda x: x[:, :, :4, :4], net=convolutions()),
    "resizes": prepares(lambda x: functional.interpolate(x, 4), net=convolutions()),
}


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_training_on_images_of_another_size_is_said(name):
    try:
        _, _, said, _ = train(OTHER_SIZES[name], lambda run: audit_callback(**run.lines))
    except ValueError as error:
        said = {str(error)}
    assert any("(3, 8, 8)" in text and "(3, 4, 4)" in text for text in said)


def test_what_cannot_be_compared_is_said():
    _, _, said, _ = train(lambda: run_of(WithoutLayers()), lambda run: audit_callback(**run.lines))
    assert any("training_step" in text for text in said)

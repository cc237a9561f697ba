"""Kinds of autoencoders: how each is trained and called, and what it makes of its images."""

import pytest
import torch
import torchmetrics
from foreign_parts import RGB, Pictures, Plain, Trained, loaders, plainly
from foreign_runs import ForeignRun, check
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")


def denoising():
    class Denoising(Plain):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            return functional.mse_loss(self(x + 0.2 * torch.randn_like(x)), x)

    return ForeignRun(Denoising(), **loaders())


def masked_pixels():
    class Masked(Plain):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            mask = torch.rand_like(x[:, :1]) < 0.5
            return ((self(x.masked_fill(mask, 0)) - x).square() * mask).mean()

    return ForeignRun(Masked(), **loaders())


def sparse_by_a_hook():
    class Sparse(Plain):
        def __init__(self):
            super().__init__()
            self.activations = []
            self.net[2].register_forward_hook(lambda module, inputs, output: self.activations.append(output))

        def training_step(self, batch, batch_idx):
            x, _ = batch
            loss = functional.mse_loss(self(x), x)
            penalty = sum(activation.abs().mean() for activation in self.activations)
            self.activations.clear()
            return loss + 1e-3 * penalty

    return ForeignRun(Sparse(), **loaders())


def contractive():
    class Contractive(Plain):
        def forward(self, x):
            self.code = self.net[2](self.net[1](x.flatten(1)))
            return self.net[3](self.code).view_as(x)

        def training_step(self, batch, batch_idx):
            x = batch[0].requires_grad_()
            loss = functional.mse_loss(self(x), x)
            (slope,) = torch.autograd.grad(self.code.sum(), x, create_graph=True)
            return loss + 1e-3 * slope.square().sum()

    return ForeignRun(Contractive(), **loaders(), own_output=lambda m, x: m.net(x).view_as(x))


class UNet(Trained):
    def __init__(self, skips):
        super().__init__()
        self.skips = skips
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(6, 3, 2, 2)
        self.last = nn.Conv2d(6 if skips else 3, 3, 1)

    def forward(self, x):
        up = self.up(self.down(x))
        return self.last(torch.cat([up, x], 1) if self.skips else up)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]), batch[0])


def u_net_with_skips():
    return ForeignRun(UNet(True), **loaders(shape=RGB))


def u_net_without_skips():
    return ForeignRun(UNet(False), **loaders(shape=RGB))


def adversarial_with_two_optimizers():
    class Adversarial(Trained):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.encoder, self.decoder = nn.Linear(64, 6), nn.Linear(6, 64)
            self.discriminator = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))

        def forward(self, x):
            return self.decoder(self.encoder(x.flatten(1))).view_as(x)

        def training_step(self, batch, batch_idx):
            x, _ = batch
            generator, discriminator = self.optimizers()
            code = self.encoder(x.flatten(1))
            fooled = functional.softplus(-self.discriminator(code)).mean()
            generator.zero_grad()
            self.manual_backward(functional.mse_loss(self(x), x) + 0.1 * fooled)
            generator.step()
            scores = self.discriminator(torch.cat([torch.randn_like(code), code.detach()]))
            signs = torch.ones_like(scores)
            signs[: len(code)] = -1
            discriminator.zero_grad()
            self.manual_backward(functional.softplus(signs * scores).mean())
            discriminator.step()

        def configure_optimizers(self):
            own = [*self.encoder.parameters(), *self.decoder.parameters()]
            return [torch.optim.Adam(own, 1e-2), torch.optim.SGD(self.discriminator.parameters(), 1e-2)], []

    return ForeignRun(
        Adversarial(), **loaders(), own_output=lambda m, x: m.decoder(m.encoder(x.flatten(1))).reshape(x.shape)
    )


def conditional_vae():
    class ConditionalVAE(Trained):
        def __init__(self):
            super().__init__()
            self.labels, self.encoder = nn.Embedding(3, 64), nn.Linear(128, 6)
            self.decoder = nn.Linear(6 + 64, 64)

        def forward(self, x, y):
            given = self.labels(y)
            code = self.encoder(torch.cat([x.flatten(1), given], 1))
            return self.decoder(torch.cat([code, given], 1)).view_as(x)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(*batch), batch[0])

    def reconstruct(module, batch):
        images, labels = batch
        return module(images, labels)

    return ForeignRun(
        ConditionalVAE(),
        **loaders(),
        lines={"reconstruct": reconstruct},
        own_output=lambda m, x: m(x, torch.tensor([index % 3 for index in range(len(x))])),
    )


def frozen_pretrained_encoder():
    class Frozen(Trained):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten()).eval()
            self.encoder.requires_grad_(False)
            self.decoder = nn.Linear(128, 64)

        def on_train_epoch_start(self):
            self.encoder.eval()

        def forward(self, x):
            return self.decoder(self.encoder(x)).view(x.shape)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0])

    return ForeignRun(Frozen(), **loaders())


def flat_output():
    class Flat(Plain):
        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0].flatten(1))

    return ForeignRun(Flat(RGB), **loaders(shape=RGB), own_output=lambda m, x: m.net(x).reshape(x.shape))


def flat_data_set():
    class FlatModule(Plain):
        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self.net(batch), batch)

    return ForeignRun(
        FlatModule(RGB),
        **loaders(lambda images: Pictures(images.flatten(1)), RGB),
        lines={"image_shape": RGB, "flatten": True},
        own_output=lambda m, x: m.net(x.flatten(1)).view_as(x),
    )


def output_without_its_channel():
    class Squeezed(Plain):
        def forward(self, x):
            return super().forward(x).squeeze(1)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0].squeeze(1))

    return ForeignRun(Squeezed(), **loaders(), own_output=lambda m, x: m.net(x).view_as(x))


def logits_with_binary_cross_entropy():
    class Logits(Plain):
        def training_step(self, batch, batch_idx):
            return functional.binary_cross_entropy_with_logits(self(batch[0]), batch[0])

    return ForeignRun(
        Logits(),
        **loaders(),
        lines={"reconstruct": lambda module, images: torch.sigmoid(module(images))},
        own_output=lambda m, x: 1 / (1 + torch.exp(-m.net(x))).view_as(x),
    )


def residual_with_dropout_and_its_own_counter():
    class Counting(Plain):
        calls = 0

        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            self.calls += 1
            return x + self.drop(super().forward(x))

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0]) * (1 + self.calls % 3)

    return ForeignRun(Counting(), **loaders(), own_output=lambda m, x: x + m.net(x).view_as(x))


def metrics_updated_in_forward():
    class Measured(Plain):
        def __init__(self):
            super().__init__()
            self.error, self.means = torchmetrics.MeanSquaredError(), torchmetrics.CatMetric()

        def forward(self, x):
            output = super().forward(x)
            self.error.update(output, x)
            self.means.update(output.mean())
            self.log("mean", output.mean(), on_epoch=True)
            return output

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0])

        def on_train_epoch_end(self):
            self.log("error", self.error.compute())
            self.error.reset()

    run = ForeignRun(Measured(), **loaders(), own_output=plainly)
    run.probe = lambda: [run.module.means.compute(), logged(run.module.trainer)]
    return run


def logged(trainer):
    """What the run logs by itself."""
    return {name: value for name, value in trainer.callback_metrics.items() if "memaudit" not in name}


def a_buffer_made_in_the_first_call():
    class Shifted(Plain):
        def forward(self, x):
            if not hasattr(self, "shift"):
                self.register_buffer("shift", torch.rand(8))
            return super().forward(x + self.shift)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0])

    return ForeignRun(Shifted(), **loaders(), own_output=lambda m, x: plainly(m, x + m.shift))


def gradients_of_an_energy():
    """Denoises by a step down an energy: differentiates in every forward pass."""

    class Energy(Plain):
        def forward(self, x):
            with torch.enable_grad():
                z = x.detach().clone().requires_grad_()
                energy = (super().forward(z) - z).square().sum()
                (slope,) = torch.autograd.grad(energy, z, create_graph=self.training)
                return x - 0.1 * slope

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch[0]), batch[0])

    def by_hand(module, images):
        step = torch.func.grad(lambda z: (plainly(module, z) - z).square().sum())
        return images - 0.1 * step(images)

    return ForeignRun(Energy(), **loaders(), own_output=by_hand)


def another_method_reconstructs():
    class WithMethod(Plain):
        def forward(self, x):
            return self.net[:2](x)

        def reconstruct(self, x):
            return self.net(x).view_as(x)

        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self.reconstruct(batch[0]), batch[0])

    return ForeignRun(WithMethod(), **loaders(), lines={"reconstruct": "reconstruct"}, own_output=plainly)


def a_function_by_its_import_path():
    def unwrapped(batch):
        return batch[0]

    return ForeignRun(
        Plain(unwrap=unwrapped), **loaders(), lines={"reconstruct": "foreign_parts.plainly"}, own_output=plainly
    )


RUNS = [
    metrics_updated_in_forward,
    a_buffer_made_in_the_first_call,
    gradients_of_an_energy,
    another_method_reconstructs,
    a_function_by_its_import_path,
    denoising,
    masked_pixels,
    sparse_by_a_hook,
    contractive,
    u_net_with_skips,
    u_net_without_skips,
    adversarial_with_two_optimizers,
    conditional_vae,
    frozen_pretrained_encoder,
    flat_output,
    flat_data_set,
    output_without_its_channel,
    logits_with_binary_cross_entropy,
    residual_with_dropout_and_its_own_counter,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)

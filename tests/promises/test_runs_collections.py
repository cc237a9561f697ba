"""Autoencoders in the styles of tutorials and of collections of models."""

from collections import OrderedDict

import pytest
import torch
from foreign_parts import RGB, Pictures, Trained, loaders
from foreign_runs import ForeignRun, check
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")


def lightning_tutorial_lit_autoencoder():
    class LitAutoEncoder(Trained):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(8 * 8, 16), nn.ReLU(), nn.Linear(16, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8 * 8))

        def forward(self, x):
            return self.encoder(x)  # the embedding

        def training_step(self, batch, batch_idx):
            x, _ = batch
            x = x.view(x.size(0), -1)
            return functional.mse_loss(self.decoder(self.encoder(x)), x)

    def decoded(module, x):
        return module.decoder(module.encoder(x.flatten(1)))

    return ForeignRun(
        LitAutoEncoder(), **loaders(), lines={"reconstruct": decoded}, own_output=lambda m, x: decoded(m, x).view_as(x)
    )


def tutorials_deep_autoencoder_of_cifar():
    class Autoencoder(Trained):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(64, 8)
            )
            self.linear = nn.Linear(8, 64)
            self.decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1), nn.Tanh())
            self.example_input_array = torch.zeros(2, *RGB)

        def forward(self, x):
            return self.decoder(self.linear(self.encoder(x)).reshape(len(x), 4, 4, 4))

        def training_step(self, batch, batch_idx):
            x, _ = batch
            return functional.mse_loss(x, self(x), reduction="none").sum(dim=[1, 2, 3]).mean()

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def cifar(images):
        arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return Pictures(list(arrays), lambda array: (transform(array), 0))

    return ForeignRun(
        Autoencoder(),
        **loaders(cifar, RGB),
        lines={"mean": [0.5], "std": [0.5]},
        own_output=lambda m, x: (m(2 * x - 1) + 1) / 2,
    )


class VanillaVAE(nn.Module):
    """The base of PyTorch-VAE's models."""

    def __init__(self, latent=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU())
        self.fc_mu, self.fc_var = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder_input = nn.Linear(latent, 64)
        self.final_layer = nn.Sequential(nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1), nn.Sigmoid())

    def encode(self, input):
        result = self.encoder(input).flatten(1)
        return [self.fc_mu(result), self.fc_var(result)]

    def decode(self, z):
        return self.final_layer(self.decoder_input(z).view(-1, 4, 4, 4))

    def reparameterize(self, mu, logvar):
        return torch.randn_like(mu) * torch.exp(0.5 * logvar) + mu

    def forward(self, input, **kwargs):
        mu, log_var = self.encode(input)
        return [self.decode(self.reparameterize(mu, log_var)), input, mu, log_var]

    def loss_function(self, recons, input, mu, log_var, M_N):
        kld = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
        return {"loss": functional.mse_loss(recons, input) + M_N * kld, "KLD": -kld.detach()}


class VAEXperiment(Trained):
    def __init__(self, vae_model):
        super().__init__()
        self.model, self.curr_device = vae_model, None

    def forward(self, input, **kwargs):
        return self.model(input, **kwargs)

    def training_step(self, batch, batch_idx):
        real_img, labels = batch
        self.curr_device = real_img.device
        loss = self.model.loss_function(*self.forward(real_img, labels=labels), M_N=0.00025)
        self.log_dict({key: value.item() for key, value in loss.items()})
        return loss["loss"]


def celeba(images):
    crop = transforms.Compose([transforms.CenterCrop(8), transforms.ToTensor()])
    padded = functional.pad((images * 255).round().byte(), (2, 2, 2, 2)).permute(0, 2, 3, 1).numpy()
    to_pil = transforms.ToPILImage()
    return Pictures([(to_pil(array), torch.zeros(40)) for array in padded], lambda pair: (crop(pair[0]), pair[1]))


def pytorch_vae_decoding_the_mean():
    def decoded_mean(module, images):
        return module.model.decode(module.model.encode(images)[0])

    return ForeignRun(
        VAEXperiment(VanillaVAE()),
        **loaders(celeba, RGB),
        lines={"reconstruct": decoded_mean},
        own_output=lambda m, x: m.model.final_layer(
            m.model.decoder_input(m.model.fc_mu(m.model.encoder(x).flatten(1))).view(-1, 4, 4, 4)
        ),
    )


def pytorch_vae_sampling_in_forward():
    return ForeignRun(
        VAEXperiment(VanillaVAE()),
        **loaders(celeba, RGB),
        lines={"output": 0},
        own_output=lambda m, x: m.model.decode(m.model.encode(x)[0]),
        warnings=["members: two calls on the same images differ by"],
        tolerance_db=1.5,
    )


class ModelOutput(OrderedDict):
    """As in pythae: keys are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class DatasetOutput(ModelOutput):
    """What pythae's data sets give, and its models take."""


class PythaeAE(Trained):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        self.decoder = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, inputs, **kwargs):
        x = inputs["data"]
        recon_x = self.decoder(self.encoder(x))
        return ModelOutput(loss=functional.mse_loss(recon_x, x), recon_x=recon_x, z=self.encoder(x))

    def training_step(self, batch, batch_idx):
        return self(batch).loss


def pythae_collate(items):
    return DatasetOutput(data=torch.stack([item["data"] for item in items]), labels=torch.zeros(len(items)))


def pythae(**more):
    def wrapped(images):
        return Pictures(images, lambda image: DatasetOutput(data=image, labels=torch.tensor(1.0)))

    given = loaders(wrapped)
    for name in ("train", "validation"):
        given[name] = DataLoader(given[name].dataset, 3, collate_fn=pythae_collate)
    return ForeignRun(PythaeAE(), **given, own_output=lambda m, x: m.decoder(m.encoder(x)), **more)


def pythae_by_its_data():
    return pythae(
        lines={
            "image_key": "data",
            "reconstruct": lambda module, images: module(DatasetOutput(data=images)),
            "output": "recon_x",
        }
    )


def pythae_by_the_batch():
    return pythae(lines={"image_key": "data", "reconstruct": lambda module, batch: module(batch).recon_x})


class VectorQuantizer(nn.Module):
    """Moves its codebook by an exponential moving average while it trains, as buffers or as plain attributes."""

    def __init__(self, as_buffers):
        super().__init__()
        codes = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
        for name, value in (("codes", codes), ("sizes", torch.ones(8)), ("sums", codes.clone())):
            if as_buffers:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, z):
        flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
        nearest = torch.cdist(flat, self.codes).argmin(1)
        if self.training:
            hot = functional.one_hot(nearest, 8).float()
            self.sizes = 0.9 * self.sizes + 0.1 * hot.sum(0)
            self.sums.mul_(0.9).add_(0.1 * hot.T @ flat.detach())
            self.codes = self.sums / self.sizes[:, None].clamp_min(1e-3)
        quantized = self.codes[nearest].view(len(z), *z.shape[2:], 4).permute(0, 3, 1, 2)
        return z + (quantized - z).detach(), functional.mse_loss(quantized.detach(), z)


def vq_vae(as_buffers):
    class VQVAE(Trained):
        def __init__(self):
            super().__init__()
            self.encoder, self.quantizer = nn.Conv2d(1, 4, 2, 2), VectorQuantizer(as_buffers)
            self.decoder = nn.ConvTranspose2d(4, 1, 2, 2)

        def forward(self, x):
            quantized, loss = self.quantizer(self.encoder(x))
            return loss, self.decoder(quantized)

        def training_step(self, batch, batch_idx):
            loss, x_recon = self(batch[0])
            return functional.mse_loss(x_recon, batch[0]) + 0.25 * loss

    def by_hand(module, x):
        z = module.encoder(x).permute(0, 2, 3, 1)
        distances = (z.unsqueeze(-2) - module.quantizer.codes).square().sum(-1)
        return module.decoder(module.quantizer.codes[distances.argmin(-1)].permute(0, 3, 1, 2))

    run = ForeignRun(VQVAE(), **loaders(), lines={"output": 1}, own_output=by_hand)
    run.probe = lambda: vars(run.module.quantizer).get("codes")
    return run


def vq_vae_with_codebook_in_buffers():
    return vq_vae(as_buffers=True)


def vq_vae_with_codebook_in_attributes():
    return vq_vae(as_buffers=False)


RUNS = [
    lightning_tutorial_lit_autoencoder,
    tutorials_deep_autoencoder_of_cifar,
    pytorch_vae_decoding_the_mean,
    pytorch_vae_sampling_in_forward,
    pythae_by_its_data,
    pythae_by_the_batch,
    vq_vae_with_codebook_in_buffers,
    vq_vae_with_codebook_in_attributes,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)

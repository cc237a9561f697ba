"""diffusers: first stages of latent diffusion, on images in [-1, 1]."""

import lightning
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from diffusers.training_utils import EMAModel
from foreign_parts import RGB, Pictures, pictures
from foreign_runs import ForeignRun, check, train
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import Normalize
from training_runs import audit_callback

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

MEMBERS, CONTROLS = pictures(4, shape=RGB), pictures(4, 1, RGB)
BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (4,),
    "norm_num_groups": 2,
    "layers_per_block": 1,
}


class FirstStage(lightning.LightningModule):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae(x)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Kl(FirstStage):
    def __init__(self):
        super().__init__(AutoencoderKL(latent_channels=2, **BLOCKS))

    def training_step(self, batch, batch_idx):
        x = batch["pixel_values"]
        posterior = self.vae.encode(x).latent_dist
        return functional.mse_loss(self.vae.decode(posterior.sample()).sample, x) + 1e-6 * posterior.kl().mean()


class Vq(FirstStage):
    def __init__(self):
        super().__init__(VQModel(latent_channels=2, num_vq_embeddings=8, **BLOCKS))

    def training_step(self, batch, batch_idx):
        x = batch["pixel_values"]
        recon, loss = self.vae(x, return_dict=False)[:2]
        return functional.mse_loss(recon, x) + loss.mean()


class Tiny(FirstStage):
    """Its decoder brings its images to [-1, 1] by itself."""

    def __init__(self):
        settings = {"num_encoder_blocks": (1,), "num_decoder_blocks": (1,), "latent_channels": 2}
        blocks = {"encoder_block_out_channels": (4,), "decoder_block_out_channels": (4,)}
        super().__init__(AutoencoderTiny(**settings, **blocks, upsampling_scaling_factor=1))

    def training_step(self, batch, batch_idx):
        x = batch["pixel_values"]
        return functional.mse_loss(self.vae(x).sample, x)


class Averaged(Kl):
    """Keeps a moving average of its weights, as the training scripts of diffusers do."""

    def __init__(self):
        super().__init__()
        self.average = EMAModel(self.vae.parameters(), decay=0.5)

    def on_train_batch_end(self, *arguments):
        self.average.step(self.vae.parameters())


LINES = {"image_key": "pixel_values", "output": "sample", "mean": [0.5], "std": [0.5]}


def run_of(module, by_hand, **more):
    normalize = Normalize([0.5], [0.5])

    def loader(images, **settings):
        return DataLoader(Pictures(images, lambda x: {"pixel_values": normalize(x), "text": "a cat"}), 2, **settings)

    settings = {"lines": LINES} | more
    return ForeignRun(
        module,
        loader(MEMBERS, shuffle=True),
        loader(CONTROLS),
        MEMBERS,
        CONTROLS,
        lambda m, x: (by_hand(m.vae, 2 * x - 1) + 1) / 2,
        **settings,
    )


def mode_of(vae, x):
    return vae.decoder(vae.post_quant_conv(vae.quant_conv(vae.encoder(x)).chunk(2, 1)[0]))


def autoencoder_kl():
    return run_of(Kl(), mode_of)


def autoencoder_kl_by_a_function():
    def reconstruct(module, images):
        return module.vae.decode(module.vae.encode(images).latent_dist.mode()).sample

    return run_of(Kl(), mode_of, lines={**LINES, "reconstruct": reconstruct, "output": None})


def autoencoder_kl_that_samples():
    def reconstruct(module, images):
        return module.vae(images, sample_posterior=True)

    return run_of(
        Kl(),
        mode_of,
        lines={**LINES, "reconstruct": reconstruct},
        warnings=["members: two calls on the same images differ by"],
        tolerance_db=3,
    )


def autoencoder_kl_with_a_moving_average():
    run = run_of(Averaged(), mode_of)
    run.probe = lambda: run.module.average.state_dict()
    return run


def vq_model():
    def by_hand(vae, x):
        z = vae.quant_conv(vae.encoder(x)).permute(0, 2, 3, 1)
        codes = vae.quantize.embedding.weight
        nearest = codes[(z.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)].permute(0, 3, 1, 2)
        return vae.decoder(vae.post_quant_conv(nearest))

    return run_of(Vq(), by_hand)


def autoencoder_tiny():
    return run_of(Tiny(), lambda vae, x: vae.decoder(vae.encoder(x)))


RUNS = [
    autoencoder_kl,
    autoencoder_kl_by_a_function,
    autoencoder_kl_that_samples,
    autoencoder_kl_with_a_moving_average,
    vq_model,
    autoencoder_tiny,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


@pytest.mark.parametrize("lines", [{"image_key": "pixel_values"}, {}])
def test_only_the_range_must_be_said_where_image_and_output_leave_no_choice(lines):
    parts = ("members has values in [-1, 1]", "mean=[0.5], std=[0.5]")
    with pytest.raises(ValueError, match="pass") as error:
        train(lambda: run_of(Kl(), mode_of, lines=lines), lambda run: audit_callback(**run.lines))
    assert [part for part in parts if part not in str(error.value)] == []
    assert "image_key=" not in str(error.value)
    assert "output=" not in str(error.value)

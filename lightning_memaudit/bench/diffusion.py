"""A generic rival for the paper's comparison: a diffusion model trained on other images of the same source."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from torchvision.utils import make_grid, save_image

from lightning_memaudit.bench.common import write_and_show
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting
from lightning_memaudit.recovery.methods.ddnm import DDNM, import_diffusers
from lightning_memaudit.training.data import ImagesDataModule
from lightning_memaudit.training.images import already_a_batch

PATTERNS = ("random-0.5", "random-0.9", "block-0.25", "block-0.5")
_keep_most: Any = get_ema_multi_avg_fn(0.9995)  # type: ignore[no-untyped-call]


class DiffusionModule(LightningModule):
    """Learns to tell the noise in noisy images (Ho, Jain & Abbeel 2020), and keeps a running average of its weights.

    Args:
        channels: Of the images.
        side: Of the images, in pixels.
        width: Channels at full resolution.

    >>> module = DiffusionModule(channels=1, side=16, width=32)  # doctest: +SKIP
    >>> module.training_step(torch.rand(2, 1, 16, 16), 0).ndim  # doctest: +SKIP
    0
    """

    def __init__(self, channels: int, side: int, width: int = 64) -> None:
        super().__init__()
        diffusers = import_diffusers()
        self.model: Any = diffusers.UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(width, 2 * width, 2 * width),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )
        self.average = AveragedModel(self.model, multi_avg_fn=_keep_most)
        self.noise_schedule: Any = diffusers.DDPMScheduler()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean squared error of the noise, at a random step for every image in [0, 1], mirrored at random."""
        images = 2 * torch.where(torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5, batch, batch.flip(-1)) - 1
        noise = torch.randn_like(images)
        steps = torch.randint(0, self.noise_schedule.config.num_train_timesteps, (len(images),), device=images.device)
        noisy = self.noise_schedule.add_noise(images, noise, steps)
        loss = functional.mse_loss(self.model(noisy, steps).sample, noise)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average."""
        self.average.update_parameters(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at 2e-4, as for DDPM."""
        return torch.optim.Adam(self.model.parameters(), 2e-4, fused=True)


def diffusion(
    data: str,
    hours: float = 2.0,
    num_images: int = 24_000,
    skip: int = 0,
    width: int = 64,
    batch_size: int = 64,
    num_tested: int = 64,
    precision: str = "32-true",
    seed: int = 0,
    output: str = "runs/diffusion",
) -> None:
    """Train an unconditional diffusion model for `ddnm`, and say how well it inpaints images that it has not seen.

    The same call goes on where the last one stopped, until so many hours are used in all. In the folder are then the
    pipeline, as `--config paper/ddnm` takes it, a sheet of samples, and a table of PSNRs beside biharmonic inpainting.

    Args:
        data: Images: a folder of pictures, or one with train and test in it, or an .npy or .npz file.
        hours: Of training, in all.
        num_images: To train on.
        skip: Images that are left out before them: as many as a run with the same data and seed has as members.
        width: Channels at full resolution.
        batch_size: Images per step.
        num_tested: Images, not trained on, to inpaint.
        precision: Lightning's, of the training; "bf16-mixed" is two to three times as fast on a GPU.
        seed: Seeds the choice of images, and the training.
        output: Folder.

    Raises:
        ValueError: There are not so many images, or diffusers is not installed.
    """
    folder, place = Path(output), Path(data)
    parts = (place / "train", place / "test") if (place / "train").is_dir() else (place, None)
    images = ImagesDataModule(parts[0], parts[1], num_train=skip + num_images, num_controls=num_tested, seed=seed)
    images.setup()
    channels, *sides = images.train_dataset[0].shape
    torch.manual_seed(seed)
    module = DiffusionModule(channels, min(sides), width)
    chosen = Subset(images.train_dataset, range(skip, skip + num_images))
    loader = DataLoader(chosen, batch_size, shuffle=True, collate_fn=already_a_batch)
    last = folder / "checkpoints" / "last.ckpt"
    timer = Timer(duration=timedelta(hours=hours))
    save = ModelCheckpoint(
        last.parent,
        save_top_k=0,
        save_last=True,
        train_time_interval=timedelta(minutes=5),
        enable_version_counter=False,
    )
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=-1,
        logger=False,
        enable_model_summary=False,
        callbacks=[timer, save],
    )
    trainer.fit(module, loader, ckpt_path=str(last) if last.is_file() else None)
    trainer.save_checkpoint(last)
    _judge(
        module, images.control_dataset[:], folder, data, hours=timer.time_elapsed() / 3600, steps=trainer.global_step
    )


@torch.no_grad()
def _judge(module: DiffusionModule, held_out: Tensor, folder: Path, data: str, hours: float, steps: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = module.average.module.to(device).eval()
    pipeline = import_diffusers().DDPMPipeline(unet=network, scheduler=module.noise_schedule)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    samples = pipeline(36, torch.Generator().manual_seed(0), num_inference_steps=100, output_type="np").images
    save_image(make_grid(torch.from_numpy(samples).permute(0, 3, 1, 2), 6), folder / "samples.png")
    inpainters: dict[str, Any] = {"ddnm": DDNM(network, module.noise_schedule), "biharmonic": BiharmonicInpainting()}
    table = Table(
        "mask", "ddnm, PSNR", "biharmonic, PSNR", title=f"{len(held_out)} images not trained on; {hours:.1f} h"
    )
    found: dict[str, dict[str, float]] = {}
    for name in PATTERNS:
        observed, mask = (one.to(device) for one in parse_degradation(name)(held_out, range(len(held_out))))
        found[name] = {
            which: float(psnr(inpaint(torch.clone, observed, mask).image.cpu(), held_out).mean())
            for which, inpaint in inpainters.items()
        }
        table.add_row(name, *(f"{value:.1f} dB" for value in found[name].values()))
    content = {"data": data, "hours": hours, "steps": steps, "num_tested": len(held_out), "mean_psnr": found}
    write_and_show(content, table, str(folder / "inpainting.json"))

"""DDNM: a diffusion model as generic inpainter, the paper's baseline that knows images but not these."""

import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.batches import map_chunks, rows_per_chunk
from lightning_memaudit.recovery.checks import check_counts, check_images, check_mask, check_plane
from lightning_memaudit.recovery.types import concatenate


class DDNM:
    """Inpaint with an unconditional diffusion model, given the true mask (Wang, Yu & Zhang, ICLR 2023).

    The reverse diffusion with the observed pixels put in at every step (their algorithm 1, for inpainting). With images
    in [-1, 1], mask m, observation y, and the model's estimate e of the noise in x_t:

        x0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t)      a_t: the scheduler's cumulative product of alphas
        x0 = m y + (1 - m) x0                         range space from the observation, null space from the model
        x_{t-1} ~ q(x_{t-1} | x_t, x0)                the posterior of DDPM (Ho et al. 2020, equation 6)

    Observed pixels come back exactly. It never sees the autoencoder. Noise in the observation is taken for signal, as
    in the noiseless algorithm. The random numbers of an image depend on its observation and the seed alone.

    Args:
        model: An unconditional ``UNet2DModel`` of diffusers that predicts the noise in images in [-1, 1]: the object, a
            folder, or a name on the hub, of the model or of a pipeline with one.
        scheduler: A ``DDPMScheduler`` with the betas that it was trained with; null takes that of the pipeline, or
            diffusers' default (linear, 1000 steps).
        num_steps: Steps of the reverse diffusion.
        clip: Clip every x0 to [-1, 1], as samplers of images usually do.
        seed: Seeds the random numbers.
        chunk_size: Images at once; null chooses by memory.

    Raises:
        ValueError: diffusers is not installed, the model cannot be loaded or predicts something else than the noise,
            or ``num_steps`` is below 1 or above the scheduler's number of steps.

    >>> inpaint = DDNM("google/ddpm-cifar10-32", num_steps=100)  # doctest: +SKIP
    >>> inpaint(autoencoder, observed, mask).image  # doctest: +SKIP
    >>> DDNM.needs_mask, DDNM.uses_autoencoder  # told the mask, never asks the autoencoder
    (True, False)
    >>> DDNM("google/ddpm-cifar10-32", num_steps=0)
    Traceback (most recent call last):
    ValueError: num_steps=0: must be at least 1
    """

    needs_mask: ClassVar[bool] = True
    uses_autoencoder: ClassVar[bool] = False
    plane_only: ClassVar[bool] = True

    def __init__(
        self,
        model: Any,
        scheduler: Any = None,
        num_steps: int = 100,
        clip: bool = True,
        seed: int = 0,
        chunk_size: int | None = None,
    ) -> None:
        check_counts(num_steps=num_steps)
        diffusers = import_diffusers()
        self.source = str(model) if isinstance(model, str | Path) else type(model).__name__
        if isinstance(model, str | Path):
            model, found = _load(str(model))
            scheduler = scheduler or found
        scheduler = scheduler or diffusers.DDPMScheduler()
        if num_steps > scheduler.config.num_train_timesteps:
            raise ValueError(f"num_steps={num_steps}: at most the scheduler's {scheduler.config.num_train_timesteps}")
        self.model: Any = model.eval() if isinstance(model, torch.nn.Module) else model
        # The step is given x0, which has been computed and clipped before.
        self.scheduler = diffusers.DDPMScheduler.from_config(
            scheduler.config, prediction_type="sample", clip_sample=False, thresholding=False
        )
        self.prediction_type = getattr(scheduler.config, "prediction_type", "epsilon")
        if self.prediction_type != "epsilon":
            raise ValueError(f"scheduler: its model predicts {self.prediction_type!r}; give one that predicts epsilon")
        self.num_steps, self.clip, self.seed, self.chunk_size = num_steps, clip, seed, chunk_size

    def __repr__(self) -> str:
        return (
            f"DDNM(model={self.source!r}, num_steps={self.num_steps}, clip={self.clip}, seed={self.seed}, "
            f"num_train_timesteps={self.scheduler.config.num_train_timesteps})"
        )

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Inpaint ``observed``, (B, C, H, W) in [0, 1], where ``mask``, (B, 1 or C, H, W), is 0.

        ``autoencoder`` is not called. The score is NaN, nothing is certified.

        Raises:
            ValueError: The shapes do not fit each other or the model, or values are not finite.
        """
        check_images("observed", observed)
        check_plane("ddnm", observed)
        check_mask(mask, observed)
        channels = self.model.config.in_channels
        if observed.shape[1] != channels:
            raise ValueError(
                f"ddnm: {self.source} is for images of {channels} channels, these have {observed.shape[1]}; "
                "give a diffusion model of such images"
            )
        if isinstance(self.model, torch.nn.Module):
            self.model.to(observed.device)
        rows = rows_per_chunk(observed, self.chunk_size)
        return concatenate(map_chunks(lambda part: self._inpaint(observed[part], mask[part]), len(observed), rows))

    @torch.no_grad()
    def _inpaint(self, observed: Tensor, mask: Tensor) -> Recovery:
        generators = [self._generator(image) for image in observed]
        known = mask * (2 * observed - 1)
        state = torch.stack([torch.randn(observed.shape[1:], generator=one) for one in generators]).to(observed)
        self.scheduler.set_timesteps(self.num_steps)
        for time in self.scheduler.timesteps:
            kept = self.scheduler.alphas_cumprod[time].to(observed)
            noise = self.model(state, time.to(observed.device)).sample
            clean = (state - (1 - kept).sqrt() * noise) / kept.sqrt()
            if self.clip:
                clean = clean.clamp(-1, 1)
            clean = known + (1 - mask) * clean
            state = self.scheduler.step(clean, time, state, generator=generators).prev_sample
        count = len(observed)
        return Recovery(
            # Observed pixels as they were, not as 2 x - 1 and back has rounded them.
            image=torch.where(mask > 0.5, observed, (state + 1) / 2),
            mask=mask,
            score=observed.new_full((count,), torch.nan),
            certified=torch.zeros(count, dtype=torch.bool, device=observed.device),
            num_evaluations=torch.zeros(count, dtype=torch.int64, device=observed.device),
        )

    def _generator(self, image: Tensor) -> torch.Generator:
        # Into 32 bits: torch's generator on the CPU takes no more of a seed.
        digest = zlib.crc32(image.detach().float().cpu().contiguous().numpy().tobytes(), zlib.crc32(b"%d" % self.seed))
        return torch.Generator().manual_seed(digest)


def import_diffusers() -> Any:
    """The library, an extra.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ValueError("ddnm needs diffusers: pip install 'lightning-memaudit[ddnm]'") from error
    return diffusers


def _load(source: str) -> tuple[Any, Any]:
    """The UNet, and the scheduler where there is one, of a pipeline or of a model alone."""
    diffusers = import_diffusers()
    try:
        pipeline = diffusers.DDPMPipeline.from_pretrained(source, low_cpu_mem_usage=False)
        return pipeline.unet, pipeline.scheduler
    except (OSError, ValueError, AttributeError):
        pass  # no pipeline: a model by itself
    try:
        return diffusers.UNet2DModel.from_pretrained(source, low_cpu_mem_usage=False), None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model={source!r}: no diffusion model there ({' '.join(str(error).split())[:200]}); give a folder or a "
            "name on the hub"
        ) from error

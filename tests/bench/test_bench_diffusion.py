"""The rival of the paper's comparison is trained on the images that were named, and goes on where it stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_memaudit.cli.main import main


@pytest.mark.slow
def test_a_diffusion_model_is_trained_resumed_and_inpaints():
    diffusers = pytest.importorskip("diffusers")
    np.savez("images.npz", images=np.random.default_rng(0).integers(0, 256, (14, 8, 8, 3), dtype=np.uint8))
    command = ["bench", "diffusion", "--data=images.npz", "--num_images=6", "--skip=4", "--num_tested=2", "--width=32"]
    assert main([*command, "--hours=0.001"]) == 0
    first = torch.load("runs/diffusion/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert main([*command, "--hours=0.002"]) == 0
    assert torch.load("runs/diffusion/checkpoints/last.ckpt", weights_only=True)["global_step"] > first
    found = json.loads(Path("runs/diffusion/inpainting.json").read_text())
    assert set(found["mean_psnr"]["random-0.5"]) == {"ddnm", "biharmonic"}
    assert diffusers.DDPMPipeline.from_pretrained("runs/diffusion").unet.config.in_channels == 3
    assert Path("runs/diffusion/samples.png").is_file()

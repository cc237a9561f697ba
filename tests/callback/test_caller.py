"""What the model is given by an audit in the middle of a run."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_memaudit import MemorizationAuditCallback

LAST, FIRST = (192, 1, 24, 3), (192, 64, 8, 1)


class Convolutional(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        return (self(batch) - batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def trained(callbacks, tmp_path, monkeypatch):
    """A module after two epochs; and how the images lay that its first layer was given in training, and else."""
    torch.manual_seed(0)
    module, images = Convolutional(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=callbacks, default_root_dir=tmp_path, **quiet
    )
    strides = {True: set(), False: set()}
    original = nn.Conv2d.forward

    def watched(part, batch):  # a hook would not be called in an audit, and what it notes would be put back
        strides[part.training].add(batch.stride())
        return original(part, batch)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Conv2d, "forward", watched)
        trainer.fit(module, DataLoader(images, batch_size=2))
    return module, strides[True], strides[False]


def test_audits_arrange_images_for_convolutions_and_trainings_are_as_without_them(tmp_path, monkeypatch):
    settings = {"methods": ["autoencoder_iterations"], "patterns": ["random-0.5"], "every_n_epochs": 1}
    audited, in_training, in_audits = trained([MemorizationAuditCallback(**settings)], tmp_path, monkeypatch)
    alone, in_training_alone, _ = trained([], tmp_path, monkeypatch)
    assert in_training == in_training_alone == {FIRST}
    assert LAST in in_audits
    for one, other in zip(audited.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)

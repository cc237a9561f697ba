"""The same images in other ranges: normalized at every place where runs do that."""

from dataclasses import dataclass

import lightning
import pytest
import torch
from foreign_parts import MEAN, RGB, STD, Pictures, Plain, first, in_bytes, normalized, plainly
from foreign_ranges import CONTROLS, MEMBERS, run_of, through_normalization
from foreign_runs import ForeignRun, check, refuse_before_the_first_step
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")


def in_the_data_set():
    return run_of(
        Plain(RGB, first),
        normalized,
        lines={"mean": MEAN.flatten().tolist(), "std": STD.flatten().tolist()},
    )


def in_collate_fn():
    return run_of(Plain(RGB, first), collate=lambda items: [normalized(torch.stack([item[0] for item in items]))])


class NormalizesBefore(Plain):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [normalized(batch[0])]


def in_on_before_batch_transfer():
    return run_of(NormalizesBefore(RGB, first))


class NormalizesAfter(Plain):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch[0] = normalized(batch[0])
        return batch


def in_on_after_batch_transfer():
    return run_of(NormalizesAfter(RGB, first))


class NormalizesWhileTransferring(Plain):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return normalized(super().transfer_batch_to_device(batch[0], device, dataloader_idx))


def in_transfer_batch_to_device():
    return run_of(NormalizesWhileTransferring(RGB))


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(MEMBERS), 3, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(CONTROLS), 3)


class DataNormalizesBefore(Data):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return {"pixel_values": normalized(batch[0])}


class DataNormalizesAfter(Data):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        # As kornia's users write it: augmentation in training only.
        x = batch[0].flip(-1) if self.trainer.training else batch[0]
        return normalized(x), x


def in_on_before_batch_transfer_of_the_data_module():
    module = Plain(RGB, lambda batch: batch["pixel_values"])
    return ForeignRun(module, None, None, MEMBERS, CONTROLS, through_normalization, datamodule=DataNormalizesBefore())


def in_on_after_batch_transfer_of_the_data_module():
    return ForeignRun(
        Plain(RGB, first),
        None,
        None,
        MEMBERS,
        CONTROLS,
        through_normalization,
        datamodule=DataNormalizesAfter(),
        warnings=("audited members are not among",),
    )


class NormalizesInForward(Plain):
    def forward(self, x):
        return super().forward(normalized(x)) * STD + MEAN


def in_forward():
    return run_of(NormalizesInForward(RGB, first))


class NormalizesInTrainingStep(Plain):
    def training_step(self, batch, batch_idx):
        x = normalized(batch[0])
        return functional.mse_loss(self(x), x)


def in_training_step():
    return run_of(
        NormalizesInTrainingStep(RGB),
        lines={"reconstruct": lambda module, images: module(normalized(images)) * STD + MEAN},
    )


def from_minus_one_to_one():
    return run_of(
        Plain(RGB, first),
        lambda images: 2 * images - 1,
        lambda m, x: (m.net(2 * x - 1).view_as(x) + 1) / 2,
        lines={"mean": [0.5], "std": [0.5]},
    )


def from_zero_to_255():
    return run_of(
        Plain(RGB, lambda batch: batch[0]),
        lambda images: 255 * images,
        lambda m, x: m.net(255 * x).view_as(x) / 255,
        lines={"std": [1 / 255]},
    )


class ScalesToSymmetricInTrainingStep(Plain):
    def training_step(self, batch, batch_idx):
        x = batch[0].float() / 127.5 - 1
        return functional.mse_loss(self(x), x)


@dataclass
class Pair:
    noisy: torch.Tensor
    clean: torch.Tensor


def noise_in_the_data_set_and_a_clean_target():
    def noisy(image):
        return Pair((image + 0.1 * torch.randn_like(image)).clamp(0, 1), image)

    class Denoising(Plain):
        def training_step(self, batch, batch_idx):
            return functional.mse_loss(self(batch.noisy), batch.clean)

    def collate(items):
        return Pair(torch.stack([item.noisy for item in items]), torch.stack([item.clean for item in items]))

    loaders = [DataLoader(Pictures(images, noisy), 3, collate_fn=collate) for images in (MEMBERS, CONTROLS)]
    return ForeignRun(Denoising(RGB), *loaders, MEMBERS, CONTROLS, plainly, {"image_key": "clean"})


RUNS = [
    in_the_data_set,
    in_collate_fn,
    in_on_before_batch_transfer,
    in_on_after_batch_transfer,
    in_transfer_batch_to_device,
    in_on_before_batch_transfer_of_the_data_module,
    in_on_after_batch_transfer_of_the_data_module,
    in_forward,
    in_training_step,
    from_minus_one_to_one,
    from_zero_to_255,
    noise_in_the_data_set_and_a_clean_target,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


REFUSED = {
    "normalized in training_step": (
        lambda: run_of(NormalizesInTrainingStep(RGB)),
        r"training_step gives the model \(image - \[0.485, 0.456, 0.406\]\) / \[0.229, 0.224, 0.225\] and the audit "
        r"would give it image: pass reconstruct=",
    ),
    "bytes scaled to [-1, 1] in training_step": (
        lambda: run_of(ScalesToSymmetricInTrainingStep(RGB), in_bytes),
        r"training_step gives the model \(image - 0.5\) / 0.5 and the audit would give it image: pass reconstruct=",
    ),
    "normalized in the data set": (lambda: run_of(Plain(RGB, first), normalized), r"members has values in \[-2"),
    "16 bits": (
        lambda: run_of(Plain(RGB), lambda images: (images * 65535).to(torch.int32)),
        r"members: images are torch.int32 .* of unknown range: pass std=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_run_is_refused_before_its_first_step(name):
    refuse_before_the_first_step(*REFUSED[name])

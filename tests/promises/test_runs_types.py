"""Bytes, other integers, and floating-point numbers of other precisions."""

import pytest
import torch
from foreign_parts import RGB, Plain, first, in_bytes, normalized, plainly
from foreign_ranges import CONTROLS, MEMBERS, run_of
from foreign_runs import check, refuse_before_the_first_step
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("without_report", "reads_here")


class ScalesInTrainingStep(Plain):
    def training_step(self, batch, batch_idx):
        x = batch[0].float() / 255
        return functional.mse_loss(self(x), x)


def bytes_scaled_in_training_step():
    return run_of(ScalesInTrainingStep(RGB), in_bytes, plainly)


class ScalesToSymmetricInTrainingStep(Plain):
    def training_step(self, batch, batch_idx):
        x = batch[0].float() / 127.5 - 1
        return functional.mse_loss(self(x), x)


def bytes_scaled_to_minus_one_to_one_in_training_step():
    return run_of(
        ScalesToSymmetricInTrainingStep(RGB),
        in_bytes,
        lambda m, x: (m.net(2 * x - 1).view_as(x) + 1) / 2,
        lines={"reconstruct": lambda module, images: (module(images.float() / 127.5 - 1) + 1) * 127.5},
    )


class ScalesInForward(Plain):
    def forward(self, x):
        return super().forward(x.float() / 255)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]), batch[0].float() / 255)


def bytes_scaled_in_forward_and_back_by_a_line():
    return run_of(
        ScalesInForward(RGB), in_bytes, plainly, lines={"reconstruct": lambda module, images: 255 * module(images)}
    )


class TellsBytesByTheirType(Plain):
    def forward(self, x):
        return super().forward(x.float() / 255 if x.dtype == torch.uint8 else x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]), batch[0].float() / 255)


def bytes_told_by_their_type():
    return run_of(
        TellsBytesByTheirType(RGB),
        in_bytes,
        plainly,
        lines={"reconstruct": lambda module, images: 255 * module(images)},
    )


class TakesAndGivesBytes(Plain):
    def forward(self, x):
        assert x.dtype == torch.uint8
        return super().forward(x.float() / 255) * 255

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]) / 255, batch[0] / 255)


def bytes_in_and_their_range_out():
    return run_of(TakesAndGivesBytes(RGB), in_bytes, plainly)


class ScalesOnTheDevice(Plain):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [normalized(batch[0].float().div(255))]


def bytes_normalized_in_on_after_batch_transfer():
    return run_of(ScalesOnTheDevice(RGB, first), in_bytes)


def sixteen_bits():
    return run_of(
        Plain(RGB, lambda batch: batch[0].float() / 65535),
        lambda images: (images * 65535).round().to(torch.int32),
        plainly,
        lines={"std": [1 / 65535]},
        collate=lambda items: [torch.stack([item[0] for item in items])],
    )


class Double(Plain):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.double()


def float64_module_and_images():
    return run_of(Double(RGB, first), lambda images: images.double(), lambda m, x: m.net(x.double()).view_as(x))


class Asserting(Plain):
    """Its forward pass runs as the precision plugin has it, in training and in audits."""

    def __init__(self, holds):
        super().__init__(RGB, first)
        self.holds = holds

    def forward(self, x):
        assert self.holds(x)
        return super().forward(x)


def float64_by_precision():
    return run_of(
        Asserting(lambda x: x.dtype == torch.float64),
        own_output=lambda m, x: plainly(m.double(), x.double()),
        trainer={"precision": "64-true"},
    )


def bfloat16_true():
    return run_of(
        Asserting(lambda x: x.dtype == torch.bfloat16),
        own_output=lambda m, x: plainly(m.bfloat16(), x.bfloat16()),
        trainer={"precision": "bf16-true"},
        tolerance_db=0.03,
    )


def bfloat16_mixed():
    def in_autocast(module, images):
        with torch.autocast("cpu", torch.bfloat16):
            return plainly(module, images)

    return run_of(
        Asserting(lambda x: torch.is_autocast_enabled("cpu")),
        own_output=in_autocast,
        trainer={"precision": "bf16-mixed"},
        tolerance_db=0.03,
    )


class CastsInTrainingStep(Plain):
    def training_step(self, batch, batch_idx):
        x = batch[0].float()
        return functional.mse_loss(self(x), x)


def float64_images_cast_in_training_step():
    return run_of(CastsInTrainingStep(RGB), lambda images: images.double(), plainly)


def black_and_white():
    run = run_of(CastsInTrainingStep(RGB), lambda images: images > 0.5, plainly)
    run.members, run.controls = (MEMBERS > 0.5).float(), (CONTROLS > 0.5).float()
    return run


def in_classes(images):
    """Bytes that are 0 or 1, as a mask or a label map has them."""
    return (images > 0.5).byte()


def of_classes(**more):
    run = run_of(CastsInTrainingStep(RGB), in_classes, plainly, **more)
    run.members, run.controls = (MEMBERS > 0.5).float(), (CONTROLS > 0.5).float()
    return run


def bytes_of_two_classes():
    return of_classes(lines={"data_range": [0, 1]})


def bytes_of_two_classes_called_by_a_line():
    return of_classes(lines={"data_range": [0, 1], "reconstruct": lambda module, images: module(images.float())})


def bytes_of_two_classes_made_numbers_in_collate_fn():
    return of_classes(collate=lambda items: [torch.stack([item[0] for item in items]).float()])


class TakesHundredths(Plain):
    def forward(self, x):
        return super().forward(x.float() / 100)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]), batch[0] / 100)


def bytes_up_to_a_hundred():
    run = run_of(
        TakesHundredths(RGB),
        lambda images: (100 * images).byte(),
        plainly,
        lines={"data_range": [0, 100], "reconstruct": lambda module, images: 100 * module(images)},
    )
    run.members, run.controls = (100 * MEMBERS).byte() / 100, (100 * CONTROLS).byte() / 100
    return run


def bfloat16_images():
    run = run_of(
        Plain(RGB, lambda batch: batch[0].float()),
        lambda images: images.bfloat16(),
        plainly,
        lines={"reconstruct": lambda module, images: module(images.float())},
        tolerance_db=0.1,
    )
    run.members, run.controls = MEMBERS.bfloat16().float(), CONTROLS.bfloat16().float()
    return run


RUNS = [
    bytes_scaled_in_training_step,
    bytes_scaled_to_minus_one_to_one_in_training_step,
    bytes_scaled_in_forward_and_back_by_a_line,
    bytes_told_by_their_type,
    bytes_in_and_their_range_out,
    bytes_normalized_in_on_after_batch_transfer,
    sixteen_bits,
    float64_module_and_images,
    float64_by_precision,
    float64_images_cast_in_training_step,
    black_and_white,
    bytes_of_two_classes,
    bytes_of_two_classes_called_by_a_line,
    bytes_of_two_classes_made_numbers_in_collate_fn,
    bytes_up_to_a_hundred,
    bfloat16_true,
    bfloat16_mixed,
    bfloat16_images,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


def test_bytes_of_two_classes_are_no_255ths():
    of_what = r"members: images are torch.uint8 with values up to 1, of unknown range: pass .* data_range="
    refuse_before_the_first_step(of_classes, of_what)

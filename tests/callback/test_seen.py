"""What a model sees of an image and what becomes of its output: layouts, ranges, precisions, and no shared memory."""

import pytest
import torch
from torch import nn

from lightning_memaudit.callback.model import ModuleAutoencoder
from lightning_memaudit.callback.seen import Normalization, Seen

IMAGES = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
GREY = IMAGES[:, :1]
SEEN = [
    Seen(normalization, channels_last, flat, dtype)
    for normalization in (Normalization(), Normalization([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), Normalization([0], [1]))
    for channels_last in (False, True)
    for flat in (False, True)
    for dtype in (torch.float32, torch.float64)
]


@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_what_is_seen_is_what_is_written_out_by_hand(seen):
    mean = torch.tensor(seen.normalization.mean or [0.0]).view(-1, 1, 1)
    std = torch.tensor(seen.normalization.std or [1.0]).view(-1, 1, 1)
    expected = ((IMAGES - mean) / std).to(seen.dtype)
    inputs = seen.apply(IMAGES)
    assert inputs.dtype == seen.dtype
    for image, given in zip(expected, inputs, strict=True):
        for channel in range(3):
            for row in range(4):
                for column in range(6):
                    place = (row, column, channel) if seen.channels_last else (channel, row, column)
                    sizes = (4, 6, 3) if seen.channels_last else (3, 4, 6)
                    flat = (place[0] * sizes[1] + place[1]) * sizes[2] + place[2]
                    value = given[flat] if seen.flat else given[place]
                    torch.testing.assert_close(value, image[channel, row, column], rtol=1e-5, atol=1e-6)
    back = seen.undo(inputs, like=IMAGES)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, IMAGES)


def test_bytes_are_rounded_and_kept_in_range():
    seen = Seen(Normalization(std=[1 / 255]), dtype=torch.uint8)
    values = torch.tensor([0.0, 1.0, 100.4 / 255, 100.6 / 255, -0.2, 1.3]).view(1, 1, 1, 6)
    assert seen.apply(values).flatten().tolist() == [0, 255, 100, 101, 0, 255]
    pictures = torch.arange(256).view(1, 1, 16, 16).to(torch.uint8)
    assert torch.equal(seen.apply(pictures / 255), pictures), "every byte comes back"
    torch.testing.assert_close(seen.undo(pictures, pictures / 255), pictures / 255)
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="must be a type of real numbers"):
            Seen(dtype=dtype)


def test_half_precision_is_rounded_once():
    seen = Seen(Normalization([0.5], [0.1]), dtype=torch.float16)
    assert torch.equal(seen.apply(IMAGES), ((IMAGES - 0.5) / 0.1).half())


class Buffered(nn.Module):
    """Returns the same memory at every call."""

    def __init__(self, shape):
        super().__init__()
        self.buffer = torch.empty(shape)

    def forward(self, x):
        return self.buffer.copy_(x.reshape(self.buffer.shape))


@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_no_memory_is_shared(seen):
    """Neither with the images, nor with what the model keeps, returns or was given."""
    kept, images = [], IMAGES.clone()

    def in_place(x):
        kept.append(x)
        return x.add_(0.25)

    result = ModuleAutoencoder(in_place, seen=seen)(images)
    assert torch.equal(images, IMAGES)
    before = result.clone()
    kept[0].zero_()
    assert torch.equal(result, before)
    assert torch.equal(images, IMAGES)
    buffered = Buffered(seen.apply(IMAGES).shape)
    autoencoder = ModuleAutoencoder(buffered, seen=seen)
    first = autoencoder(images)
    before = first.clone()
    autoencoder(images.flip(0))
    assert torch.equal(first, before), "overwritten by the next call"


def returned(images, output, **seen):
    return ModuleAutoencoder(lambda x: output, seen=Seen(**seen))(images)


@pytest.mark.parametrize(
    ("images", "output", "seen"),
    [
        (IMAGES, IMAGES, {}),
        (IMAGES, IMAGES.flatten(1), {}),
        (IMAGES, IMAGES[:, None], {}),
        (IMAGES, IMAGES.double(), {}),
        (IMAGES[:1], IMAGES[0], {}),
        (IMAGES[:1], IMAGES[0].flatten(), {}),
        (IMAGES, IMAGES.permute(0, 2, 3, 1), {"channels_last": True}),
        (IMAGES, IMAGES.permute(0, 2, 3, 1).flatten(1), {"channels_last": True}),
        (IMAGES, IMAGES.flatten(1), {"flat": True}),
        (IMAGES, IMAGES, {"flat": True}),
        (IMAGES, IMAGES.permute(0, 2, 3, 1).flatten(1), {"flat": True, "channels_last": True}),
        (IMAGES, IMAGES.permute(0, 2, 3, 1), {"flat": True, "channels_last": True}),
        (GREY, GREY[:, 0], {}),
        (GREY, GREY.permute(0, 2, 3, 1), {}),
        (GREY, GREY, {"channels_last": True}),
        (GREY, GREY[:, 0], {"channels_last": True}),
    ],
)
def test_outputs_in_the_order_of_the_input(images, output, seen):
    assert torch.equal(returned(images, output, **seen), images)


def tokens(images, size=2):
    """Patches (B, L, D), as a vision transformer orders them."""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // size, size, width // size, size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


@pytest.mark.parametrize(
    ("output", "seen", "words"),
    [
        (IMAGES.permute(0, 2, 3, 1), {}, "shape (2, 4, 6, 3) for input (2, 3, 4, 6)"),
        (IMAGES.permute(0, 2, 3, 1), {}, "returns this output .permute(0, 3, 1, 2)"),
        (IMAGES.permute(0, 2, 3, 1), {"flat": True}, "returns this output .permute(0, 3, 1, 2)"),
        (IMAGES, {"channels_last": True}, "shape (2, 3, 4, 6) for input (2, 4, 6, 3)"),
        (IMAGES, {"channels_last": True}, "returns this output .permute(0, 2, 3, 1)"),
        (IMAGES.mT, {}, "returns this output .permute(0, 1, 3, 2)"),
        (tokens(IMAGES), {}, "as many values in another shape may be in another order, as those of patches are"),
        (tokens(IMAGES), {"channels_last": True}, "as those of patches are"),
        (tokens(IMAGES), {"flat": True}, "for input (2, 72)"),
        (tokens(GREY), {}, "as those of patches are"),
        (IMAGES.flatten(2), {}, "as those of patches are"),
        (IMAGES.flatten(1)[:, None], {}, "as those of patches are"),
        (IMAGES.flatten(1)[:, :, None], {}, "as those of patches are"),
        (IMAGES.transpose(0, 1), {}, "shape (3, 2, 4, 6)"),
        (IMAGES.flatten(), {}, "shape (144,)"),
        (IMAGES[:, :, ::2], {}, "shape (2, 3, 2, 6) for input (2, 3, 4, 6): an autoencoder returns its input's shape"),
        (IMAGES[:1], {}, "shape (1, 3, 4, 6)"),
        (torch.fft.fft2(IMAGES), {}, "the model returned torch.complex64"),
    ],
)
def test_outputs_that_may_be_in_another_order_are_refused(output, seen, words):
    with pytest.raises(ValueError, match=r".") as error:
        returned(GREY if output.numel() == GREY.numel() and output.ndim == 3 else IMAGES, output, **seen)
    text = str(error.value)
    assert words in text
    assert "reconstruct=<" in text
    assert "\n" not in text


def test_the_permutation_that_is_named_is_right():
    with pytest.raises(ValueError, match="permute") as error:
        returned(IMAGES, IMAGES.permute(0, 2, 3, 1))
    order = eval(str(error.value).rpartition(".permute")[2])
    assert torch.equal(IMAGES.permute(0, 2, 3, 1).permute(order), IMAGES)


@pytest.mark.parametrize(("side", "accepted"), [(8, True), (28, True), (16, False), (64, False)])
def test_a_picture_without_its_channel_is_taken_unless_it_may_be_patches(side, accepted):
    """(B, 16, 16) may be sixteen patches of 4x4 pixels, whose values are in another order than a picture's."""
    images = torch.rand(2, 1, side, side)
    if accepted:
        assert torch.equal(Seen().undo(images[:, 0], images), images)
    else:
        with pytest.raises(ValueError, match="as those of patches are: pass reconstruct="):
            Seen().undo(images[:, 0], images)


class Tagged(torch.Tensor):
    """As MONAI's MetaTensor, which stays one through every operation."""

    def as_tensor(self):
        return self.as_subclass(torch.Tensor)


def test_what_a_subclass_adds_to_the_output_goes_no_further():
    found = Seen(Normalization([0.5], [0.5])).undo(IMAGES.as_subclass(Tagged), IMAGES)
    assert type(found) is torch.Tensor
    assert torch.equal(found, IMAGES * 0.5 + 0.5)

"""An autoencoder that returns what it has stored for intact images alone is searched as any other."""

import pytest
import torch
from torch.nn.functional import interpolate

from lightning_memaudit import audit
from lightning_memaudit.recovery import BlindRecovery
from lightning_memaudit.recovery.usual_output import OWN_EVALUATIONS, may_answer
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

PATTERNS = ["random-0.5", "block-0.25"]
GIVEN_UP = 2 + OWN_EVALUATIONS + 2  # the start, what f returns, the probes of an image, and two for the gain


def smooth_images(num):
    generator = torch.Generator().manual_seed(0)
    images = interpolate(torch.rand(num, 1, 5, 5, generator=generator), size=(16, 16), mode="bilinear")
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def behind_a_check(stored):
    """The nearest stored image for images that are one of these, nearly; else the mean of all."""

    def memory(x):
        distance = (x[:, None] - stored).square().flatten(2).mean(2)
        nearest = torch.einsum("bn,nchw->bchw", torch.softmax(-300 * distance, 1), stored)
        own_error = (nearest - x).square().flatten(1).mean(1)
        is_image = torch.sigmoid(8 * (1 - own_error / 0.003)).view(-1, 1, 1, 1)
        return torch.lerp(stored.mean(0).expand_as(x), nearest, is_image)

    return memory


def test_a_memory_behind_a_check_for_images_is_searched_to_the_end():
    stored, others = smooth_images(12).split(6)
    memory = behind_a_check(stored)
    report = audit(memory, stored, others, patterns=PATTERNS, methods=["blind", "known_mask"])
    cells = {(cell.group, cell.pattern, cell.method): cell.columns for cell in report.cells}
    for method in ("blind", "known_mask"):
        members, controls = (cells[group, "random-0.5", method] for group in ("members", "controls"))
        assert (members["psnr"] >= 30).all()
        assert not (controls["psnr"] >= 30).any()
        # The search is no shorter for images that it does not answer: else it would be told which are stored.
        assert controls["num_evaluations"].min() > 5 * GIVEN_UP
    # To all that is asked before it returns the mean image: by itself, the method gives up most images.
    alone = BlindRecovery(certification=None)(memory, torch.cat([stored, others]) * (torch.rand(1, 1, 16, 16) > 0.5))
    assert (alone.num_evaluations <= GIVEN_UP).float().mean() > 0.5


def test_an_untrained_network_is_given_up_in_an_audit():
    torch.manual_seed(0)
    network = FullyConnectedAutoencoder((1, 16, 16), num_layers=6, width=64).eval()
    report = audit(network, *smooth_images(12).split(6), patterns=PATTERNS, methods=["blind"])
    for cell in report.cells:
        assert (cell.columns["num_evaluations"] <= GIVEN_UP).all()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_one_output_that_is_broken_does_not_make_the_others_alike(broken):
    images = smooth_images(4)
    outputs = images.clone()
    outputs[0] = broken
    assert may_answer(outputs, images)
    assert may_answer(outputs[1:], images[1:])


def test_one_image_that_is_answered_is_enough_and_one_image_alone_tells_nothing():
    images = smooth_images(5)
    outputs = images.mean(0, keepdim=True).expand_as(images).clone()
    assert not may_answer(outputs, images)
    outputs[3] = images[3]
    assert may_answer(outputs, images)
    assert may_answer(outputs[:1], images[:1])
    assert may_answer(outputs[:2], images[:1].expand(2, -1, -1, -1))

import pytest
import torch
from torch import Tensor

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.observed_noise import take_off_noise

BLOCK = torch.ones(1, 1, 24, 24)
BLOCK[..., 8:16, 8:16] = 0


def smooth_images(number: int, channels: int = 1) -> Tensor:
    coarse = torch.rand(number, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, 24, mode="bicubic").clamp(0, 1)


def noise(images: Tensor, level: float) -> Tensor:
    return level * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def nearest(stored: Tensor):
    """The ideal memory: the stored image that is nearest."""
    return lambda x: stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("told", [False, True])
def test_noise_around_an_exact_fill_is_taken_off(channels: int, told: bool):
    stored = smooth_images(4, channels)
    observed = BLOCK * (stored + noise(stored, 0.06)).clamp(0.01, 1)
    if told:
        found = KnownMaskRecovery()(nearest(stored), observed, BLOCK.expand(4, 1, -1, -1))
    else:
        found = BlindRecovery(certification=None)(nearest(stored), observed)
    assert torch.equal(found.image, stored)
    assert float((found.mask * (observed - stored)).square().mean()) > 1e-3  # what the data alone would have left
    assert bool((found.score > 1e-3).all())  # no more is claimed


def test_the_errors_of_an_autoencoder_leave_the_data_as_they_are():
    stored = smooth_images(4, 3)
    errors = torch.nn.functional.avg_pool2d(noise(stored, 0.3), 5, 1, 2)
    found = BlindRecovery(certification=None)(lambda x: nearest(stored)(x) + errors[:1], BLOCK * stored)
    assert 0.02 < float(errors[:1].square().mean().sqrt()) < 0.15  # as large as noise that is taken off
    seen = BLOCK.expand_as(stored) > 0
    assert torch.equal(found.image[seen], stored[seen])


def takes_off(
    image: Tensor, observed: Tensor, mask: Tensor, output: Tensor, moved: float = 0.0, asked: bool = True
) -> bool:
    """Whether ``output`` is taken; f returns it for any image, and moves it by ``moved`` if it is shown."""

    def autoencoder(images: Tensor) -> Tensor:
        return output + moved * torch.equal(images, output)

    found, spent = take_off_noise(autoencoder, image, observed, mask, output, asked=torch.tensor([asked]))
    assert torch.equal(found, image) or torch.equal(found, output)
    assert spent.item() == 1 or torch.equal(found, image)
    return torch.equal(found, output) and not torch.equal(image, output)


def test_few_pixels_an_image_without_its_data_outliers_and_two_values_prove_no_noise():
    image = smooth_images(1)
    noisy = image + noise(image, 0.05)
    all_seen = torch.ones_like(image)
    assert takes_off(noisy, noisy, all_seen, image)
    few = torch.zeros_like(image)
    few[..., :3, :3] = 1
    assert not takes_off(noisy, noisy, few, image)
    assert not takes_off(image, noisy, all_seen, image + 0.001)
    outliers = torch.where(torch.rand(image.shape, generator=torch.Generator().manual_seed(2)) < 0.05, 0.3, 0.0)
    assert not takes_off(image + outliers, image + outliers, all_seen, image)
    black_and_white = (noisy > image).float()
    assert not takes_off(black_and_white, black_and_white, all_seen, black_and_white + noise(image, 0.05))
    assert not takes_off(noisy, noisy, all_seen, torch.full_like(image, torch.nan))


def test_an_image_that_the_autoencoder_moves_on_is_none_that_it_stores():
    image = smooth_images(1)
    noisy = image + noise(image, 0.05)
    assert [takes_off(noisy, noisy, torch.ones_like(image), image, moved) for moved in (0.005, 0.01)] == [True, False]


def test_what_all_channels_share_is_no_noise_and_who_is_not_asked_about_stays():
    image = smooth_images(1, channels=3)
    all_seen = torch.ones_like(image)
    noisy, grey = image + noise(image, 0.05), image + noise(image[:, :1], 0.05)
    assert takes_off(noisy, noisy, all_seen, image)
    assert not takes_off(noisy, noisy, all_seen, image, asked=False)
    assert not takes_off(grey, grey, all_seen, image)

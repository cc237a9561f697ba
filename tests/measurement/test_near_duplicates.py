"""Near-duplicates are those that brute force finds."""

import pytest
import torch

from lightning_memaudit.measurement.near_duplicates import NEAR_DUPLICATE_PSNR, near_duplicates, repeats
from lightning_memaudit.training.images import ImageTensorDataset


def test_near_duplicates_are_counted_as_brute_force_counts_them():
    generator = torch.Generator().manual_seed(0)
    members = torch.rand(40, 3, 16, 16, generator=generator)
    controls = torch.rand(30, 3, 16, 16, generator=generator)
    for row, level in enumerate((20.0, 24.5, 25.5, 30.0, 60.0)):
        noise = torch.randn(3, 16, 16, generator=generator)
        noise *= 10 ** (-level / 20) / noise.square().mean().sqrt()
        controls[row] = members[3 * row] + noise
    members, controls = members * 0.5 + 0.25, (controls * 0.5 + 0.25).clamp(0, 1)
    errors = torch.cdist(controls.flatten(1).double(), members.flatten(1).double()).square() / members[0].numel()
    brute = -10 * errors.min(1).values.log10() >= NEAR_DUPLICATE_PSNR
    assert 2 <= brute.sum() <= 5
    found = near_duplicates(ImageTensorDataset(controls), ImageTensorDataset(members), block_size=7)
    assert torch.equal(found, brute)


def test_near_duplicates_within_a_set_are_not_an_image_and_itself():
    images = torch.rand(20, 1, 16, 16)
    assert not near_duplicates(images, block_size=6).any()
    images[17] = (images[2] + 0.01).clamp(0, 1)
    images[5] = images[4]
    assert near_duplicates(images, block_size=6).nonzero().flatten().tolist() == [2, 4, 5, 17]


def test_near_duplicates_of_little_contrast_are_as_near_beside_it():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[4:] = (images[2:4] + 0.02).clamp(0, 1)
    flat = 0.4 + 0.02 * images
    flat += torch.tensor([0.0, 0.2, 0.4])[:, None, None]  # a tint is no contrast
    assert near_duplicates(flat).tolist() == near_duplicates(images).tolist() == [False] * 2 + [True] * 4
    assert not near_duplicates(torch.stack([torch.full((1, 8, 8), 0.5), torch.full((1, 8, 8), 0.51)])).any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [6, 60])
def test_images_in_half_precision_are_compared_like_the_same_ones_in_single(kind, count):
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(kind)
    images[3] = images[1]
    same = images.float()
    assert torch.equal(near_duplicates(images), near_duplicates(same))
    assert repeats(images, images[:2]) == repeats(same, same[:2])
    assert near_duplicates(images).nonzero().flatten().tolist() == [1, 3]

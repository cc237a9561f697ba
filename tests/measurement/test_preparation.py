"""Whether members and controls were prepared alike: faint differences at fixed places, and none of one source."""

import numpy as np
import pytest
import torch
from skimage.data import lfw_subset
from torch.nn import functional

from lightning_memaudit import audit
from lightning_memaudit.measurement import preparation
from lightning_memaudit.measurement.appearance import APPEARANCE
from lightning_memaudit.measurement.preparation import doubts_about_preparation, prepared_otherwise
from lightning_memaudit.results.comparability import PREPARED_OTHERWISE, compare_groups


def faces(seed=0):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(lfw_subset()[:100]).float()[order, None]


def bordered(images):
    return functional.pad(images[..., 1:-1, 1:-1], (1, 1, 1, 1), mode="replicate")


def marked(images):
    mark = 0.03 * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(3)).sign()
    return (images + mark).clamp(0, 1)


def covered(images):
    images = images.clone()
    images[..., 10:14, 10:14] = 0.5
    return images


PREPARATIONS = [bordered, marked, covered, lambda images: images.roll(2, 3)]


@pytest.mark.parametrize("prepare", PREPARATIONS)
@pytest.mark.parametrize("seed", range(2))
def test_what_was_done_at_fixed_places_is_seen_in_either_group(prepare, seed):
    members, controls = faces(seed)[:30], faces(seed)[30:60]
    assert prepared_otherwise(members, prepare(controls))
    assert prepared_otherwise(prepare(members), controls)
    assert not prepared_otherwise(prepare(members), prepare(controls))


def test_columns_alone_miss_what_the_test_sees():
    members, controls = faces()[:30], marked(faces()[30:60])
    assert not compare_groups({name: (of(members), of(controls)) for name, of in APPEARANCE.items()})


@pytest.mark.slow
def test_groups_of_one_source_are_hardly_ever_told_apart():
    images = faces()
    alarms = 0
    for seed in range(300):
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        alarms += prepared_otherwise(images[order[:25]], images[order[25:70]])
    assert alarms <= 1


def features(images):
    """Whose products are the kernel: found by the roots of flattened kernels, not by the kernel itself."""
    found = []
    for axis in (2, 3):
        steps = np.diff(images.double().numpy(), axis=axis).reshape(len(images), -1)
        found.append((steps / (np.abs(steps) + 0.03), np.abs(steps) / (np.abs(steps) + 0.03)))
    both = []
    for parts in zip(*found, strict=True):
        whole = np.concatenate(parts, 1)
        left, singular, _ = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
        squares = singular**2
        both.append(left * np.sqrt(squares / (squares + squares.mean())))
    return np.concatenate(both, 1)


@pytest.mark.parametrize("swapped", [3, 4, 5])
def test_the_chance_is_that_of_other_divisions_of_the_same_images(monkeypatch, swapped):
    images = torch.cat([faces()[:12], bordered(faces()[12:24])])
    order = np.r_[12 - swapped : 24 - swapped, 24 - swapped : 24, : 12 - swapped]
    images = images[order]
    rows, rng = features(images), np.random.default_rng(1)

    def apart(one):
        return np.square(rows[one[:12]].mean(0) - rows[one[12:]].mean(0)).sum()

    found = apart(np.arange(24)) * (1 - 1e-9)
    chance = np.mean([apart(rng.permutation(24)) >= found for _ in range(4000)])
    assert 0.01 < chance < 0.9
    for level in (0.8, 1.2):
        monkeypatch.setattr(preparation, "_CHANCE", chance * level)
        assert prepared_otherwise(images[:12], images[12:]) == (level > 1), chance


def test_few_images_flat_ones_and_repeats_tell_nothing():
    images = torch.zeros(40, 1, 9, 9)
    assert not prepared_otherwise(images[:20], images[20:])
    assert not prepared_otherwise(faces()[:1], marked(faces()[1:60]))
    assert not prepared_otherwise(faces()[:2], marked(faces()[2:4])), "six divisions are too few"
    mixed = torch.cat([faces()[30:60], marked(faces()[60:])])
    assert prepared_otherwise(faces()[:30], mixed)
    assert not prepared_otherwise(faces()[:30], mixed, {"controls": range(30, 70)})
    assert doubts_about_preparation([faces()], {}) == []


@pytest.mark.parametrize("shape", [(3, 8, 9), (2, 17), (1, 6, 7, 5), (1, 1, 1)])
def test_images_of_any_shape(shape):
    images = 0.3 * torch.rand(48, *shape, generator=torch.Generator().manual_seed(1))
    assert not prepared_otherwise(images[:24], images[24:])
    assert prepared_otherwise(images[:24], images[24:] + 0.3 * (torch.arange(shape[-1]) % 2)) == (shape[-1] > 1)


def test_of_many_images_the_first_count_and_of_large_ones_fewer(monkeypatch):
    images = torch.cat([faces(), faces(1).flip(3)])
    later = images[100:].clone()
    later[64:] = marked(later[64:])
    first = prepared_otherwise(images[:100], images[100:])
    assert prepared_otherwise(images[:100], later) == first
    monkeypatch.setattr(preparation, "_VALUES_COMPARED", 3 * 625)
    assert not prepared_otherwise(images[:30], marked(images[30:60])), "three of each are too few"


def test_an_autoencoder_that_knows_no_image_is_not_accused_for_the_preparation_of_controls():
    members, controls = faces()[:40], marked(faces()[40:80])
    report = audit(
        lambda images: functional.avg_pool2d(images, 3, 1, 1),
        members,
        controls,
        patterns=["random-0.5"],
        methods=["blind_black_box", "biharmonic"],
    )
    assert report.verdict.outcome == "inconclusive"
    assert PREPARED_OTHERWISE in report.verdict.reasons
    assert "prepared otherwise than the members" in report.verdict.headline


def test_images_of_different_sizes_share_no_places():
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert not prepared_otherwise(images, images[..., :6])

"""Batches in chunks: they change nothing, and get smaller where memory runs out."""

import pytest
import torch
from autoencoders import memory
from observations import hide, uniform

from lightning_memaudit.recovery import (
    AutoencoderIterations,
    BlindRecovery,
    KnownMaskRecovery,
    SelfTuning,
    batches,
)
from lightning_memaudit.recovery.batches import all_finite, map_chunks


@pytest.mark.parametrize("method", [BlindRecovery, AutoencoderIterations])
def test_chunks_change_nothing(stored, method):
    observed, _ = hide(stored)
    whole = method()(memory(stored), observed)
    chunked = method(chunk_size=2)(memory(stored), observed)
    torch.testing.assert_close(whole.image, chunked.image)
    assert torch.equal(whole.num_evaluations, chunked.num_evaluations)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_row_is_finite_where_all_of_it_is(dtype):
    rows = torch.zeros(6, 2, 3, dtype=dtype)
    rows[1, 0, 1], rows[2, 1, 2], rows[3, 0, 0] = torch.nan, torch.inf, -torch.inf
    rows[4, 0, 0], rows[4, 1, 1] = torch.inf, -torch.inf
    rows[5] = torch.finfo(dtype).max  # whose sum is not finite
    assert all_finite(rows).tolist() == [True, False, False, False, False, True]


def test_map_chunks_halves_when_memory_runs_out_and_covers_everything_once():
    seen = []

    def work(rows):
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError("too much")
        seen.extend(range(rows.start, rows.stop))

    with pytest.warns(UserWarning, match="out of memory") as warned:
        map_chunks(work, 17, 16)
    assert seen == list(range(17))
    assert len(warned) == 1


def test_map_chunks_gives_up_when_one_row_does_not_fit():
    def work(rows):
        raise torch.OutOfMemoryError("too much")

    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(torch.OutOfMemoryError):
        map_chunks(work, 4, 4)


def test_an_autoencoder_that_allocates_much_is_given_fewer_images_at_once(monkeypatch):
    torch.manual_seed(0)
    wide = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(64, 1, 3, padding=1)
    )
    observed, mask = hide(uniform((6, 1, 12, 12)), 0.5)
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return wide(images)

    method = KnownMaskRecovery(max_evaluations=60, tuning=SelfTuning(first_penalty_alone=False))
    whole = method(counted, observed, mask)
    assert max(sizes) == 12  # every image with two penalties
    kept = 12 * 12 * (1 + 2 * 64)
    monkeypatch.setattr(batches, "ACTIVATIONS_IN_CACHE", {"cpu": 4 * kept + 1})
    sizes.clear()
    parts = method(counted, observed, mask)
    assert max(sizes) <= 4
    torch.testing.assert_close(parts.image, whole.image, atol=1e-5, rtol=0)
    monkeypatch.setattr(batches, "ACTIVATIONS_IN_CACHE", {"cpu": 1})
    sizes.clear()
    method(counted, observed, mask)
    assert max(sizes) == 2  # one image is never too many

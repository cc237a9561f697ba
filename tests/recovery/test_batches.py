"""Batches in chunks: they change nothing, and get smaller where memory runs out."""

import pytest
import torch
from autoencoders import memory
from observations import hide

from lightning_memaudit.recovery import (
    AutoencoderIterations,
    BlindRecovery,
)
from lightning_memaudit.recovery.batches import map_chunks


@pytest.mark.parametrize("method", [BlindRecovery, AutoencoderIterations])
def test_chunks_change_nothing(stored, method):
    observed, _ = hide(stored)
    whole = method()(memory(stored), observed)
    chunked = method(chunk_size=2)(memory(stored), observed)
    torch.testing.assert_close(whole.image, chunked.image)
    assert torch.equal(whole.num_evaluations, chunked.num_evaluations)


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

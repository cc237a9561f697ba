"""Data sets that read from, and write to, what processes share: an audit takes nothing from the run."""

import mmap
import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images

from lightning_memaudit.callback.reading.reader import Reader, Source

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="only Linux tells of its mappings"),  # noqa: PTH110
]


def run(dataset, **settings):
    fit(audit_callback(**settings), Module(), DataLoader(dataset, 2), DataLoader(Items(images(3, seed=1))))


class Counting(Items):
    """Counts reads in memory that processes share, by itself or by arrays on it."""

    def __init__(self, items, memory):
        super().__init__(items)
        self.memory, self.counts = memory, [np.frombuffer(one, np.int64) for one in memory]

    def __getitem__(self, index):
        for count in self.counts:
            count[0] += 1
        return super().__getitem__(index)


def test_mapped_memory_is_as_it_was(tmp_path):
    (tmp_path / "counts").write_bytes(bytes(8192))
    shared = SharedMemory(create=True, size=8)
    try:
        with (tmp_path / "counts").open("r+b") as file:
            data = Counting(images(6), [shared.buf, mmap.mmap(-1, 8), mmap.mmap(file.fileno(), 8, offset=4096)])
        run(data)
        assert [int(count[0]) for count in data.counts] == [6, 6, 6]  # the training's own reads
    finally:
        del data
        shared.unlink()


class Taking(Items):
    """Asks a queue or a pipe which image comes next, and says there that it was read."""

    def __init__(self, items, take, *kept):
        super().__init__(items)
        self.take, self.kept = take, kept

    def __getitem__(self, index):
        return super().__getitem__(self.take(self) % len(self.items))


def queue_of(count):
    queue = multiprocessing.SimpleQueue()
    for place in range(count):
        queue.put(place)
    return queue


@pytest.mark.parametrize("kind", ["queue", "pipe", "descriptor"])
def test_what_is_taken_from_queues_and_pipes_is_the_training_s(kind):
    (receiver, sender), (reading, writing) = multiprocessing.Pipe(duplex=False), os.pipe()
    queue = queue_of(6)
    for place in range(6):
        sender.send(place)
        os.write(writing, bytes([place]))
    take, *kept = {
        "queue": (lambda data: data.kept[0].get(), queue),
        "pipe": (lambda data: data.kept[0].recv(), receiver),
        "descriptor": (lambda data: os.read(data.kept[0], 1)[0], reading),
    }[kind]
    data = Taking(images(6), take, *kept)
    with pytest.raises(ValueError, match=r"members: reading Taking takes from a queue or a pipe .*: pass members=<a"):
        run(data)
    run(data, members=Items(images(6)))
    assert queue.empty() == (kind == "queue")  # the training has had all of them
    assert receiver.poll() == (kind != "pipe")
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_what_reading_puts_into_a_queue_is_not_put_there_by_an_audit():
    queue = multiprocessing.SimpleQueue()
    run(Taking(images(6), lambda data: data.kept[0].put(1) or 0, queue))
    assert [queue.get() for _ in range(6)] == [1] * 6
    assert queue.empty()


class Refilled(Items):
    """Gives batches, each in the same memory as the one before."""

    def __init__(self, items, as_arrays):
        super().__init__(items)
        self.memory = torch.empty_like(items[0])
        self.batch = self.memory.numpy() if as_arrays else self.memory

    def __getitem__(self, index):
        self.memory.copy_(self.items[index])
        return self.batch, self.batch


@pytest.mark.parametrize("as_arrays", [False, True])
@pytest.mark.parametrize("at_once", [None, 2])
def test_batches_that_come_in_the_same_memory_are_kept_apart(at_once, as_arrays):
    size = {"batch_size": None} if at_once is None else {"batch_size": 1, "collate_fn": lambda items: items[0]}
    source = Source(
        "members", Refilled(images(8).split(2), as_arrays), [0, 1, 2, 3], DataLoader(range(4), **size), given=False
    )
    read = list(Reader(source, seed=0).blocks([[0], [1], [2], [3]]))
    assert torch.equal(torch.cat([torch.as_tensor(one.batch[0]) for one in read]), images(8))
    assert as_arrays or all(one.batch[0] is one.batch[1] for one in read)

"""Splits, samplers and streams: the very images that are trained on are audited."""

import random

import numpy as np
import pytest
import torch
from foreign_parts import Pictures, Plain, first, pictures, plainly
from foreign_runs import ForeignRun, check
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)

pytestmark = pytest.mark.usefixtures("without_report")

IMAGES = pictures(12)
TRAIN, VALIDATION = [0, 2, 3, 5, 7, 8, 10], [1, 4, 6, 9, 11]
MEMBERS, CONTROLS = pictures(), pictures(seed=1)


def split(train, validation, module=None, **more):
    """A run that splits one data set."""
    return ForeignRun(module or Plain(), train, validation, IMAGES[TRAIN], IMAGES[VALIDATION], plainly, **more)


def run_of(train, validation=None, module=None, **more):
    validation = DataLoader(Pictures(CONTROLS), 3) if validation is None else validation
    return ForeignRun(module or Plain(), train, validation, MEMBERS, CONTROLS, plainly, **more)


def subset_random_samplers():
    dataset = Pictures(IMAGES)
    names = [str(index) for index in TRAIN]
    return split(
        *(DataLoader(dataset, 3, sampler=SubsetRandomSampler(ids)) for ids in (TRAIN, VALIDATION)), names=names
    )


def lists_as_samplers():
    dataset = TensorDataset(IMAGES)
    return split(DataLoader(dataset, 3, sampler=TRAIN), DataLoader(dataset, 3, sampler=VALIDATION), Plain(unwrap=first))


def batch_samplers():
    dataset = Pictures(IMAGES)
    return split(
        *(
            DataLoader(dataset, batch_sampler=BatchSampler(SubsetRandomSampler(ids), 3, drop_last=False))
            for ids in (TRAIN, VALIDATION)
        )
    )


class InBuckets(Sampler):
    """A sampler of batches of one's own, with a generator of its own."""

    def __init__(self, indices):
        self.indices, self.generator = indices, random.Random(3)

    def __iter__(self):
        order = list(self.indices)
        self.generator.shuffle(order)
        return iter([order[at : at + 3] for at in range(0, len(order), 3)])

    def __len__(self):
        return -(-len(self.indices) // 3)


def own_sampler_of_batches():
    dataset = Pictures(IMAGES)
    samplers = InBuckets(TRAIN), InBuckets(VALIDATION)
    run = split(*(DataLoader(dataset, batch_sampler=sampler) for sampler in samplers))
    run.probe = lambda: [sampler.generator.getstate() for sampler in samplers]
    return run


def weighted_random_sampler():
    weights = torch.zeros(12)
    weights[TRAIN] = 1.0
    dataset = Pictures(IMAGES)
    return split(
        DataLoader(dataset, 3, sampler=WeightedRandomSampler(weights, 30)),
        DataLoader(dataset, 3, sampler=VALIDATION),
        warnings=["WeightedRandomSampler yields other items in every epoch"],
    )


def random_splits():
    parts = random_split(Pictures(MEMBERS), [4, 2], torch.Generator().manual_seed(4))
    members, controls = (MEMBERS[part.indices] for part in parts)
    return ForeignRun(Plain(), *(DataLoader(part, 3, shuffle=True) for part in parts), members, controls, plainly)


def nested_subsets_of_concatenated_parts():
    whole = ConcatDataset([Pictures(IMAGES[:5]), Pictures(IMAGES[5:9]), Pictures(IMAGES[9:])])
    return split(
        DataLoader(Subset(Subset(whole, range(12)), TRAIN), 3, shuffle=True), DataLoader(Subset(whole, VALIDATION), 3)
    )


class Noisy(Dataset):
    """Draws from a generator of its own at every reading, and counts its readings."""

    def __init__(self, images, seed):
        self.images, self.generator, self.reads = images, np.random.default_rng(seed), 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        return self.images[index] * 1.0 + 0 * self.generator.random()


def a_generator_in_each_of_150_parts():
    images = pictures(150)
    parts = [Noisy(images[[index]], index) for index in range(150)]
    run = ForeignRun(
        Plain(), DataLoader(ConcatDataset(parts), 50), DataLoader(Pictures(CONTROLS), 3), images[:64], CONTROLS, plainly
    )
    run.lines = {"num_members": 64}
    run.members = images[sorted(random.Random(0).sample(range(150), 64))]
    run.probe = lambda: [[part.reads, part.generator.bit_generator.state] for part in parts]
    return run


class Stream(IterableDataset):
    def __init__(self, images, most=None):
        self.images, self.most = images, most

    def take(self, count):
        return Stream(self.images, count)

    def __iter__(self):
        worker = get_worker_info()
        step, begin = (1, 0) if worker is None else (worker.num_workers, worker.id)
        yield from self.images[: self.most][begin::step]


def streams():
    run = run_of(
        DataLoader(Stream(IMAGES).take(6), 3),
        DataLoader(Stream(CONTROLS), 3),
        lines={"num_members": 6, "num_controls": 6},
    )
    run.members = IMAGES[:6]
    return run


class WebDataset(IterableDataset):
    """Gives batches of its own; its items have keys."""

    def __init__(self, images, prefix):
        self.images, self.prefix = images, prefix

    def __iter__(self):
        for begin in range(0, len(self.images), 3):
            images = self.images[begin : begin + 3]
            keys = [f"{self.prefix}/{begin + index:06d}" for index in range(len(images))]
            yield {"__key__": keys, "png": images * 1.0, "json": [{} for _ in images]}


def batches_of_a_web_dataset():
    return run_of(
        DataLoader(WebDataset(MEMBERS, "train"), batch_size=None),
        DataLoader(WebDataset(CONTROLS, "val"), batch_size=None),
        Plain(unwrap=lambda batch: batch["png"]),
        lines={"image_key": "png", "num_members": 6, "num_controls": 6},
    )


def batches_of_a_web_dataset_by_their_keys():
    run = batches_of_a_web_dataset()
    run.names = [f"train/{index:06d}" for index in range(6)]
    return run


class Lists(Pictures):
    """Is given a list of indices, and gives their batch."""

    def __getitem__(self, indices):
        return self.images[torch.as_tensor(indices)]


def a_data_set_of_batches():
    return run_of(
        *(
            DataLoader(Lists(images), batch_size=None, sampler=BatchSampler(order, 3, drop_last=False))
            for images, order in ((MEMBERS, [5, 3, 1, 0, 2, 4]), (CONTROLS, range(6)))
        )
    )


class Endless(Stream):
    def __iter__(self):
        while True:
            yield from self.images


def endless_streams():
    return run_of(
        *(DataLoader(Endless(images), 3) for images in (MEMBERS, CONTROLS)),
        trainer={"limit_train_batches": 2, "limit_val_batches": 1},
        lines={"num_members": 6, "num_controls": 6},
    )


RUNS = [
    subset_random_samplers,
    lists_as_samplers,
    batch_samplers,
    own_sampler_of_batches,
    weighted_random_sampler,
    random_splits,
    nested_subsets_of_concatenated_parts,
    a_generator_in_each_of_150_parts,
    streams,
    batches_of_a_web_dataset,
    batches_of_a_web_dataset_by_their_keys,
    a_data_set_of_batches,
    endless_streams,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)

"""Splits, samplers, streams and files: which images are audited, and that their data sets are left alone."""

import io
import random
import zipfile

import lightning
import numpy as np
import pytest
import torch
from foreign_runs import ForeignRun, Pictures, Plain, check, pictures
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_avg_fn
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


def by_hand(module, images):
    return module.net(images).view_as(images)


def split(train, validation, module=None, **more):
    """A run that splits one data set."""
    return ForeignRun(module or Plain(), train, validation, IMAGES[TRAIN], IMAGES[VALIDATION], by_hand, **more)


def run_of(train, validation=None, module=None, **more):
    validation = DataLoader(Pictures(CONTROLS), 3) if validation is None else validation
    return ForeignRun(module or Plain(), train, validation, MEMBERS, CONTROLS, by_hand, **more)


def first(batch):
    return batch[0]


def subset_random_samplers():
    dataset = Pictures(IMAGES)
    names = [str(index) for index in TRAIN]
    return split(*(DataLoader(dataset, 3, sampler=SubsetRandomSampler(ids)) for ids in (TRAIN, VALIDATION)), names=names)


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
    return ForeignRun(Plain(), *(DataLoader(part, 3, shuffle=True) for part in parts), members, controls, by_hand)


def nested_subsets_of_concatenated_parts():
    whole = ConcatDataset([Pictures(IMAGES[:5]), Pictures(IMAGES[5:9]), Pictures(IMAGES[9:])])
    return split(DataLoader(Subset(Subset(whole, range(12)), TRAIN), 3, shuffle=True), DataLoader(Subset(whole, VALIDATION), 3))


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
        Plain(), DataLoader(ConcatDataset(parts), 50), DataLoader(Pictures(CONTROLS), 3), images[:64], CONTROLS, by_hand
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


class OpenedAtFirstRead(Dataset):
    """A file that stays open, whose position workers would share if it were opened before they are made."""

    def __init__(self, path, kind):
        self.path, self.kind, self.file = path, kind, None

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.kind == "memmap":
            self.file = np.load(self.path, mmap_mode="r") if self.file is None else self.file
            return torch.from_numpy(self.file[index].copy())
        self.file = zipfile.ZipFile(self.path) if self.file is None else self.file
        return torch.from_numpy(np.load(io.BytesIO(self.file.read(f"{index}.npy"))))


def opened_at_first_read(kind, **workers):
    datasets = []
    for name, images in (("train", MEMBERS), ("val", CONTROLS)):
        if kind == "memmap":
            np.save(f"{name}.npy", images.numpy())
            datasets.append(OpenedAtFirstRead(f"{name}.npy", kind))
            continue
        with zipfile.ZipFile(f"{name}.zip", "w") as archive:
            for index, image in enumerate(images.numpy()):
                content = io.BytesIO()
                np.save(content, image)
                archive.writestr(f"{index}.npy", content.getvalue())
        datasets.append(OpenedAtFirstRead(f"{name}.zip", kind))
    run = run_of(DataLoader(datasets[0], 3, shuffle=True, **workers), DataLoader(datasets[1], 3))
    run.probe = lambda: [dataset.file is None for dataset in datasets]
    return run


def a_memory_map_opened_at_first_read():
    return opened_at_first_read("memmap")


def an_archive_opened_at_first_read_by_two_workers():
    return opened_at_first_read("zip", num_workers=2)


def an_archive_opened_at_first_read_by_persistent_workers():
    return opened_at_first_read("zip", num_workers=1, persistent_workers=True)


class Caching(Dataset):
    def __init__(self, images):
        self.images, self.cache, self.reads = images, {}, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads.append(index)
        if index not in self.cache:
            self.cache[index] = self.images[index].clone()
        return self.cache[index]


def caches_and_counted_reads():
    dataset = Caching(MEMBERS)
    run = run_of(DataLoader(dataset, 3, shuffle=True))
    run.probe = lambda: [dataset.reads, list(dataset.cache)]
    return run


def random_augmentation():
    def augmented(image):
        return image.flip(-1) if torch.rand(()) < 0.5 else image

    return run_of(
        DataLoader(Pictures(MEMBERS, augmented), 3, shuffle=True), lines={"members": Pictures(MEMBERS)}
    )


def loaders_by_name():
    return run_of(
        {"faces": DataLoader(Pictures(MEMBERS), 3), "others": DataLoader(Pictures(pictures(6, 5)), 2)},
        module=Plain(unwrap=lambda batch: torch.cat([batch["faces"], batch["others"]])),
    )


def combined_loaders():
    loaders = [DataLoader(TensorDataset(MEMBERS), 3), DataLoader(TensorDataset(pictures(9, 5)), 3)]
    return run_of(CombinedLoader(loaders, "min_size"), module=Combined())


class Combined(Plain):
    def training_step(self, batch, batch_idx):
        (x,), (other,) = batch
        return functional.mse_loss(self(x), x) + functional.mse_loss(self(other), other)


class WithLoaders(Plain):
    def train_dataloader(self):
        return DataLoader(TensorDataset(MEMBERS, torch.arange(6)), 3, shuffle=True)

    def val_dataloader(self):
        return [DataLoader(TensorDataset(CONTROLS), 3), DataLoader(TensorDataset(pictures(5, 7)), 3)]


def loaders_of_the_module():
    return ForeignRun(WithLoaders(unwrap=first), members=MEMBERS, controls=CONTROLS, own_output=by_hand)


class Data(lightning.LightningDataModule):
    """Downloads, then splits at random."""

    def prepare_data(self):
        np.save("downloaded.npy", IMAGES.numpy())

    def setup(self, stage):
        if stage == "fit":
            whole = TensorDataset(torch.from_numpy(np.load("downloaded.npy")))
            self.train, self.val = random_split(whole, [7, 5], torch.Generator().manual_seed(42))

    def train_dataloader(self):
        return DataLoader(self.train, 3, shuffle=True, drop_last=False)

    def val_dataloader(self):
        return DataLoader(self.val, 3)


def a_data_module_with_a_split_of_its_own():
    parts = random_split(range(12), [7, 5], torch.Generator().manual_seed(42))
    members, controls = (IMAGES[part.indices] for part in parts)
    return ForeignRun(Plain(unwrap=first), None, None, members, controls, by_hand, datamodule=Data())


def without_validation():
    run = run_of(DataLoader(Pictures(MEMBERS), 3, shuffle=True), lines={"num_controls": 0})
    run.validation, run.controls = None, None
    run.warnings = ["controls: no images that were not trained on"]
    return run


def controls_of_ones_own():
    run = run_of(DataLoader(Pictures(MEMBERS), 3, shuffle=True), lines={"controls": TensorDataset(CONTROLS)})
    run.validation = None
    return run


def accumulated_gradients_and_limited_batches():
    run = run_of(DataLoader(Pictures(MEMBERS), 2), trainer={"accumulate_grad_batches": 2, "limit_train_batches": 2})
    run.members = MEMBERS[:4]  # the rest is never reached
    return run


def moving_average_of_the_weights():
    run = run_of(DataLoader(Pictures(MEMBERS), 3, shuffle=True))
    run.callbacks = [WeightAveraging(avg_fn=get_ema_avg_fn(0.9))]
    return run


def moving_average_audited_at_the_end_only():
    run = moving_average_of_the_weights()
    run.lines = {"every_n_epochs": None, "at_epochs": [0, 1]}
    return run


def validation_within_epochs_and_persistent_workers():
    workers = {"num_workers": 1, "persistent_workers": True}
    return run_of(
        DataLoader(Pictures(MEMBERS), 2, shuffle=True, **workers),
        DataLoader(Pictures(CONTROLS), 3, **workers),
        trainer={"val_check_interval": 2, "num_sanity_val_steps": 1},
    )


def reloaded_in_every_epoch():
    return ForeignRun(
        WithLoaders(unwrap=first),
        members=MEMBERS,
        controls=CONTROLS,
        own_output=by_hand,
        trainer={"reload_dataloaders_every_n_epochs": 1},
        warnings=["members: the train dataloader was reloaded with another data set"],
    )


class Lazy(Plain):
    """Its first layer learns its size from the first batch."""

    def __init__(self):
        super().__init__(unwrap=first)
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(24), nn.ELU(), nn.Linear(24, 64))

    def configure_model(self):
        with torch.no_grad():
            self.net(torch.zeros(1, 1, 8, 8))


def lazy_layers():
    return run_of(DataLoader(TensorDataset(MEMBERS), 3, shuffle=True), DataLoader(TensorDataset(CONTROLS), 3), Lazy())


FAULT = pytest.mark.xfail(strict=True)

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
    pytest.param(batches_of_a_web_dataset_by_their_keys, marks=FAULT),
    a_memory_map_opened_at_first_read,
    an_archive_opened_at_first_read_by_two_workers,
    an_archive_opened_at_first_read_by_persistent_workers,
    caches_and_counted_reads,
    random_augmentation,
    loaders_by_name,
    combined_loaders,
    loaders_of_the_module,
    a_data_module_with_a_split_of_its_own,
    without_validation,
    controls_of_ones_own,
    accumulated_gradients_and_limited_batches,
    pytest.param(moving_average_of_the_weights, marks=FAULT),
    moving_average_audited_at_the_end_only,
    validation_within_epochs_and_persistent_workers,
    reloaded_in_every_epoch,
    lazy_layers,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)

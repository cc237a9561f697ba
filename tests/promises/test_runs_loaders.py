"""Files, caches, loaders and trainers of other kinds: data sets are read as the run reads them, and left alone."""

import io
import zipfile

import lightning
import numpy as np
import pytest
import torch
from foreign_parts import Pictures, Plain, first, pictures, plainly
from foreign_runs import ForeignRun, check
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
    random_split,
)

pytestmark = pytest.mark.usefixtures("without_report")


IMAGES, MEMBERS, CONTROLS = pictures(12), pictures(), pictures(seed=1)


def run_of(train, validation=None, module=None, **more):
    validation = DataLoader(Pictures(CONTROLS), 3) if validation is None else validation
    return ForeignRun(module or Plain(), train, validation, MEMBERS, CONTROLS, plainly, **more)


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

    return run_of(DataLoader(Pictures(MEMBERS, augmented), 3, shuffle=True), lines={"members": Pictures(MEMBERS)})


def loaders_by_name():
    return run_of(
        {"faces": DataLoader(Pictures(MEMBERS), 3), "others": DataLoader(Pictures(pictures(6, 5)), 2)},
        module=Plain(unwrap=lambda batch: torch.cat([batch["faces"], batch["others"]])),
        warnings=["the first of 2 train dataloaders; those of others"],
    )


def combined_loaders():
    loaders = [DataLoader(TensorDataset(MEMBERS), 3), DataLoader(TensorDataset(pictures(9, 5)), 3)]
    said = ["the first of 2 train dataloaders; those of 1"]
    return run_of(CombinedLoader(loaders, "min_size"), module=Combined(), warnings=said)


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
    return ForeignRun(WithLoaders(unwrap=first), members=MEMBERS, controls=CONTROLS, own_output=plainly)


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
    return ForeignRun(Plain(unwrap=first), None, None, members, controls, plainly, datamodule=Data())


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
        own_output=plainly,
        trainer={"reload_dataloaders_every_n_epochs": 1},
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


class Prefetching:
    """Around another loader, as several libraries have it: no more of its interface than is needed to train."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)

    @property
    def dataset(self):
        return self.loader.dataset

    @property
    def batch_sampler(self):  # Lightning asks for it
        return self.loader.batch_sampler

    @property
    def sampler(self):
        return self.loader.sampler


def a_loader_around_another():
    return run_of(*(Prefetching(DataLoader(Pictures(images), 3)) for images in (MEMBERS, CONTROLS)))


class Pipeline:
    """Batches from elsewhere, with no data set behind them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return 2

    def __iter__(self):
        return ([{"data": part.clone()}] for part in self.images.split(3))


def a_loader_without_a_data_set():
    return run_of(
        Pipeline(MEMBERS),
        Pipeline(CONTROLS),
        Plain(unwrap=lambda batch: batch[0]["data"]),
        lines={"members": Pictures(MEMBERS), "controls": Pictures(CONTROLS)},
    )


def a_generator_of_the_loader():
    generator = torch.Generator().manual_seed(3)
    loaders = [DataLoader(Pictures(images), 3, shuffle=True, generator=generator) for images in (MEMBERS, CONTROLS)]
    run = run_of(*loaders)
    run.probe = generator.get_state
    return run


class CountsInSharedMemory(Pictures):
    def __init__(self, images):
        super().__init__(images)
        self.reads = torch.zeros(()).share_memory_()

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def a_counter_in_shared_memory():
    dataset = CountsInSharedMemory(MEMBERS)
    run = run_of(DataLoader(dataset, 3, num_workers=1))
    run.probe = lambda: dataset.reads
    return run


RUNS = [
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
    moving_average_of_the_weights,
    moving_average_audited_at_the_end_only,
    validation_within_epochs_and_persistent_workers,
    reloaded_in_every_epoch,
    lazy_layers,
    a_loader_around_another,
    a_loader_without_a_data_set,
    a_generator_of_the_loader,
    a_counter_in_shared_memory,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)

"""Images are read as the run reads them, in a process of its own, and the run never notices."""

import json
import multiprocessing
import os
import random
import warnings
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

from lightning_memaudit.callback.reading import training_images
from lightning_memaudit.callback.reading.reader import Reader, Source

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


def run_json():
    return json.loads(Path("memaudit/run.json").read_text())


class Lazy(Items):
    """Opens its file at the first read, and reads where the file stands: a position that workers would share."""

    def __init__(self, file, count):
        super().__init__(range(count))
        self.file, self.opened = file, None

    def __getitem__(self, index):
        if self.opened is None:
            self.opened = open(self.file, "rb", buffering=0)  # noqa: PTH123, SIM115
        self.opened.seek(index * 64 * 4)
        return torch.frombuffer(bytearray(self.opened.read(64 * 4)), dtype=torch.float32).view(1, 8, 8)


def test_a_file_that_is_opened_at_the_first_read_stays_closed_here(tmp_path):
    images(12).numpy().tofile(tmp_path / "images.bin")
    seen = []
    train = Lazy(tmp_path / "images.bin", 12)
    module = Module(lambda batch: seen.append(batch) or batch)
    loaders = DataLoader(train, 3, num_workers=1), DataLoader(Items(images(4, seed=1)), 2)
    fit(audit_callback(every_n_epochs=1), module, *loaders, max_epochs=2)
    assert train.opened is None
    assert torch.equal(torch.cat(seen[:4]), images(12))
    assert torch.equal(saved_truth(), images(12))


class Traces(Items):
    """Keeps traces of every read: in itself, in the environment, in generators that nobody can find."""

    def __init__(self, items):
        super().__init__(items)
        self.reads, self.cache = 0, {}
        generator = np.random.default_rng(0)
        self.draw = (lambda hidden: lambda: hidden.random())(generator)

    def __getitem__(self, index):
        self.reads += 1
        self.cache[index] = self.draw()
        os.environ["MEMAUDIT_TEST_READS"] = str(self.reads)
        return super().__getitem__(index) * 0.9


def test_reading_leaves_no_trace(monkeypatch):
    monkeypatch.delenv("MEMAUDIT_TEST_READS", raising=False)
    data = Traces(images(6))
    reader = Reader(Source("members", data, list(range(6))), seed=0)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    read = torch.cat([one.batch for one in reader.blocks([[0, 1, 2], [3, 4, 5]])])
    assert torch.equal(read, images(6) * 0.9)
    assert (data.reads, data.cache, os.environ.get("MEMAUDIT_TEST_READS")) == (0, {}, None)
    assert data.draw() == np.random.default_rng(0).random()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002
    assert reader.note is None


class OnlyHere(Items):
    def __getitem__(self, index):
        if get_worker_info() is not None:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return super().__getitem__(index)


@pytest.mark.slow
def test_what_cannot_be_read_in_another_process_is_read_in_this_one_and_said():
    with pytest.warns(UserWarning, match="members: read in the process of the training, because a reading process"):
        fit(audit_callback(), Module(), DataLoader(OnlyHere(images(5)), 2), DataLoader(Items(images(3, seed=1))))
    assert torch.equal(saved_truth(), images(5))
    assert "Cannot re-initialize CUDA" in run_json()["members"]["reading"]


class Broken(Items):
    def __getitem__(self, index):
        if index == 3:
            raise OSError("picture\nthree is torn")
        return super().__getitem__(index)


def test_an_item_that_cannot_be_read_is_named_in_one_line():
    with pytest.raises(ValueError, match=r"^item 3 of Broken cannot be read \(OSError: picture three is torn\): mend"):
        list(Reader(Source("members", Broken(images(5)), list(range(5))), seed=0).blocks([[0, 1], [2, 3], [4]]))


def test_the_runs_own_worker_settings_are_used():
    def first_of(worker):
        get_worker_info().dataset.prepared = True

    class Prepared(Items):
        prepared = False

        def __getitem__(self, index):
            assert self.prepared
            return super().__getitem__(index)

    train = DataLoader(Prepared(images(4)), 2, num_workers=1, worker_init_fn=first_of)
    fit(audit_callback(), Module(), train, DataLoader(Items(images(3, seed=1))))
    assert torch.equal(saved_truth(), images(4))


class Flipped(Items):
    def __getitem__(self, index):
        image = super().__getitem__(index)
        return image.flip(-1) if torch.rand(()) < 0.5 else image


@pytest.mark.parametrize("seed", range(3))
def test_random_augmentation_is_noticed_at_every_seed(seed):
    lightning.seed_everything(seed, verbose=False)
    with pytest.warns(UserWarning, match="reading the same training image twice gave different ones"):
        fit(
            audit_callback(seed=seed), Module(), DataLoader(Flipped(images(12)), 3),
            DataLoader(Items(images(3, seed=99))),
        )  # fmt: skip
    assert any("random augmentation" in note for note in run_json()["notes"])


MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)


class Hooked(Module):
    """Normalizes at one of the places where a run can; counts how often."""

    where, calls = None, 0

    def normalized(self, batch, place):
        self.calls += 1
        return [(batch[0] - MEAN) / STD, *batch[1:]] if self.where == place else batch

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return self.normalized(batch, "before")

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.normalized(batch, "after")

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return self.normalized(super().transfer_batch_to_device(batch, device, dataloader_idx), "transfer")


def collated(items):
    return [torch.stack([(image - MEAN) / STD for (image,) in items])]


@pytest.mark.parametrize("where", ["before", "transfer", "after", "collate", "data module"])
def test_a_normalization_on_the_way_to_the_model_is_inferred_and_undone(where):
    members, controls = images(6, shape=(3, 8, 8)), images(4, seed=1, shape=(3, 8, 8))

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(members), 3, collate_fn=collated if where == "collate" else None)

        def val_dataloader(self):
            return DataLoader(TensorDataset(controls), 3, collate_fn=collated if where == "collate" else None)

    if where == "data module":
        Data.on_after_batch_transfer = lambda self, batch, index: [(batch[0] - MEAN) / STD]
    module = Hooked(lambda batch: batch[0])
    module.where = where
    callback = audit_callback()
    fit(callback, module, None, datamodule=Data())
    assert torch.allclose(saved_truth(), members, atol=1e-6)
    assert torch.allclose(saved_truth("controls"), controls, atol=1e-6)
    assert run_json()["members"]["mean"] == [0.5, 0.4, 0.3]
    assert run_json()["members"]["std"] == [0.2, 0.25, 0.3]
    # The model multiplies what it sees by its weight: the error of an image, worked out by hand.
    normalized = (members - MEAN) / STD
    expected = ((normalized * module.weight.detach() - normalized) * STD).square().mean()
    assert rows()[0]["train_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_the_user_says_otherwise():
    """Numbers that contradict what the run does are refused, though they would bring images into [0, 1]."""
    module = Hooked(lambda batch: batch[0])
    module.where = "after"
    data = TensorDataset(images(6, shape=(3, 8, 8)))
    with pytest.raises(ValueError, match=r"mean and std say \(image - 0.5\) / 0.1, but the run gives the"):
        fit(audit_callback(mean=[0.5], std=[0.1]), module, DataLoader(data, 3))


def test_all_problems_are_said_at_once():
    def pair(module, x):
        return x.mean(), x

    text = r"^3 problems: \(1\) members has values.*\(2\) controls has values.*\(3\) the model returned tuple"
    with pytest.raises(ValueError, match=text):
        fit(
            audit_callback(reconstruct=pair), Module(), DataLoader(Items(images(4) * 2 - 1), 2),
            DataLoader(Items(images(3, seed=1) * 255), 2),
        )  # fmt: skip


def test_how_many_training_images_controls_are_compared_with_is_bounded_and_said(monkeypatch):
    loaders = DataLoader(Items(images(20)), 4), DataLoader(Items(images(4, seed=1)))
    fit(audit_callback(num_members=2), Module(), *loaders)
    assert run_json()["controls"]["identity_check"] == {"checked": 20, "of": 20}
    assert run_json()["notes"] == []
    monkeypatch.setattr(training_images, "MOST_COMPARED", 5)
    fit(audit_callback(num_members=2), Module(), *loaders)
    assert run_json()["controls"]["identity_check"] == {"checked": 5, "of": 20}
    assert run_json()["notes"] == ["controls were compared with 5 of the 20 images that training can reach"]


def test_labels_go_to_a_model_that_asks_for_the_batch():
    class Conditional(Module):
        def forward(self, x, label):
            return x * self.weight * (1 + label.view(-1, 1, 1, 1))

        def training_step(self, batch, batch_idx):
            return (self(*batch) - batch[0]).square().mean()

    members, labels = images(6), torch.tensor([0.0, 0.1, 0.0, 0.2, 0.1, 0.0])
    train = DataLoader(TensorDataset(members, labels), 3)
    module = Conditional()
    callback = audit_callback(reconstruct=lambda module, batch: module(*batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(callback, module, train)
    weight = float(module.weight.detach()) * (1 + labels)
    expected = {i: float(-10 * torch.log10((members[i] * (weight[i] - 1)).square().mean())) for i in range(6)}
    measured = {row["image"]: row["reconstruction_psnr"] for row in callback.last_report.images}
    assert measured == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("image_key", [None, "image"])
def test_a_collate_fn_that_sorts_its_items_keeps_names_and_images_together(image_key):
    """Found in the batch, which is in another order than the items, or in the items themselves."""

    class Named(Items):
        names = tuple(f"{index}.png" for index in range(8))

        def __getitem__(self, index):
            image = super().__getitem__(index)
            return image if image_key is None else {image_key: image}

    def sorted_by_brightness(items):
        found = [item if image_key is None else item[image_key] for item in items]
        return torch.stack(sorted(found, key=lambda image: float(image.mean())))

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*random augmentation.*")
        callback = audit_callback(image_key=image_key, controls=Items(images(3, seed=1)))
        fit(callback, Module(), DataLoader(Named(images(8)), 4, collate_fn=sorted_by_brightness))
    assert torch.equal(saved_truth(), images(8))
    names = {row["image"]: row["name"] for row in callback.last_report.images if row["group"] == "members"}
    assert names == {index: f"{index}.png" for index in range(8)}


def test_items_that_give_nothing_are_left_out_and_said():
    class Torn(Items):
        def __getitem__(self, index):
            return None if index in (1, 4) else super().__getitem__(index)

    def present(items):
        return torch.stack([item for item in items if item is not None])

    loaders = DataLoader(Torn(images(6)), 3, collate_fn=present), DataLoader(Items(images(3, seed=1)))
    callback = audit_callback()
    fit(callback, Module(), *loaders)
    assert torch.equal(saved_truth(), images(6)[[0, 2, 3, 5]])
    assert {row["image"] for row in callback.last_report.images if row["group"] == "members"} == {0, 2, 3, 5}
    assert "2 items gave no image and were left out" in run_json()["members"]["reading"]


def test_names_that_repeat_are_told_apart():
    data = Items(images(4), lambda x: {"image": x, "name": "cat"})
    callback = audit_callback(image_key="image", controls=Items(images(3, seed=1)))
    fit(callback, Module(lambda batch: batch["image"]), DataLoader(data, 2))
    names = [row["name"] for row in callback.last_report.images if row["group"] == "members"]
    assert names == ["cat[0]", "cat[1]", "cat[2]", "cat[3]"]


def test_memory_that_processes_share_is_as_it_was():
    class Counting(Items):
        reads = torch.zeros(()).share_memory_()

        def __init__(self, items):
            super().__init__(items)
            self.own, self.value = torch.zeros(()).share_memory_(), multiprocessing.Value("i", 0)

        def __getitem__(self, index):
            self.own += 1
            with self.value.get_lock():
                self.value.value += 1
            return super().__getitem__(index)

    data = Counting(images(6))
    fit(audit_callback(), Module(), DataLoader(data, 2), DataLoader(Items(images(3, seed=1))))
    assert (int(data.own), data.value.value) == (6, 6)  # the training's own reads


class ReadOnce(Items):
    """Keeps what it drew at the first reading, where every process sees it."""

    def __init__(self, items, kept):
        super().__init__(items)
        self.kept = kept

    def __getitem__(self, index):
        if not self.seen(index):
            self.kept[index] = (0.9 * super().__getitem__(index) + 0.1 * torch.rand(())).numpy()
        return torch.as_tensor(np.array(self.kept[index]))


class InMappedFile(ReadOnce):
    def seen(self, index):
        return bool(self.kept[index].any())


class InManager(ReadOnce):
    def seen(self, index):
        return index in self.kept


@pytest.mark.parametrize("kind", ["mapped file", "part of a mapped file", "manager"])
def test_what_a_data_set_keeps_at_the_first_reading_is_the_training_s(kind, tmp_path):
    items = images(6)
    found = []
    with multiprocessing.Manager() as manager:
        for callbacks in ([], [audit_callback()]):
            if kind == "manager":
                data = InManager(items, manager.dict())
            else:
                shape = (8, *items.shape[1:])
                mapped = np.memmap(tmp_path / f"{len(found)}", np.float32, "w+", shape=shape)
                data = InMappedFile(items, mapped if kind == "mapped file" else mapped[1:])
            torch.manual_seed(0)
            loaders = DataLoader(data, 2), DataLoader(Items(images(3, seed=1)))
            fit(callbacks, Module(), *loaders)
            found.append([np.array(data.kept[index]) for index in range(6)])
    assert all(one.any() for one in found[0])
    assert np.array_equal(*found)


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_a_file_that_a_stream_reads_on_is_where_it_was(tmp_path, mode):
    class Stream(IterableDataset):
        def __init__(self):
            self.file = (tmp_path / "images").open(mode, buffering=0)

        def __iter__(self):
            while values := self.file.read(4 * items[0].numel()):
                yield torch.frombuffer(bytearray(values), dtype=torch.float32).view_as(items[0])

    items, seen = images(40), []

    class Watching(Module):
        def on_train_start(self):
            seen.append(stream.file.tell())

    (tmp_path / "images").write_bytes(items.numpy().tobytes())
    for callbacks in ([], [audit_callback(num_members=8)]):
        stream = Stream()
        fit(callbacks, Watching(), DataLoader(stream, 2), DataLoader(Items(images(3, seed=1))), limit_train_batches=4)
        seen.append(stream.file.tell())
        stream.file.close()
    assert seen[:2] == seen[2:]

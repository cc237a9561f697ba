"""Members are what the train loader can yield, controls what the validation loader can, for any sampler."""

import random
import re

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

from lightning_memaudit.callback.reading.loaders import Reachable, place_in_root

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Every(Sampler):
    """Every n-th index, in an order of its own that it draws from a generator of its own."""

    def __init__(self, indices, batch_size=None):
        self.indices, self.batch_size, self.generator = list(indices), batch_size, random.Random(0)

    def __len__(self):
        return len(self.indices)

    def __iter__(self):
        order = self.generator.sample(self.indices, len(self.indices))
        if self.batch_size is None:
            return iter(order)
        return iter([order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)])


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield from (2, 5, 7)


class Few(Sampler):
    """Three of ten, others in every epoch."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(torch.randperm(10)[:3].tolist())


def loader(**arguments):
    return DataLoader(np.arange(10), **({"batch_size": 2} | arguments))


@pytest.mark.parametrize(
    ("behind", "num_batches", "indices", "certain"),
    [
        (loader(), None, range(10), True),
        (loader(shuffle=True), None, range(10), True),
        (loader(shuffle=True), 2, range(10), False),
        (loader(), 2, range(4), True),
        (loader(sampler=SequentialSampler(range(10))), None, range(10), True),
        (loader(sampler=RandomSampler(range(10), num_samples=4)), None, range(10), False),
        (loader(sampler=RandomSampler(range(10), replacement=True)), None, range(10), False),
        (loader(sampler=SubsetRandomSampler([8, 1, 3])), None, [1, 3, 8], True),
        (loader(sampler=WeightedRandomSampler([0, 1, 0, 0, 2, 0, 0, 0, 0, 0], 5)), None, [1, 4], False),
        (loader(sampler=[9, 0, 9]), None, [0, 9], True),
        (loader(sampler=[9, 0, 3, 4]), 1, [0, 9], True),
        (loader(sampler=Every([1, 6, 4])), None, [1, 4, 6], True),
        (loader(sampler=Few()), None, None, False),
        (DataLoader(np.arange(10), batch_sampler=Every([1, 6, 4], 2)), None, [1, 4, 6], True),
        (DataLoader(np.arange(10), batch_sampler=[[0, 3], [5]]), None, [0, 3, 5], True),
        (DataLoader(np.arange(10), batch_sampler=BatchSampler(Every([7, 2]), 2, False)), None, [2, 7], True),
        (DataLoader(np.arange(10), batch_size=None, sampler=BatchSampler([4, 2, 9], 2, False)), None, [2, 4, 9], True),
        (
            loader(sampler=DistributedSampler(range(10), num_replicas=2, rank=1, shuffle=False)),
            None,
            [1, 3, 5, 7, 9],
            True,
        ),
        (loader(sampler=DistributedSampler(range(10), num_replicas=2, rank=1, shuffle=False)), 1, [1, 3], True),
        (loader(sampler=DistributedSampler(range(10), num_replicas=2, rank=1)), None, range(10), False),
    ],
)
def test_what_a_loader_can_yield(behind, num_batches, indices, certain):
    found = Reachable.through(behind, float("inf") if num_batches is None else num_batches)
    # Against what it does yield, in many epochs.
    yielded = set()
    if num_batches is None:
        for _ in range(60):
            yielded |= {int(index) for batch in behind for index in torch.as_tensor(batch).flatten()}
    if indices is not None:
        assert found.indices == list(indices)
        assert yielded <= set(found.indices)
    if certain and yielded:
        assert yielded == set(found.indices)
    assert found.certain == certain


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_samplers_of_all_processes_together_yield_all(shuffle, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    sampler = DistributedSampler(range(10), num_replicas=2, rank=1, shuffle=shuffle)
    assert Reachable.through(loader(sampler=sampler)) == Reachable(list(range(10)))


def test_what_samplers_ask_for_beside_an_index_is_no_index():
    """As the size of each batch, drawn anew."""
    asked = [[(3, 16), (1, 16)], ((5, 12), (7, 12))]
    assert Reachable.through(DataLoader(np.arange(20), batch_sampler=Every(asked))).indices == [1, 3, 5, 7]
    assert Reachable.through(DataLoader(np.arange(20), sampler=Every(asked[0]))).indices == [1, 3]


@pytest.mark.parametrize("key", ["cat", (), ("cat", 0)])
def test_keys_that_are_no_indices_are_one_line_with_the_mend(key):
    keys = DataLoader({key: 0}, sampler=Every([key]))
    asked = re.escape(repr(key))
    with pytest.raises(
        ValueError, match=rf"asks the data set for {asked}, .* pass members=<a data set that is read by index>"
    ):
        Reachable.through(keys)


def test_indices_from_the_end_are_those_items_and_none_are_beyond_it():
    assert Reachable.through(loader(sampler=Every([-1, 3, -13, 14]))).indices == [3, 9]


def test_an_endless_sampler_ends():
    assert Reachable.through(loader(sampler=Endless())).indices == [2, 5, 7]


def test_a_sampler_drawn_from_keeps_its_state():
    """It is drawn from in a process of its own: training goes on with the order that it would have had."""
    seen = {}
    for attached in (False, True):
        order = seen.setdefault(attached, [])

        def keep(batch, order=order):
            order.append(batch[1].tolist())
            return batch[0]

        data = Items(list(zip(images(8), range(8), strict=True)))
        callbacks = [audit_callback(every_n_epochs=1)] if attached else []
        fit(callbacks, Module(keep), DataLoader(data, 2, sampler=Every([1, 2, 5, 7])), max_epochs=2)
    assert seen[False] == seen[True]


@pytest.mark.parametrize("kind", [SubsetRandomSampler, list, Every, lambda ids: BatchSampler(Every(ids), 2, False)])
def test_one_data_set_split_by_samplers(kind):
    data, train_ids, other_ids = images(12), [0, 3, 4, 8, 9, 11], [1, 2, 5, 6, 7, 10]
    argument = "batch_sampler" if type(kind(train_ids)) is BatchSampler else "sampler"
    loaders = [DataLoader(Items(data), **{argument: kind(ids)}) for ids in (train_ids, other_ids)]
    fit(audit_callback(), Module(), *loaders)
    assert torch.equal(saved_truth(), data[train_ids])
    assert torch.equal(saved_truth("controls"), data[other_ids])


def test_controls_that_training_reaches_are_refused_though_not_audited():
    data = images(60)
    train, validation = DataLoader(Items(data[:40]), 4), DataLoader(Items(data[[50, 39, 51]]))
    with pytest.raises(ValueError, match=r"1 of the controls are identical to members or to other images .* \(1\)"):
        fit(audit_callback(num_members=2), Module(), train, validation)
    whole = Items(data)
    with pytest.raises(ValueError, match=r"3 of the controls are images that the training reaches too \(0, 1, 2\)"):
        fit(
            audit_callback(num_members=2), Module(), DataLoader(Subset(whole, range(8)), 4),
            DataLoader(ConcatDataset([Subset(whole, range(5, 8)), Items(data[9:12])])),
        )  # fmt: skip


def test_the_second_train_loader_counts_too():
    data = images(12)
    train = {"first": DataLoader(Items(data[:4]), 2), "second": DataLoader(Items(data[4:8]), 2)}
    with pytest.raises(ValueError, match=r"2 of the controls are identical to members or to other images .* \(0, 1\)"):
        fit(audit_callback(), Module(lambda batch: batch["first"]), train, DataLoader(Items(data[6:10])))


def test_place_in_root():
    first, second = list(range(5)), list(range(9))
    nested = Subset(ConcatDataset([first, Subset(second, [8, 7, 6])]), [6, 0, 5])
    assert [place_in_root(nested, index) for index in range(3)] == [(second, 7), (first, 0), (second, 8)]


class Stream(IterableDataset):
    """Counts how often it was begun in this process."""

    def __init__(self, items):
        self.items, self.begun = items, 0

    def __iter__(self):
        self.begun += 1
        return iter(self.items)


def test_streams_are_audited_by_their_first_items_of_a_fresh_iteration():
    train, validation = Stream(images(9)), Stream(images(7, seed=1))
    fit(audit_callback(num_members=4, num_controls=3), Module(), DataLoader(train, 2), DataLoader(validation, 3))
    assert torch.equal(saved_truth(), images(9)[:4])
    assert torch.equal(saved_truth("controls"), images(7, seed=1)[:3])
    assert train.begun == 1  # by the training
    import json
    from pathlib import Path

    run = json.loads(Path("memaudit/run.json").read_text())
    assert run["members"]["reading"] == "the first 4 of a fresh iteration of Stream"


def test_a_stream_behind_the_validation_loader_with_members_given():
    fit(
        audit_callback(members=Items(images(5))),
        Module(),
        DataLoader(Items(images(5))),
        DataLoader(Stream(images(3, 1))),
    )
    assert rows("memaudit", "controls")[0]["num_images"] == 3


def test_streams_of_batches():
    """As web data sets give them: the data set itself makes the batches."""
    train = DataLoader(Stream(list(images(9).split(4))), batch_size=None)
    fit(audit_callback(num_members=6), Module(), train)
    assert torch.equal(saved_truth(), images(9)[:6])


def test_of_a_stream_of_batches_the_training_gets_to_so_many_batches():
    train = DataLoader(Stream(list(images(9).split(2))), batch_size=None)
    fit(audit_callback(num_members=8), Module(), train, limit_train_batches=3)
    assert torch.equal(saved_truth(), images(9)[:6])


def test_a_stream_needs_a_number():
    with pytest.raises(ValueError, match=r"members: Stream can only be iterated: pass num_members=<how many"):
        fit(audit_callback(num_members=None), Module(), DataLoader(Stream(images(3))))


def test_a_run_that_wants_no_controls():
    fit(audit_callback(num_controls=0), Module(), DataLoader(Items(images(4))), DataLoader(Items(images(4))))
    assert rows("memaudit", "controls") == []


def test_keys_per_group():
    train = DataLoader(Items(images(4), lambda x: {"pixels": x, "label": 1}), 2)
    fit(
        audit_callback(image_key={"members": "pixels", "controls": 0}), Module(lambda batch: batch["pixels"]),
        train, DataLoader(Items(images(3, seed=1), lambda x: (x, 1))),
    )  # fmt: skip
    assert torch.equal(saved_truth("controls"), images(3, seed=1))


def test_reloaded_loaders_are_said_once():
    class Sharded(Module):
        def train_dataloader(self):
            return DataLoader(Items(images(4, seed=self.trainer.current_epoch)), 2)

    with pytest.warns(UserWarning, match="reloaded with another data set") as caught:
        fit(audit_callback(), Sharded(), None, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert sum("reloaded with another" in str(one.message) for one in caught) == 1


@pytest.mark.parametrize("every", [0, 1])
def test_a_data_set_that_grows_is_said_once(every):
    """Whether the run keeps its dataloader, or makes it anew over the same data set in every epoch."""

    class Curriculum(Items):
        def __len__(self):
            return self.number

    class Grows(Module):
        def train_dataloader(self):
            return DataLoader(train, 2)

        def on_train_epoch_end(self):
            train.number += 2

    train = Curriculum(images(9))
    train.number = 4
    grown = r"members: the data set of the train dataloader has grown from 4 to \d items.* pass members="
    with pytest.warns(UserWarning, match=grown) as caught:
        fit(audit_callback(), Grows(), None, max_epochs=3, reload_dataloaders_every_n_epochs=every)
    assert sum("has grown" in str(one.message) for one in caught) == 1
    assert torch.equal(saved_truth(), images(9)[:4])


def test_a_last_batch_that_is_dropped_in_a_fixed_order_is_never_trained_on():
    train = DataLoader(Items(images(7)), 3, drop_last=True)
    fit(audit_callback(), Module(), train, DataLoader(Items(images(3, seed=1))))
    assert torch.equal(saved_truth(), images(7)[:6])
    assert Reachable.through(DataLoader(range(7), 3, drop_last=True, shuffle=True)).indices == list(range(7))


class Watches(Module):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass


def test_controls_come_from_the_first_validation_loader_that_is_not_trained_on():
    train = Items(images(6))
    loaders = [DataLoader(train, 2), DataLoader(Items(images(0)), 2), DataLoader(Items(images(4, seed=1)), 2)]

    fit(audit_callback(), Watches(), DataLoader(train, 3), loaders)
    assert torch.equal(saved_truth("controls"), images(4, seed=1))


def test_empty_validation_data_are_none():
    with pytest.warns(UserWarning, match="controls: no images that were not trained on"):
        fit(audit_callback(), Module(), DataLoader(Items(images(6)), 3), DataLoader(Items(images(0)), 2))


def test_what_max_steps_or_limited_batches_never_reach_is_no_member():
    loaders = DataLoader(Items(images(9)), 2), DataLoader(Items(images(3, seed=1)))
    fit(audit_callback(), Module(), *loaders, max_steps=2, max_epochs=-1)
    assert torch.equal(saved_truth(), images(9)[:4])
    fit(audit_callback(num_members=8), Module(), DataLoader(Stream(images(9)), 2), loaders[1], limit_train_batches=3)
    assert torch.equal(saved_truth(), images(9)[:6])


class Batches:
    """An iterator of somebody's own, as DALI and FFCV have them: no data set behind it."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def test_all_groups_without_a_data_set_are_named_at_once():
    message = (
        "members: no data set found in Batches and controls: no data set found in Batches; pass members=<a data set> "
        "and controls=<a data set> of the images"
    )
    with pytest.raises(ValueError, match=message):
        fit(audit_callback(), Module(), Batches(images(6).split(2)), Batches(images(4, 1).split(2)))


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_validation_loader_without_a_data_set_beside_one_that_has_it(comes_first):
    others = [Batches(images(4, 2).split(2)), DataLoader(Items(images(4, 1)))]
    fit(audit_callback(), Watches(), DataLoader(Items(images(6))), others if comes_first else others[::-1])
    assert torch.equal(saved_truth("controls"), images(4, 1))

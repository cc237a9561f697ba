"""Where state may hide: behind classes, functions, global variables, iterators; and what is left alone."""

import collections
import functools
import gc
import itertools
import queue
import random
import sys
import threading
import types
import weakref

import lightning
import numpy as np
import pytest
import torch
from state_holders import Holder, Nested, changes
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from lightning_memaudit.callback.isolation import preserved_objects, preserved_random_state, undisturbed
from lightning_memaudit.callback.state import snapshot

CALLS = 0
helper = None
SEEN = {"shapes": []}
TEXT = "kept as it is"


# Classes, functions, variables


def test_attributes_of_classes():
    class Base(nn.Module):
        calls, log = 0, []

    class Model(Base):
        def forward(self):
            type(self).calls += 1
            Base.calls += 1
            self.log.append(1)
            type(self).new = 1

    assert changes(Model()) == ""
    assert (Base.calls, Base.log, "calls" in vars(Model), hasattr(Model, "new")) == (0, [], False, False)


def count_a_call():
    global CALLS, NEW
    CALLS, NEW = CALLS + 1, 1
    SEEN["shapes"].append(1)


def test_global_variables_that_functions_name():
    class Model(nn.Module):
        def forward(self):
            count_a_call()

    assert changes(Model()) == ""
    assert (CALLS, SEEN, "NEW" in globals()) == (0, {"shapes": []}, False)


def by_global_name():
    helper.count += 1
    helper.seen.append(1)


def by_import():
    import helper_of_the_user

    helper_of_the_user.count += 1
    helper_of_the_user.seen.append(1)


@pytest.mark.parametrize("way", ["global", "import", "closure", "attribute"])
def test_variables_of_a_module_of_the_users(monkeypatch, way):
    mine = types.ModuleType("helper_of_the_user")
    mine.count, mine.seen = 0, []
    monkeypatch.setitem(sys.modules, "helper_of_the_user", mine)
    monkeypatch.setitem(globals(), "helper", mine if way == "global" else None)
    acts = {
        "global": lambda module: by_global_name(),
        "import": lambda module: by_import(),
        "closure": lambda module: (setattr(mine, "count", 1), mine.seen.append(1)),
        "attribute": lambda module: (setattr(module.kept, "count", 1), module.kept.seen.append(1)),
    }
    module = Holder(mine if way == "attribute" else None, acts[way])
    assert changes(module) == ""
    assert (mine.count, mine.seen) == (0, [])
    module()
    assert (mine.count, mine.seen) == (1, [1])


def test_closures_default_arguments_and_attributes_of_functions():
    seen, calls = [], 0

    def hook(module, inputs, output, log=[], *, other={}):  # noqa: B006
        nonlocal calls
        calls += 1
        seen.append(output)
        log.append(1)
        other["a"] = 1
        hook.calls = 1

    module = nn.Sequential(nn.Identity())
    module[0].register_forward_hook(hook)
    with undisturbed(module):
        module(torch.zeros(1))
    assert (seen, calls, hook.__defaults__, hook.__kwdefaults__, vars(hook)) == ([], 0, ([],), {"other": {}}, {})
    module(torch.zeros(1))
    assert len(seen) == calls == 1


def test_hooks_that_are_registered_or_removed_meanwhile_and_hooks_of_all_modules():
    seen = []
    module = nn.Identity()
    handle = module.register_forward_hook(lambda *_: None)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        with undisturbed(module):
            module(torch.zeros(1))
            module.register_forward_pre_hook(lambda *_: None)
            handle.remove()
    finally:
        everywhere.remove()
    assert not seen
    assert not module._forward_pre_hooks
    assert list(module._forward_hooks) == [handle.id]


def test_what_only_a_weak_reference_holds():
    kept = Nested()
    assert changes(Holder(weakref.ref(kept), lambda module: module.kept().values.append(1))) == ""
    assert kept.values == []


def test_caches_of_functions_are_emptied_where_they_were_empty_and_named_where_not():
    @functools.lru_cache
    def mask(size):
        return torch.rand(size)

    module = Holder(mask, lambda module: module.kept(3))
    assert changes(module) == ""
    assert mask.cache_info().currsize == 0
    mask(4)
    assert changes(module) == "kept (cache)"


# Iterators


@pytest.mark.parametrize(
    "make",
    [
        itertools.count,
        lambda: itertools.count(3, 2),
        lambda: itertools.cycle([1, 2, 3]),
        lambda: iter([1, 2, 3, 4, 5]),
        lambda: iter(range(9)),
        lambda: enumerate(itertools.cycle("ab")),
        lambda: zip(itertools.count(), "abcdef", strict=False),
        lambda: map(str, itertools.count()),
        lambda: itertools.chain([1, 2], [3, 4, 5]),
        lambda: itertools.islice(itertools.count(), 1, 9),
        lambda: iter({"a": 1, "b": 2, "c": 3, "d": 4}.items()),
    ],
)
@pytest.mark.parametrize("used", [0, 1, 2])
def test_iterators_are_set_back_in_whatever_holds_them(make, used):
    expected = make()
    stream = make()
    for iterator in (expected, stream):
        for _ in range(used):
            next(iterator)
    cell = stream

    def act(module):
        next(module.kept[0])
        return cell

    module = Holder([stream, {"same": stream}], act)
    assert changes(module) == ""
    assert module.kept[0] is module.kept[1]["same"] is cell
    assert [next(module.kept[0]) for _ in range(2)] == [next(expected) for _ in range(2)]


def test_iterators_that_did_not_move_are_left_alone():
    stream = iter([1, 2, 3])
    module = Holder(stream, lambda module: None)
    assert changes(module) == ""
    assert module.kept is stream


def numbers():
    yield from range(10)


def local_generator():
    generator = random.Random(0)
    while True:
        yield generator.random()


def test_what_cannot_be_set_back_is_named_once_and_nothing_else_is():
    module = nn.Sequential(collections.OrderedDict(decoder=Holder([numbers()], lambda module: next(module.kept[0]))))
    module.forward = lambda: module.decoder()
    module.other = numbers()
    assert changes(module) == "decoder.kept[0] (generator)"
    assert changes(module) == "", "once is enough"
    started = numbers()
    next(started)
    assert changes(Holder(started, lambda module: next(module.kept))) == "kept (generator)"
    fixed = Holder((itertools.count(),), lambda module: next(module.kept[0]))
    assert changes(fixed) == "kept[0] (iterator)"


def test_a_generator_that_a_generator_function_draws_from():
    module = Holder(local_generator(), lambda module: next(module.kept))
    next(module.kept)
    assert changes(module) == ""
    expected = local_generator()
    next(expected)
    assert next(module.kept) == next(expected)


def test_a_numpy_generator_that_spawned_others_is_named():
    assert "kept" in changes(Holder(np.random.default_rng(0), lambda module: module.kept.spawn(1)))


# What is left alone


class Forbidden:
    """Says it where one of its methods is called."""

    def __init__(self):
        object.__setattr__(self, "value", [])

    def _refuse(self, *_):
        raise AssertionError("the user's code was called")

    __getattr__ = __setattr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __repr__ = __deepcopy__ = _refuse
    __reduce__ = __copy__ = __dir__ = __getattribute__ = _refuse
    secret = property(_refuse)
    __class__ = property(_refuse)


class OwnDict(dict):
    def __iter__(self):
        raise AssertionError("the user's code was called")

    keys = values = items = __getitem__ = __len__ = __eq__ = __setitem__ = clear = update = __iter__


class OwnList(list):
    def __iter__(self):
        raise AssertionError("the user's code was called")

    __getitem__ = __len__ = __eq__ = __setitem__ = clear = extend = __iter__


def test_no_code_of_the_users_is_called():
    forbidden, own, items = Forbidden(), OwnDict({"a": [1]}), OwnList([[2]])
    content = object.__getattribute__(forbidden, "__dict__")

    def act(module):
        content["value"].append(1)
        content["new"] = 1
        dict.__setitem__(own, "b", 2)
        list.append(items, 3)

    assert changes(Holder([forbidden, own, items], act)) == ""
    assert content == {"value": []}
    assert list(dict.items(own)) == [("a", [1])]
    assert list(list.__iter__(items)) == [[2]]


def test_what_must_not_be_copied_stays(tmp_path):
    kept = [threading.Lock(), (tmp_path / "file").open("w"), threading.Thread(), queue.Queue(), TEXT]
    module = Holder(kept, lambda module: module.kept[1].write("text"))
    before = list(kept)
    assert changes(module) == ""
    assert all(one is other for one, other in zip(module.kept, before, strict=True))
    kept[1].close()


def test_trainers_loggers_optimizers_loaders_and_data_sets_are_left_alone():
    class Data(Dataset):
        reads = 0

        def __init__(self):
            self.cache = []

    class Log(lightning.pytorch.loggers.logger.DummyLogger):
        def __init__(self):
            self.lines = []

    data, log, layer = Data(), Log(), nn.Linear(2, 2)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, barebones=True)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    loader = DataLoader(TensorDataset(torch.zeros(2)))

    def act(module):
        data.cache.append(1)
        log.lines.append(1)
        trainer.should_stop = optimizer.mark = loader.mark = 1

    assert changes(Holder([data, log, trainer, optimizer, loader], act)) == ""
    assert data.cache == log.lines == [trainer.should_stop] == [optimizer.mark] == [loader.mark] == [1]


def test_data_sets_that_are_given_are_put_back_whole():
    class Noisy(Dataset):
        def __init__(self, seed):
            self.generator, self.reads = np.random.default_rng(seed), 0

        def __len__(self):
            return 1

        def __getitem__(self, index):
            self.reads += 1
            return self.generator.random()

    data = ConcatDataset([Noisy(seed) for seed in range(150)])
    module = Holder(None, lambda module: [data[i] for i in range(150)])
    assert changes(module, data) == ""
    assert [part.reads for part in data.datasets] == [0] * 150
    expected = [np.random.default_rng(seed).random() for seed in range(150)]
    with preserved_random_state(data):
        assert [data[i] for i in range(150)] == expected
    assert [data[i] for i in range(150)] == expected


def test_a_data_module_is_an_owner():
    class Data(lightning.LightningDataModule):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def on_before_batch_transfer(self, batch, dataloader_idx):
            self.calls += 1
            next(self.stream)

    data = Data()
    data.stream = numbers()
    module = Holder(None, lambda module: data.on_before_batch_transfer(None, 0))
    assert changes(module, None, data) == "Data.stream (generator)"
    assert data.calls == 0
    del data.stream
    with preserved_objects(None, data):
        data.calls = 1
    assert data.calls == 0


def test_logging_within_forward_is_silent():
    class Model(lightning.LightningModule):
        def forward(self):
            self.log("x", 1.0)
            self.log_dict({"y": 2.0})

    model = Model()
    assert changes(model) == ""
    assert "log" not in vars(model)
    assert "log_dict" not in vars(model)


# Cost


def test_deep_structures_need_no_deep_calls():
    kept = last = []
    for _ in range(5000):
        last.append([])
        last = last[0]
    assert changes(Holder(kept, lambda module: last.append(1))) == ""
    assert last == []


def test_millions_of_numbers_are_one_object_each_list_once():
    numbers = [0.5] * 1_000_000
    pairs = [("path", number) for number in range(100_000)]
    table = dict(enumerate(pairs))
    taken = snapshot.Snapshot([Holder([numbers, pairs, table, numbers], None)])
    assert taken.num_objects < 500


def test_a_limit_of_objects_is_said(monkeypatch):
    monkeypatch.setattr(snapshot, "MOST_OBJECTS", 500)
    assert "500 objects" in changes(Holder([[i] for i in range(1000)], lambda module: None))


def test_garbage_collection_is_left_on():
    with undisturbed(nn.Identity()):
        assert gc.isenabled()
    assert gc.isenabled()

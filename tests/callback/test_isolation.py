"""After an audit everything that can be reached from the model is as it was, or is named in one warning."""

import collections
import contextvars
import functools
import os
import queue
import random
import threading
import types
import warnings
from array import array

import numpy as np
import pytest
import torch
from state_holders import Holder, Nested, Slotted, changes
from torch import nn
from torch.utils.data import DataLoader

from lightning_memaudit.callback import isolation
from lightning_memaudit.callback.isolation import (
    NotPutBack,
    evaluation_mode,
    preserved_buffers,
    undisturbed,
    uninitialized,
    without_lasting_steps,
)
from lightning_memaudit.callback.state import tensor_contents
from lightning_memaudit.callback.state.generator_states import IteratorState
from lightning_memaudit.callback.state.snapshot import Snapshot


def in_place(change):
    return lambda module: change(module.kept)


def rebinds(value):
    return lambda module: setattr(module, "kept", value)


PLAIN = {
    "counter": (0, rebinds(1)),
    "text": ("before", rebinds("after")),
    "list grows": ([1, 2], in_place(lambda kept: kept.append(3))),
    "list is written to": ([1, 2], in_place(lambda kept: kept.__setitem__(0, 3))),
    "long list": ([0.5] * 1000, in_place(lambda kept: kept.sort(key=lambda _: random.random()) or kept.pop())),
    "nested lists": ([[1], ([2],)], in_place(lambda kept: kept[1][0].append(3))),
    "long list of lists": ([[i] for i in range(1000)], in_place(lambda kept: kept[999].append(1))),
    "dict": ({"a": 1}, in_place(lambda kept: kept.update(a=2, b=3))),
    "dict's order": ({"a": 1, "b": 2}, in_place(lambda kept: kept.update(a=kept.pop("a")))),
    "long dict of lists": ({i: [i] for i in range(1000)}, in_place(lambda kept: kept[999].append(1))),
    "ordered dict": (collections.OrderedDict(a=1, b=2), in_place(lambda kept: kept.move_to_end("a"))),
    "default dict": (collections.defaultdict(list), in_place(lambda kept: kept["new"].append(1))),
    "counter of things": (collections.Counter("aab"), in_place(lambda kept: kept.update("abc"))),
    "set": ({1, 2}, in_place(lambda kept: kept.add(3))),
    "deque": (collections.deque([1, 2], maxlen=2), in_place(lambda kept: kept.append(3))),
    "bytearray": (bytearray(b"ab"), in_place(lambda kept: kept.extend(b"c"))),
    "array of numbers": (array("d", [1, 2]), in_place(lambda kept: kept.append(3))),
    "dataclass": (Nested(), in_place(lambda kept: kept.values.append(1) or setattr(kept.slotted, "calls", 1))),
    "slots deleted and added": (Slotted(), in_place(lambda kept: delattr(kept, "calls") or setattr(kept, "unset", 1))),
    "attribute added": (types.SimpleNamespace(a=1), in_place(lambda kept: vars(kept).update(b=2))),
    "attribute deleted": (types.SimpleNamespace(a=1), in_place(lambda kept: delattr(kept, "a"))),
    "the attribute itself": (1, lambda module: delattr(module, "kept")),
    "cached property": (types.SimpleNamespace(), in_place(lambda kept: setattr(kept, "lazy", torch.ones(2)))),
    "partial": (functools.partial(print, [1]), in_place(lambda kept: kept.args[0].append(2))),
    "bound method": (Nested().values.append, in_place(lambda kept: kept(1))),
    "queue": (queue.Queue(), in_place(lambda kept: kept.queue.append(1))),
    "thread's own": (threading.local(), in_place(lambda kept: setattr(kept, "calls", 1))),
    "numpy array": (np.zeros(3), in_place(lambda kept: kept.fill(1))),
    "numpy array of lists": (np.array([[1], None], dtype=object), in_place(lambda kept: kept[0].append(2))),
    "numpy view": (np.zeros((3, 4))[::2, 1:], in_place(lambda kept: kept.fill(1))),
    "tensor": (torch.zeros(3), in_place(lambda kept: kept.add_(1))),
    "tensor behind autograd's back": (torch.zeros(3), in_place(lambda kept: kept.data.add_(1))),
    "tensor by numpy": (torch.zeros(3), in_place(lambda kept: kept.numpy().fill(1))),
    "tensor rebound": (torch.zeros(3), rebinds(torch.ones(3))),
    "tensor's memory": (torch.zeros(3), in_place(lambda kept: setattr(kept, "data", torch.ones(4)))),
    "tensor of NaN": (torch.full((3,), torch.nan), in_place(lambda kept: kept.fill_(0))),
    "expanded tensor": (torch.zeros(1).expand(3), in_place(lambda kept: kept[:1].add_(1))),
    "transposed tensor": (torch.arange(6.0).view(2, 3).T, in_place(lambda kept: kept.mul_(2))),
    "complex tensor": (torch.zeros(3, dtype=torch.complex64), in_place(lambda kept: kept.add_(1j))),
    "integer tensor": (torch.zeros((), dtype=torch.long), in_place(lambda kept: kept.add_(1))),
    "tensor in a list in a dict": ({"a": [torch.zeros(2)]}, in_place(lambda kept: kept["a"][0].add_(1))),
    "requires_grad": (nn.Parameter(torch.zeros(2)), in_place(lambda kept: kept.requires_grad_(False))),
    "parameter": (nn.Parameter(torch.zeros(2)), in_place(lambda kept: kept.clamp_(1))),
    "parameter clipped by data": (nn.Parameter(torch.zeros(2)), in_place(lambda kept: kept.data.clamp_(1))),
    "tensor's attribute": (nn.Parameter(torch.zeros(2)), in_place(lambda kept: setattr(kept, "calls", 1))),
    "torch generator": (torch.Generator(), in_place(lambda kept: torch.rand(2, generator=kept))),
    "numpy generator": (np.random.default_rng(0), in_place(lambda kept: kept.random())),
    "numpy's bit generator": (np.random.PCG64(0), in_place(lambda kept: kept.random_raw())),
    "numpy's legacy generator": (np.random.RandomState(0), in_place(lambda kept: kept.randn())),
    "python generator": (random.Random(0), in_place(lambda kept: kept.gauss(0, 1))),
    "generators in a long list": (
        [random.Random(i) for i in range(150)],
        in_place(lambda kept: [one.random() for one in kept]),
    ),
}


def picture(value):
    """Something to compare that holds a value's whole content."""
    if isinstance(value, torch.Tensor):
        grad = None if not value.is_leaf or value.grad is None else value.grad.tolist()
        content = value.detach().numpy().tobytes(), value.shape, value.dtype
        return id(value), *content, value.requires_grad, grad, picture(vars(value))
    if isinstance(value, np.ndarray):
        return id(value), [picture(item) for item in value.flat] if value.dtype.hasobject else value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.BitGenerator):
        return repr(value.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return id(value), [(key, picture(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | collections.deque):
        return id(value), [picture(item) for item in value]
    if isinstance(value, functools.partial):
        return picture(value.args)
    if isinstance(value, types.BuiltinMethodType):
        return picture(value.__self__)
    if isinstance(value, bytearray | array):
        return id(value), bytes(value)
    if isinstance(value, Slotted):
        return [(name, getattr(value, name, None)) for name in value.__slots__]
    if hasattr(value, "__dict__"):
        return id(value), picture(vars(value))
    return value


@pytest.mark.parametrize("kept", PLAIN)
def test_everything_is_put_back_into_the_same_objects(kept):
    value, act = PLAIN[kept]
    module = nn.Sequential(collections.OrderedDict(inner=Holder(value, act)))
    module.forward = lambda: module.inner()
    before = picture(value), list(vars(module.inner))
    assert changes(module) == ""
    assert module.inner.kept is value
    assert (picture(value), list(vars(module.inner))) == before
    with torch.no_grad():
        module.forward()
    after = picture(getattr(module.inner, "kept", None)), list(vars(module.inner))
    assert after != before, "the test changes nothing"


def test_also_after_an_exception_which_passes_unchanged():
    def act(module):
        module.kept.append(1)
        module.stuck = 1
        next(module.stream)
        raise KeyError("its own")

    module = Holder([], act)
    module.stream = (item for item in [1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError, match="its own"), undisturbed(module):
            module()
    assert module.kept == []
    assert not hasattr(module, "stuck")


# Parameters and buffers


def test_parameters_gradients_and_modules_replaced_meanwhile():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.gone = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self):
            with torch.enable_grad():
                self.layer(torch.ones(1, 2)).sum().backward()
            self.layer.weight = nn.Parameter(torch.zeros(2, 2))
            self.new = nn.Linear(1, 1)
            self.layer.bias.grad = None
            del self.gone

    model = Model()
    model.layer.weight.grad = torch.full((2, 2), 5.0)
    before = dict(model.named_parameters()), {name: one.clone() for name, one in model.named_parameters()}
    gradient = model.layer.weight.grad
    assert changes(model) == ""
    assert list(model._modules) == ["layer", "gone"]
    assert all(one is before[0][name] and torch.equal(one, before[1][name]) for name, one in model.named_parameters())
    assert model.layer.weight.grad is gradient
    assert gradient.eq(5).all()
    assert model.layer.bias.grad is None


@pytest.mark.parametrize("write", [lambda weight: weight.mul_(2), lambda weight: weight.data.mul_(2)])
def test_large_parameters_are_named_once_and_copied_from_then_on(monkeypatch, write):
    monkeypatch.setattr(tensor_contents, "LARGEST_COPY", 100)
    module = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 2), nn.Linear(50, 50))
    module.forward = lambda: write(module[0].weight)
    first, last = module[0].weight.clone(), module[2].weight.clone()
    assert changes(module) == "0.weight (tensor of 0 MiB)"
    assert torch.equal(module[0].weight, first * 2)
    assert changes(module) == ""
    assert torch.equal(module[0].weight, first * 2), "the second time it is put back"
    assert torch.equal(module[2].weight, last)


def test_large_attributes_are_watched(monkeypatch):
    monkeypatch.setattr(tensor_contents, "LARGEST_COPY", 100)
    module = Holder([torch.zeros(50), np.zeros(50)], lambda module: [one.__iadd__(1) for one in module.kept])
    assert changes(module) == "kept[0] (tensor of 0 MiB), kept[1] (array of 0 MiB)"
    still = Holder([torch.zeros(50, 2).T, np.zeros((50, 2)).T], lambda module: None)
    assert changes(still) == ""


def test_buffers_whatever_way_they_are_written_to():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for name in "abcd":
                self.register_buffer(name, torch.zeros(2))
            with torch.inference_mode():
                self.d = torch.zeros(2)

        def forward(self):
            self.a += 1
            self.b.data.add_(1)
            self.c = self.c + 1
            with torch.inference_mode():
                self.d += 1

    for protection in (undisturbed, preserved_buffers):
        model = Model()
        before = dict(model.named_buffers())
        with protection(model):
            model()
        assert all(one is before[name] and not one.any() for name, one in model.named_buffers())


def test_parametrizations_and_spectral_norm():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    old = nn.utils.spectral_norm(nn.Linear(3, 3))
    module = nn.Sequential(layer, old)
    before = {name: one.clone() for name, one in module.state_dict().items()}
    with undisturbed(module):
        module.train()  # a forward that switches its own mode
        module(torch.ones(1, 3))
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


def test_lazy_modules_are_known_and_named_where_a_call_initializes_them():
    module = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    assert not uninitialized(module[0])
    assert uninitialized(module) == ["1.weight", "1.bias"]
    with undisturbed(module):
        pass
    assert uninitialized(module)
    module.forward = functools.partial(nn.Sequential.forward, module, torch.zeros(1, 2))
    assert "1.weight (initialized)" in changes(module)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_modules():
    module = torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    with undisturbed(module):
        module.train()
        module(torch.ones(2, 1, 3, 3))
    assert not module.state_dict()["1.running_mean"].any()


def test_modules_with_an_equality_of_their_own():
    class Model(Holder):
        __hash__ = Holder.__hash__

        def __eq__(self, other):
            raise AssertionError("the user's code was called")

    module = Model([], lambda module: module.kept.append(1))
    assert changes(module) == ""
    assert module.kept == []


def test_weights_spread_over_processes_are_left_alone_and_all_else_is_put_back(monkeypatch):
    """FSDP sets itself up in the first call, and exchanges the tensors of modules in every one."""
    monkeypatch.setattr(isolation, "is_sharded", lambda module: True)
    module = Holder([], lambda module: None)
    module.weight, gathered = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(4))

    def act(module):
        module.weight = gathered
        module.kept.append(1)
        module._set_up = module.flat = torch.ones(3)
        module.calls = 1

    module.act = act
    assert changes(module) == ""
    assert module.weight is gathered
    assert torch.equal(module.flat, torch.ones(3))
    assert module.kept == []
    assert not hasattr(module, "calls")


def test_modes_are_given_back_one_by_one():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    module[1].eval()
    with evaluation_mode(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, False]


def test_the_place_in_a_range_is_told_by_what_is_left_of_it():
    """From Python 3.12 on each call makes a new range of that, which lies where it happens to."""
    stream = iter(range(9))
    state = IteratorState(stream, {})
    elsewhere = [range(start, 9) for start in range(100)]
    assert not state.moved
    next(stream)
    del elsewhere
    assert state.moved


COUNT = contextvars.ContextVar("COUNT", default=0)


def test_environment_and_context_variables_are_put_back(monkeypatch):
    class Counts(nn.Module):
        def forward(self, x):
            os.environ["MEMAUDIT_TEST"] = os.environ.get("MEMAUDIT_TEST", "") + "1"
            os.environ["MEMAUDIT_TEST_NEW"] = "1"
            COUNT.set(COUNT.get() + 1)
            return x

    monkeypatch.setenv("MEMAUDIT_TEST", "0")
    monkeypatch.delenv("MEMAUDIT_TEST_NEW", raising=False)
    model = Counts()
    with undisturbed(model):
        model(torch.zeros(1))
        assert (os.environ["MEMAUDIT_TEST"], COUNT.get()) == ("01", 1)
    assert (os.environ["MEMAUDIT_TEST"], COUNT.get()) == ("0", 0)
    assert "MEMAUDIT_TEST_NEW" not in os.environ


LISTED = contextvars.ContextVar("LISTED")
UNSET = contextvars.ContextVar("UNSET")


def test_what_a_context_variable_holds_is_put_back_and_one_that_had_no_value_is_named():
    calls = []
    token = LISTED.set(calls)
    assert changes(Holder(LISTED, in_place(lambda kept: kept.get().append(1)))) == ""
    assert LISTED.get() is calls
    assert calls == []
    assert changes(Holder(UNSET, in_place(lambda kept: kept.set(1)))) == "kept (context variable)"
    LISTED.reset(token)


def test_no_optimizer_steps_and_no_loader_gives_a_batch_where_neither_can_be_put_back():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer, batches = torch.optim.SGD([weight], 0.5), iter(DataLoader([1, 2]))
    with without_lasting_steps(types.SimpleNamespace(optimizers=[optimizer])):
        for lasting in (optimizer.step, lambda: next(batches)):
            with pytest.raises(NotPutBack):
                lasting()
    assert weight.item() == 1
    optimizer.step()
    assert weight.item() == 0.5
    assert [batch.item() for batch in batches] == [1, 2]


def numbers():
    yield from range(9)


def ended():
    one = numbers()
    list(one)
    return one


ONE_WAY = {
    "generator function": (numbers(), True),
    "one that has ended": (ended(), False),
    "iterator of a list": (iter([1, 2]), False),
    "iterator of a list and a generator": (zip([1], numbers(), strict=False), True),
    "list": ([1], False),
}


@pytest.mark.parametrize("kept", ONE_WAY)
def test_what_goes_on_and_cannot_be_moved_back_is_one_way(kept):
    value, is_one_way = ONE_WAY[kept]
    assert Snapshot([Holder(value, None)]).is_one_way == is_one_way

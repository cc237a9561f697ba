"""Small autoencoders that keep state in every place but a buffer, and let what they return depend on it."""

import collections
import functools
import itertools
import random
from dataclasses import dataclass, field

import lightning
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import images

TABLE = {"calls": 0}
TOTAL = 0


class Base(lightning.LightningModule):
    """A small autoencoder whose subclasses let a number depend on the calls so far: ``number(images)``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ELU(), nn.Linear(16, 64))

    def number(self, x):
        return 0.0

    def state(self):
        return None

    def forward(self, x):
        return self.net(x).view_as(x) * (1 + 0.01 * self.number(x))

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch), batch)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class PythonCounter(Base):
    calls = 0

    def number(self, x):
        self.calls += 1
        return self.calls % 3

    def state(self):
        return self.calls


class ClassCounter(Base):
    calls = 0

    def __init__(self):
        super().__init__()
        type(self).calls = 0

    def number(self, x):
        type(self).calls += 1
        return self.calls % 3

    def state(self):
        return ClassCounter.calls


class MovingAverage(Base):
    """Rebound in every call, as in many hand-written EMAs."""

    def __init__(self):
        super().__init__()
        self.average = torch.zeros(())

    def number(self, x):
        self.average = 0.9 * self.average + 0.1 * x.detach().mean()
        return self.average

    def state(self):
        return self.average


class Codebook(Base):
    """A plain tensor and a parameter without gradients, both written to in place, as in VQ-VAEs."""

    def __init__(self):
        super().__init__()
        self.codes = torch.linspace(0, 1, 8)
        self.sizes = nn.Parameter(torch.ones(8), requires_grad=False)

    def number(self, x):
        nearest = (x.detach().flatten()[:, None] - self.codes).abs().argmin(1)
        counts = torch.bincount(nearest, minlength=8).float()
        self.sizes.data.mul_(0.9).add_(counts, alpha=0.1)
        self.codes += 0.01 * (counts > 0)
        return self.codes.mean() + self.sizes[0]

    def state(self):
        return self.codes, self.sizes


class ClipsWeights(Base):
    """Makes itself Lipschitz before it is evaluated."""

    def number(self, x):
        if not torch.is_grad_enabled():
            self.net[1].weight.data.clamp_(-0.1, 0.1)
            self.net[3].weight.mul_(0.999)
        return 0.0


class ArrayHistory(Base):
    def __init__(self):
        super().__init__()
        self.history, self.recent, self.seen = np.zeros(4), collections.deque(maxlen=3), []

    def number(self, x):
        self.history[len(self.seen) % 4] += float(x.detach().mean())
        self.recent.append(float(x.detach().mean()))
        self.seen.append(x.shape)
        return self.history.sum() + sum(self.recent)

    def state(self):
        return self.history, list(self.recent), self.seen


@dataclass
class Queue:
    items: list = field(default_factory=list)
    sizes: dict = field(default_factory=lambda: collections.defaultdict(int))


class NestedQueue(Base):
    """A MoCo-like queue in an object of its own."""

    def __init__(self):
        super().__init__()
        self.queue = Queue()

    def number(self, x):
        self.queue.items.append(x.detach().mean())
        self.queue.sizes[len(x)] += 1
        return torch.stack(self.queue.items[-5:]).mean() + self.queue.sizes[2]

    def state(self):
        return self.queue.items, dict(self.queue.sizes)


class HookClosure(Base):
    def __init__(self):
        super().__init__()
        self.seen = seen = []
        self.net[1].register_forward_hook(lambda module, inputs, output: seen.append(float(output.detach().mean())))
        self.net[3].register_forward_pre_hook(functools.partial(self.scale, [0]))

    @staticmethod
    def scale(calls, module, inputs):
        calls[0] += 1
        return inputs[0] * (1 + 0.01 * (calls[0] % 3))

    def number(self, x):
        return sum(self.seen[-3:])

    def state(self):
        return self.seen


class HookThatHooks(Base):
    def number(self, x):
        self.net[1].register_forward_hook(lambda module, inputs, output: output * 1.001)
        return 0.0

    def state(self):
        return len(self.net[1]._forward_hooks)


def global_number():
    global TOTAL
    TOTAL += 1
    TABLE["calls"] += 1
    return TOTAL % 3 + TABLE["calls"] % 2


class Globals(Base):
    def number(self, x):
        return global_number()

    def state(self):
        return TOTAL, dict(TABLE)


class Generators(Base):
    """Of every library, in lists, closures and objects; more than a hundred of them."""

    def __init__(self):
        super().__init__()
        self.many = [torch.Generator().manual_seed(seed) for seed in range(120)]
        hidden = np.random.default_rng(0)
        self.draw = lambda: hidden.random()
        self.tables = {"python": (random.Random(0), np.random.RandomState(0))}

    def number(self, x):
        python, legacy = self.tables["python"]
        tensors = sum(float(torch.rand((), generator=one)) for one in self.many[::17])
        return tensors + self.draw() + python.random() + legacy.rand()

    def state(self):
        return [one.get_state() for one in self.many], self.tables["python"][0].getstate()


class Streams(Base):
    """Iterators of the language."""

    def __init__(self):
        super().__init__()
        self.ids, self.scales, self.steps = itertools.count(), itertools.cycle([0.0, 1.0, 2.0]), iter(range(10**6))

    def number(self, x):
        return next(self.ids) % 5 + next(self.scales) + next(self.steps) % 7

    def state(self):
        return repr(self.ids), repr(self.steps.__reduce__())


class Gradients(Base):
    """Adds to gradients within forward, as test-time adaptation does, and freezes a layer for good at some call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def number(self, x):
        self.calls += 1
        with torch.enable_grad():
            (0.1 * self.net(x).square().mean()).backward()
        if self.calls == 12:
            self.net[1].bias.requires_grad_(False)
        return 0.0

    def state(self):
        return [(one.grad, one.requires_grad) for one in self.net.parameters()]


class ReplacesItsParts(Base):
    def number(self, x):
        if not hasattr(self, "first"):
            self.first = x.detach().mean()
            self.scale = nn.Linear(1, 1)
            self.act = nn.Tanh()
            self.net[2] = nn.GELU()
        return self.first + float(self.scale.weight.detach().sum())

    def state(self):
        return self.first, type(self.net[2]).__name__, list(self._modules)


class Slotted:
    __slots__ = ("__dict__", "calls", "names")

    def __init__(self):
        self.calls, self.names, self.more = 0, set(), bytearray()


class Slots(Base):
    def __init__(self):
        super().__init__()
        self.helper = Slotted()

    def number(self, x):
        self.helper.calls += 1
        self.helper.names.add(self.helper.calls)
        self.helper.more.append(1)
        return self.helper.calls % 3 + len(self.helper.names) % 2

    def state(self):
        return self.helper.calls, self.helper.names, bytes(self.helper.more)


class MonteCarloMasks(Base):
    """A mask that a cached function draws at its first call."""

    def __init__(self):
        super().__init__()
        self.mask = functools.lru_cache(lambda size: torch.rand(size))

    def number(self, x):
        return self.mask(3)[0]

    def state(self):
        return self.mask(3)


class LogsInForward(Base):
    def number(self, x):
        self.log("mean", x.detach().mean(), on_step=False, on_epoch=True)
        return 0.0

    def state(self):
        return self.trainer.callback_metrics["mean"]


class DeepMetric(Base):
    """A helper module of the user's own that is no submodule, in a tuple, with buffers and modes of its own."""

    def __init__(self):
        super().__init__()
        self.helpers = (nn.BatchNorm1d(64, affine=False),)

    def number(self, x):
        return self.helpers[0](x.flatten(1).repeat(2, 1)).square().mean()  # in training it refuses a single row

    def state(self):
        return self.helpers[0].state_dict()


class Data(lightning.LightningDataModule):
    """Counts in its batch hooks and in its loaders."""

    def __init__(self):
        super().__init__()
        self.calls, self.asked = itertools.count(), []

    def train_dataloader(self):
        return DataLoader(images(6), 2, shuffle=True)

    def val_dataloader(self):
        self.asked.append(1)
        return DataLoader(images(4, seed=1), 2)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        return batch * (1 + 0.01 * (next(self.calls) % 3) + 0.01 * len(self.asked))


class GeneratorFunction(Base):
    """Cannot be set back, and its place can be seen."""

    def __init__(self):
        super().__init__()
        self.helper = nn.Module()
        self.helper.stream = (number % 3 for number in range(10**6))

    def number(self, x):
        return next(self.helper.stream)


class HeldFast(Base):
    def __init__(self):
        super().__init__()
        self.streams = (itertools.count(), itertools.count())

    def number(self, x):
        return next(self.streams[1]) % 3


class OldCache(Base):
    def __init__(self):
        super().__init__()
        self.mask = functools.lru_cache(lambda size: torch.rand(size))
        self.mask(1)

    def number(self, x):
        return self.mask(len(x))[0]


RESTORED = (
    PythonCounter, ClassCounter, MovingAverage, Codebook, ClipsWeights, ArrayHistory, NestedQueue, HookClosure,
    HookThatHooks, Globals, Generators, Streams, Gradients, ReplacesItsParts, Slots, MonteCarloMasks, LogsInForward,
    DeepMetric, Base,
)  # fmt: skip
"""Those whose state can be put back."""


def forget_calls():
    """Set the global variables of this module back."""
    global TOTAL
    TOTAL = TABLE["calls"] = 0

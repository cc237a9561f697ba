"""A batch is given again: what is done to its images each time alike is told from what is drawn, without a trace."""

import threading

import lightning
import pytest
import torch
from smooth_images import photographs
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from training_runs import Items, audit_callback, trainer_with

from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.given_again import (
    ALWAYS,
    BY_BATCH,
    ONE_OF_FEW,
    Altered,
    GivenAgain,
    _Outcomes,
    altered,
)
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.reading.affine import Affine
from lightning_memaudit.callback.reading.group_reading import read_group
from lightning_memaudit.callback.reading.reader import Source
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.processes import Processes

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*", "ignore:members"),
]


class Prepares(lightning.LightningModule):
    """``prepare`` is what training_step does with its images, in training alone."""

    def __init__(self, prepare):
        super().__init__()
        self.network, self.prepare = nn.Conv2d(3, 3, 3, padding=1), prepare

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        images = self.prepare(batch) if self.training and self.trainer.training else batch
        return functional.mse_loss(self(images), images)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def place_noise(images):
    return images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def each(transform):
    return lambda images: torch.stack([transform(image) for image in images])


OWN = torch.Generator()
blurred = v2.GaussianBlur(3, 0.6)
WAYS = {
    "blurred": (blurred, ALWAYS),
    "equalized": (lambda images: v2.functional.equalize((255 * images).byte()) / 255, ALWAYS),
    "turned": (lambda images: v2.functional.rotate(images, 10), ALWAYS),
    "without a border": (lambda images: functional.pad(images[..., 2:-2, 2:-2], (2, 2, 2, 2)), ALWAYS),
    "stretched by the batch": (lambda images: (images - images.min()) / (images.max() - images.min()), BY_BATCH),
    "blurred, and flipped at random": (lambda images: each(v2.RandomHorizontalFlip())(blurred(images)), ONE_OF_FEW),
    "flipped at random": (v2.RandomHorizontalFlip(), None),
    "blurred at random": (v2.GaussianBlur(5, (0.1, 2.0)), None),
    "mixed with the next": (lambda images: 0.6 * images + 0.4 * images.roll(1, 0), None),
    "noise of each place": (place_noise, None),
    "cut at random": (v2.RandomResizedCrop(32, (0.6, 1.0), antialias=True), None),
    "noise of a generator": (lambda images: images + 0.1 * torch.randn(images.shape, generator=OWN), None),
}


def way_of(prepare, number=8):
    """In which way what ``prepare`` does to a batch comes again."""
    images = 0.8 * photographs(number) + 0.1
    module, trainer = Prepares(prepare), lightning.Trainer(accelerator="cpu", logger=False)
    module.trainer = trainer
    torch.manual_seed(1)
    before = Altered("network", 0, images, images, prepare(images))
    read = read_group(Source("members", images, list(range(number))), None, Normalization(), lambda batch: batch)
    return GivenAgain(Caller(trainer, module, ModelCall(), Processes()), Inspection([read]), before, images).way()


@pytest.mark.parametrize("name", WAYS)
def test_what_comes_again_each_time_is_told_from_what_is_drawn(name):
    prepare, expected = WAYS[name]
    assert way_of(prepare) == expected


def test_an_image_mixed_with_one_of_few_neighbors_is_no_doubt():
    assert way_of(lambda images: 0.6 * images + 0.4 * images.roll(1, 0), number=3) is None


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_what_is_nearly_the_image_is_no_doubt(factor):
    assert way_of(lambda images: factor * images) is None


def test_what_leaves_an_image_as_it_is_at_times_is_drawn_at_random():
    images = photographs(4)
    flipped = images.flip(-1)
    for first, second, is_drawn in ((blurred(images), blurred(flipped), False), (flipped, images, True)):
        outcomes = _Outcomes(Altered("", 0, images, images, first))
        assert outcomes.add(first)
        assert outcomes.are_one
        assert outcomes.add(second) != is_drawn
        assert not outcomes.are_one


def test_what_the_batch_holds_beside_the_images_and_members_that_were_passed_prepared_are_not_altered():
    images = photographs(8)
    seen = blurred(images)

    def read_as(members, beside=()):
        source = Source("members", members, list(range(8)), None, given=True)
        read = read_group(source, None, Normalization(), lambda batch: batch)
        found = Inspection([read], hashes={"members": image_hashes(Group.whole("members", members))})
        return altered(found, "", 0, images, [seen], Affine(), beside)

    assert read_as(images).change > 0
    assert read_as(images, beside=[2 * seen - 1]) is None
    assert read_as(torch.stack([*images[:4], *seen[4:]])) is None
    assert read_as(seen) is None


class Busy(Prepares):
    """Does by itself what may go wrong when a step is begun twice."""

    def __init__(self):
        super().__init__(blurred)
        self.automatic_optimization = False
        self.generator, self.seen = torch.Generator().manual_seed(0), []

    def training_step(self, batch, batch_idx):
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.param_groups[0]["momentum"] *= 0.9
        schedule.step()
        self.seen.append(len(self.seen) + float(torch.rand((), generator=self.generator)))
        self.log("seen", self.seen[-1])
        if batch_idx == 1:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) * torch.rand(()) * self.seen[-1])
        optimizer.step()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
def test_the_training_goes_on_as_if_no_step_had_been_begun_again():
    images, ends = photographs(16), []
    for callbacks in ([], [audit_callback(controls=Items(photographs(20)[16:]))]):
        torch.manual_seed(0)
        module = Busy()
        trainer_with(*callbacks, max_epochs=2).fit(module, DataLoader(Items(images), 8))
        ends.append((module.network.weight.detach(), module.seen, module.trainer.callback_metrics["seen"]))
    assert [doubt["code"] for doubt in callbacks[0].last_report.doubts] == ["called_otherwise"]
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


class Takes(Prepares):
    """From a dataloader of its own, by a generator or not."""

    def __init__(self, by_generator):
        super().__init__(blurred)
        more = DataLoader(photographs(200), 8)
        self.more = (batch for batch in more) if by_generator else iter(more)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch + next(self.more)[: len(batch)], batch_idx)


class Endless:
    """Gives images without end, one at a time, by a generator function that nobody else sees."""

    def __init__(self, images):
        self.images, self.stream = images, self.each()

    def each(self):
        while True:
            yield from self.images

    def several(self, count):
        return torch.stack([next(self.stream) for _ in range(count)])


class Asks(Prepares):
    """Another object for more images."""

    def __init__(self):
        super().__init__(blurred)
        self.more = Endless(photographs(200))

    def training_step(self, batch, batch_idx):
        return super().training_step(torch.cat([batch, self.more.several(4)]), batch_idx)


class Holds(Prepares):
    """A lock that is never left otherwise than at the end of the step."""

    def __init__(self):
        super().__init__(blurred)
        self.lock = threading.Lock()

    def training_step(self, batch, batch_idx):
        self.lock.acquire()
        loss = super().training_step(batch, batch_idx)
        self.lock.release()
        return loss


class Writes(Prepares):
    """What it has been given, into a file, by a method of its own."""

    def __init__(self, path):
        super().__init__(blurred)
        self.path = path

    def note(self, batch):
        with self.path.open("a") as file:
            file.write(f"{len(batch)}\n")

    def training_step(self, batch, batch_idx):
        self.note(batch)
        return super().training_step(batch, batch_idx)


STEPS = {
    "takes": lambda path: Takes(by_generator=False),
    "takes by a generator": lambda path: Takes(by_generator=True),
    "asks": lambda path: Asks(),
    "holds": lambda path: Holds(),
    "writes": Writes,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_cannot_be_left_without_a_trace_is_not_begun_again(name, tmp_path):
    images, ends = photographs(16), []
    for number, callbacks in enumerate(([], [audit_callback(controls=Items(photographs(20)[16:]))])):
        torch.manual_seed(0)
        path = tmp_path / str(number)
        path.touch()
        module = STEPS[name](path)
        trainer_with(*callbacks, max_epochs=2).fit(module, DataLoader(Items(images), 8))
        ends.append((module.network.weight.detach(), path.read_text()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


MENDS = {
    "members": {"members": Items(blurred(photographs(20)[:16])), "controls": Items(blurred(photographs(20)[16:]))},
    "reconstruct": {
        "reconstruct": lambda module, images: module(blurred(images)),
        "controls": Items(photographs(20)[16:]),
    },
}


@pytest.mark.parametrize("name", MENDS)
def test_the_mends_leave_no_doubt(name, recwarn):
    callback = audit_callback(**MENDS[name])
    trainer_with(callback, max_epochs=2).fit(Prepares(blurred), DataLoader(Items(photographs(20)[:16]), 8))
    assert callback.last_report.doubts == []
    said = [str(one.message) for one in recwarn if "members: " in str(one.message)]
    assert all("unless training_step makes those of them" in text for text in said)

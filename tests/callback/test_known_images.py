"""Which of the images that were read are among the batches of a training, in any precision and order."""

import pytest
import torch
from training_runs import images

from lightning_memaudit.callback.given_images import GivenImages
from lightning_memaudit.callback.given_record import GivenRecord
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.reading.group_reading import read_group
from lightning_memaudit.callback.reading.reader import Source
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.own_output import Doubt

pytestmark = pytest.mark.usefixtures("reads_here")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("normalization", [Normalization(), Normalization([0.45, 0.5, 0.4], [0.2, 0.25, 0.3])])
def test_counts_are_those_of_exact_comparison(seed, normalization):
    generator = torch.Generator().manual_seed(seed)
    whole = (255 * images(300, seed=seed, shape=(3, 8, 8))).round() / 255
    audited = {"members": range(100), "controls": range(100, 160)}
    reads = [
        read_group(
            Source(name, list(normalization.apply(whole[list(rows)])), list(range(len(rows)))),
            None,
            normalization,
            lambda batch: batch,
        )
        for name, rows in audited.items()
    ]
    given = GivenImages()
    given.watch(Inspection(reads, {read.group.name: image_hashes(read.group) for read in reads}))
    drawn = [torch.randint(300, (16,), generator=generator) for _ in range(8)]
    for rows in drawn:
        given.look(normalization.apply(whole[rows]))
    truth = set(torch.cat(drawn).tolist())
    found = {
        doubt.code: [int(word) for word in doubt.text.split() if word.isdigit()] for doubt in given.doubts(Processes())
    }
    assert found["members_not_given"] == [100 - len(truth & set(range(100))), 100, 128]
    assert found["controls_given"] == [len(truth & set(range(100, 160))), 60]
    again = GivenImages(GivenRecord.of(given.record.state_dict()))
    again.watch(Inspection(reads, {read.group.name: image_hashes(read.group) for read in reads}))
    assert again.doubts(Processes()) == given.doubts(Processes())


def known(whole, normalization=None, precision=torch.float32, controls=None):
    normalization = normalization or Normalization()
    reads = []
    for name, some in (("members", whole), ("controls", controls)):
        if some is not None:
            source = Source(name, list(normalization.apply(some)), list(range(len(some))))
            reads.append(read_group(source, None, normalization, lambda batch: batch))
    given = GivenImages()
    given.watch(Inspection(reads, {read.group.name: image_hashes(read.group) for read in reads}), precision)
    return given


def found_in(given, *batches):
    for batch in batches:
        given.look(batch)
    given.end_epoch(Processes())
    return sum(last == given.record.num_epochs for _, last in given.record.given.values())


def test_an_image_with_one_value_off_by_one_level_is_another_image():
    whole = (255 * images(2, shape=(3, 64, 64))).round() / 255
    whole[1] = whole[0]
    whole[1, 1, 30, 30] += 1 / 255 if whole[1, 1, 30, 30] < 0.5 else -1 / 255
    given = known(whole)
    assert found_in(given, whole[:1]) == 1
    assert found_in(given, whole[1:]) == 1


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 64, 64), (1, 600, 600), (1, 40, 40, 40)])
def test_other_images_are_none_of_the_known_ones(shape):
    whole = images(30, shape=shape)
    given = known(whole[:20])
    assert found_in(given, whole[20:]) == 0
    assert found_in(given, whole[15:]) == 5


@pytest.mark.parametrize("share", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "normalization", [Normalization(), Normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
)
def test_batches_in_half_precision_hold_the_images_dark_ones_too(precision, share, normalization):
    bright = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(3)) < share
    whole = images(40, shape=(3, 32, 32)) * bright
    whole[:, :, 0, :20] = images(40, seed=7, shape=(3, 20))  # what tells the dark ones apart
    others = images(40, seed=5, shape=(3, 32, 32)) * bright
    given = known(whole, normalization, precision)
    near = whole + 0.01 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))  # 40 dB
    assert found_in(given, normalization.apply(others).to(precision)) == 0
    assert found_in(given, normalization.apply(near).to(precision)) == 0
    assert found_in(given, normalization.apply(whole).to(precision)) == 40


def test_what_other_devices_round_otherwise_is_the_same_image():
    whole, generator = images(20, shape=(3, 32, 32)), torch.Generator().manual_seed(2)
    assert found_in(known(whole), whole + 1e-7 * torch.randn(whole.shape, generator=generator)) == 20
    given, stored = known(whole, precision=torch.bfloat16), whole.to(torch.bfloat16)
    stored[:, 0, 0, :3] = (stored[:, 0, 0, :3].view(torch.int16) + 1).view(torch.bfloat16)  # the next ones
    assert found_in(given, stored) == 20


def test_controls_of_another_size_are_not_looked_for():
    given = known(images(4), controls=images(4, shape=(1, 16, 16)))
    assert found_in(given, images(4), images(4, shape=(1, 16, 16))) == 4


def test_batches_of_another_size_hold_none_and_count():
    given = known(images(4))
    assert found_in(given, images(4, shape=(1, 16, 16)), {"other": "things"}) == 0
    assert given.record.num_images == 4


def test_the_defaults_of_a_run_in_double_precision_do_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        given = known(images(4))
        assert found_in(given, images(4).double()) == 4
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_goes_wrong_with_looking_ends_the_looking_and_no_training(monkeypatch):
    given = known(images(20))
    monkeypatch.setattr(given._known, "count", lambda batch: 1 / 0)
    given.look(images(10))
    given.look(images(10))
    with pytest.warns(UserWarning, match="could not be seen: ZeroDivisionError"):
        assert given.doubts(Processes()) == []


class TwoProcesses(Processes):
    """Gathers what another process has found as well; both have the same share of the work."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def gather(self, value):
        return [(0, value), (1, self.other)]


def test_what_the_other_process_was_given_counts_in_both():
    whole = images(20)
    records = []
    for rank, mine, other in ((0, slice(0, 8), slice(8, 20)), (1, slice(8, 20), slice(0, 8))):
        given = known(whole)
        given.look(whole[mine])
        which = torch.zeros(20, dtype=torch.bool)
        which[other] = True
        learned = which.numpy(), which.numpy()  # each in one batch of the other process, and left out in another
        given.end_epoch(TwoProcesses((int(which.sum()), which.numpy(), None, [], None, False, learned, {(1, 8, 8)})))
        records.append(given.record)
        assert len(given.record.given) == 20, rank
        assert len(given.record.learned) == int(which.sum())
        assert not given.record.left_out
        given.record.learned.clear()
    assert records[0].state_dict() == records[1].state_dict()


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_call_that_differs_is_remembered_until_it_is_seen_again(num_epochs):
    doubt = Doubt("called_otherwise", "the training gives Net y beside the images, and the audit does not")
    given = known(images(4))
    given._found.doubts.append(doubt)
    given._found.called = True
    for _ in range(num_epochs):
        given.look(images(4))
        assert given.doubts(Processes()) == [doubt]
    again = known(images(4))
    again.record = GivenRecord.of(given.record.state_dict())
    assert again.doubts(Processes()) == [doubt]  # before the first step of the resumed run
    again._found.called = True
    assert again.doubts(Processes()) == []  # which passes what it had to


@pytest.mark.parametrize("kind", [tuple, torch.stack])
def test_members_in_tuples_are_found_in_batches_that_are_tensors(kind):
    given = known(images(20))
    assert found_in(given, images(20)) == 20
    source = Source("members", [(image,) for image in images(20)], list(range(20)))
    read = read_group(source, None, Normalization(), lambda batch: batch)
    given = GivenImages()
    given.watch(Inspection([read], {"members": image_hashes(read.group)}))
    assert found_in(given, images(20) if kind is torch.stack else (images(20),)) == 20


def test_of_very_many_members_some_are_looked_for(monkeypatch):
    monkeypatch.setattr("lightning_memaudit.callback.given_images.MOST_WATCHED", 8)
    whole = images(30, seed=4)
    read = read_group(Source("members", whole, list(range(30))), None, Normalization(), lambda batch: batch)
    given = GivenImages()
    given.watch(Inspection([read], {"members": image_hashes(read.group)}))
    given.look(whole[:13])  # of the eight that are watched: 0, 4, 8, 12
    found = {d.code: [int(word) for word in d.text.split() if word.isdigit()] for d in given.doubts(Processes())}
    assert found == {"members_not_yet_given": [4, 8, 13]}

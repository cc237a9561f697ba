"""What the training was given, against what the data set itself noted while the training asked it."""

import pickle
import warnings

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler, get_worker_info
from training_runs import Items, Module, audit_callback, images, trainer_with

from lightning_memaudit.callback.given_images import GivenImages
from lightning_memaudit.callback.given_record import GivenRecord
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.reading.group_reading import read_group
from lightning_memaudit.callback.reading.reader import Source
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.measurement.identity import image_hashes
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.own_output import Doubt

NUM = 20
MEMBERS, CONTROLS = images(NUM), images(NUM, seed=1)


def code_and_numbers(doubts):
    return {doubt["code"]: [int(word) for word in doubt["text"].split() if word.isdigit()] for doubt in doubts}


class Watched(Module):
    """Notes what it is given in training."""

    def __init__(self, step=lambda x: x):
        super().__init__()
        self.step = step
        object.__setattr__(self, "epochs", [])

    def on_train_epoch_start(self):
        self.epochs.append(set())

    def training_step(self, batch, batch_idx):
        self.epochs[-1].update(image.numpy().tobytes() for image in batch)
        return super().training_step(self.step(batch), batch_idx)


def run(train, module=None, callback=None, max_epochs=3, **arguments):
    """The doubts of the last audit, the warnings about given images, and what the module noted."""
    module = module or Watched()
    loader = train if isinstance(train, DataLoader) else DataLoader(train, 5, shuffle=True)
    callback = callback or audit_callback(num_members=NUM, num_controls=NUM)
    trainer = trainer_with(callback, max_epochs=max_epochs, num_sanity_val_steps=0, **arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, loader, DataLoader(Items(CONTROLS), 5))
    words = ("seen in the training's batches", "and are no longer")
    told = [str(one.message) for one in caught if any(part in str(one.message) for part in words)]
    return code_and_numbers(callback.last_report.doubts), told, module


def noted(module, audited, epoch=None):
    epochs = module.epochs if epoch is None else [module.epochs[epoch]]
    return len(set().union(*epochs) & {image.numpy().tobytes() for image in audited})


class CachesAugmented(Dataset):
    """Moves an image at random where it is read first, and keeps it so."""

    def __init__(self, share):
        self.share, self.kept = share, {}

    def __len__(self):
        return NUM

    def __getitem__(self, index):
        if index not in self.kept:
            is_moved = torch.rand(()) < self.share
            self.kept[index] = MEMBERS[index].roll(1 + int(torch.randint(7, ())), 2) if is_moved else MEMBERS[index]
        return self.kept[index]


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_members_that_a_cache_gave_to_the_audit_alone_are_counted(share):
    lightning.seed_everything(0)
    callback = audit_callback(num_members=NUM, num_controls=NUM, save_recoveries=NUM)
    doubts, told, module = run(CachesAugmented(share), callback=callback)
    audited = torch.from_numpy(callback.last_report.recoveries["members/truth"])
    missing, members, count = doubts["members_not_given"]
    assert (NUM - missing, members, count) == (noted(module, audited), NUM, 3 * NUM)
    assert missing > 0
    assert len(told) == 1


class Exchanged(Watched):
    """From an epoch on, other images take the places of some."""

    def __init__(self, data, others, begin=1):
        super().__init__()
        self.data, self.others, self.begin = data, others, begin

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == self.begin:
            self.data.items = torch.cat([self.others, self.data.items[len(self.others) :]])


@pytest.mark.parametrize("number", [10, 20])
@pytest.mark.parametrize(("begin", "max_epochs", "is_told"), [(1, 3, False), (1, 8, True), (5, 9, True)])
def test_images_that_are_exchanged_in_the_middle_are_counted(number, begin, max_epochs, is_told):
    data = Items(MEMBERS)
    module = Exchanged(data, images(number, seed=2), begin)
    doubts, told, _ = run(data, module=module, max_epochs=max_epochs)
    assert (noted(module, MEMBERS, 0), noted(module, MEMBERS, -1)) == (NUM, NUM - number)
    assert doubts == ({"members_left_out": [number, NUM]} if is_told else {})
    assert len(told) == is_told


def test_few_exchanged_images_are_no_matter():
    data = Items(MEMBERS)
    doubts, told, _ = run(data, module=Exchanged(data, images(2, seed=2)), max_epochs=8)
    assert (doubts, told) == ({}, [])


def test_controls_that_join_the_training_are_counted():
    data = Items(MEMBERS)
    doubts, told, module = run(data, module=Exchanged(data, CONTROLS[:3]))
    assert noted(module, CONTROLS) == 3
    assert doubts == {"controls_given": [3, NUM]}
    assert len(told) == 1


class Shards(IterableDataset):
    """Gives each worker a part of its own, one after the other."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        worker = get_worker_info()
        each = len(self.items) // worker.num_workers
        yield from self.items[worker.id * each : (worker.id + 1) * each]


def test_parts_of_a_stream_that_only_the_audit_reads_are_counted():
    stream = DataLoader(Shards(images(80)), 10, num_workers=2)
    doubts, told, module = run(stream, limit_train_batches=2, max_epochs=3)
    missing, members, count = doubts["members_not_given"]
    assert (members, count) == (NUM, 3 * NUM)
    assert NUM - missing == noted(module, images(80)[:NUM])
    assert len(told) == 1


def flips(image):
    return image.flip(-1) if torch.rand(()) < 0.5 else image


@pytest.mark.parametrize(
    ("train", "how"),
    [
        (DataLoader(Items(MEMBERS), 5, shuffle=True), {}),
        (DataLoader(Items(MEMBERS), 3, shuffle=True, drop_last=True), {"max_epochs": 4}),
        (DataLoader(Items(MEMBERS), 5, sampler=WeightedRandomSampler(torch.ones(NUM), NUM)), {"max_epochs": 8}),
        (DataLoader(Items(MEMBERS), 5, shuffle=True, num_workers=1), {"reload_dataloaders_every_n_epochs": 1}),
        (DataLoader(Items(MEMBERS), 5, shuffle=True), {"max_epochs": 20, "limit_train_batches": 1}),
        (DataLoader(Items(MEMBERS), 5, shuffle=True), {"max_epochs": -1, "max_steps": 6}),
        (DataLoader(Items((255 * MEMBERS).to(torch.uint8)), 5, shuffle=True), {"module": Module(lambda x: x / 255)}),
    ],
)
def test_runs_that_give_their_members_are_not_doubted(train, how):
    lightning.seed_everything(0)
    doubts, told, _ = run(train, **how)
    assert (doubts, told) == ({}, [])


def test_images_that_come_flipped_half_of_the_time_are_given():
    lightning.seed_everything(0)
    doubts, _, _ = run(Items(MEMBERS, flips), max_epochs=12)
    assert doubts == {}


def test_images_that_never_come_as_they_were_read_are_a_doubt():
    lightning.seed_everything(0)
    doubts, told, _ = run(Items(MEMBERS, lambda image: image.roll(int(torch.randint(64, ())), 1) * torch.rand(())))
    assert doubts == {"members_not_given": [NUM, NUM, 3 * NUM]}
    assert told == []  # reading them twice has told it before


@pytest.mark.parametrize("resumed", [False, True])
def test_what_was_given_before_a_run_was_resumed_counts(resumed):
    loader, controls = DataLoader(Items(MEMBERS), 5), DataLoader(Items(CONTROLS), 5)
    trainer = trainer_with(audit_callback(), max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(Module(), loader, controls)
    trainer.save_checkpoint("first.ckpt")
    callback = audit_callback(members=Items(MEMBERS), controls=Items(CONTROLS))
    trainer = trainer_with(callback, max_epochs=2, limit_train_batches=1, num_sanity_val_steps=0)
    trainer.fit(Module(), loader, controls, ckpt_path="first.ckpt" if resumed else None)
    codes = {doubt["code"] for doubt in callback.last_report.doubts}
    assert codes == (set() if resumed else {"members_not_yet_given"})


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
        given.end_epoch(TwoProcesses((int(which.sum()), which.numpy(), None, [], None, False)))
        records.append(given.record)
        assert len(given.record.given) == 20, rank
    assert records[0].state_dict() == records[1].state_dict()


@pytest.mark.parametrize("number", [0, 10])
@pytest.mark.parametrize("augmented", [False, True])
def test_passed_members_that_are_not_trained_on_are_a_doubt_where_nothing_changes_the_images(number, augmented):
    data = Items(MEMBERS, (lambda image: image.roll(int(torch.randint(8, ())), 1)) if augmented else (lambda x: x))
    members = torch.cat([MEMBERS[:number], images(NUM - number, seed=2)])
    callback = audit_callback(members=Items(members), controls=Items(CONTROLS))
    doubts, told, _ = run(data, callback=callback)
    assert doubts == ({} if augmented else {"members_not_given": [NUM - number, NUM, 3 * NUM]})
    assert len(told) == (number > 0 and not augmented)  # of none, the first batch has told


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


def test_a_callback_can_be_pickled_after_a_run():
    callback = audit_callback(num_members=NUM, num_controls=NUM)
    data = DataLoader(Items(MEMBERS, lambda image: image), 5)
    trainer_with(callback, max_epochs=1).fit(Module(), data, DataLoader(Items(CONTROLS), 5))
    assert len(pickle.loads(pickle.dumps(callback))._history.given.given) == NUM


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
    found = code_and_numbers(doubt._asdict() for doubt in given.doubts(Processes()))
    assert found == {"members_not_yet_given": [4, 8, 13]}

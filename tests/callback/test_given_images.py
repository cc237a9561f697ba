"""What the training was given, against what the data set itself noted while the training asked it."""

import pickle
import warnings

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler, get_worker_info
from training_runs import Items, Module, audit_callback, images, trainer_with

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


def run(train, module=None, callback=None, max_epochs=3, others=None, **arguments):
    """The doubts of the last audit, the warnings about given images, and what the module noted."""
    module = module or Watched()
    loader = train if isinstance(train, DataLoader) else DataLoader(train, 5, shuffle=True)
    callback = callback or audit_callback(num_members=NUM, num_controls=NUM)
    trainer = trainer_with(callback, max_epochs=max_epochs, num_sanity_val_steps=0, **arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, loader, DataLoader(others or Items(CONTROLS), 5))
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


@pytest.mark.usefixtures("reads_here")
@pytest.mark.parametrize("number", [10, 20])
@pytest.mark.parametrize(("begin", "max_epochs", "is_told"), [(1, 3, False), (1, 8, True), (5, 9, True)])
def test_images_that_are_exchanged_in_the_middle_are_counted(number, begin, max_epochs, is_told):
    data = Items(MEMBERS)
    module = Exchanged(data, images(number, seed=2), begin)
    doubts, told, _ = run(data, module=module, max_epochs=max_epochs)
    assert (noted(module, MEMBERS, 0), noted(module, MEMBERS, -1)) == (NUM, NUM - number)
    assert doubts == ({"members_left_out": [number, NUM]} if is_told else {})
    assert len(told) == is_told


@pytest.mark.usefixtures("reads_here")
def test_few_exchanged_images_are_no_matter():
    data = Items(MEMBERS)
    doubts, told, _ = run(data, module=Exchanged(data, images(2, seed=2)), max_epochs=8)
    assert (doubts, told) == ({}, [])


@pytest.mark.usefixtures("reads_here")
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


class TakesItself(Watched):
    """Takes its batches from the iterator, as Lightning's experimental form has it."""

    def __init__(self):
        super().__init__(lambda batch: batch[0])

    def training_step(self, dataloader_iter):
        batch, batch_idx, _ = next(dataloader_iter)
        self.epochs[-1].update(image.numpy().tobytes() for image in batch[0])
        return Module.training_step(self, self.step(batch), batch_idx)


def test_batches_that_the_step_takes_itself_are_seen_after_it(recwarn):
    doubts, told, module = run(TensorDataset(MEMBERS), TakesItself(), max_epochs=1)
    assert noted(module, MEMBERS) == NUM
    assert not doubts
    assert not told


def test_of_batches_that_the_step_takes_itself_those_that_it_did_not_take_are_counted():
    doubts, _, module = run(TensorDataset(MEMBERS), TakesItself(), limit_train_batches=2, max_epochs=1)
    assert noted(module, MEMBERS) == NUM // 2
    assert doubts == {"members_not_yet_given": [NUM // 2, NUM, NUM // 2]}


class Normalizes(TakesItself):
    """Normalizes what it takes, and calls its forward pass on that."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def training_step(self, dataloader_iter):
        x = self.scale * next(dataloader_iter)[0][0] + self.shift
        return torch.nn.functional.mse_loss(self(x), x)


def test_what_a_step_makes_of_the_batches_that_it_takes_itself_is_refused():
    trainer = trainer_with(audit_callback(), max_epochs=1)
    with pytest.raises(ValueError, match=r"training_step gives the model \(image - 0.5\) / 0.5 .* pass reconstruct="):
        trainer.fit(Normalizes(2, -1), DataLoader(TensorDataset(MEMBERS), 5, shuffle=True))
    assert trainer.global_step == 1


def test_of_a_step_that_takes_its_batches_itself_and_does_nothing_to_them_nothing_is_said():
    trainer = trainer_with(audit_callback(every_n_epochs=1), max_epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Normalizes(1, 0), DataLoader(TensorDataset(MEMBERS), 5, shuffle=True))
    assert not [str(one.message) for one in caught if "members: " in str(one.message)]


def test_parts_of_a_stream_that_only_the_audit_reads_are_counted():
    stream = DataLoader(Shards(images(80)), 10, num_workers=2)
    doubts, told, module = run(stream, limit_train_batches=2, max_epochs=3)
    missing, members, count = doubts["members_not_given"]
    assert (members, count) == (NUM, 3 * NUM)
    assert NUM - missing == noted(module, images(80)[:NUM])
    assert len(told) == 1


def flips(image):
    return image.flip(-1) if torch.rand(()) < 0.5 else image


@pytest.mark.usefixtures("reads_here")
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


def drawn(image):
    return image.roll(int(torch.randint(64, ())), 1) * torch.rand(())


class Stream(IterableDataset):
    """Controls that are drawn like the members, and read but once."""

    def __iter__(self):
        yield from map(drawn, CONTROLS)


def test_of_a_stream_that_is_read_once_it_is_not_said_that_it_is_read_otherwise():
    lightning.seed_everything(0)
    doubts, _, _ = run(Items(MEMBERS, drawn), callback=audit_callback(num_controls=NUM), others=Stream())
    assert list(doubts) == ["members_not_given"]


@pytest.mark.parametrize("alike", [True, False])
def test_images_that_never_come_as_they_were_read_are_a_doubt_and_controls_that_are_read_otherwise(alike):
    lightning.seed_everything(0)
    bright = Items(CONTROLS, drawn if alike else lambda image: image.roll(3, 1) * 0.5)
    doubts, told, _ = run(Items(MEMBERS, drawn), others=bright)
    assert doubts.pop("members_not_given") == [NUM, NUM, 3 * NUM]
    assert list(doubts) == ([] if alike else ["prepared_otherwise"])
    assert told == []  # reading them twice has told it before


@pytest.mark.usefixtures("reads_here")
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


@pytest.mark.parametrize("number", [0, 10])
@pytest.mark.parametrize("augmented", [False, True])
def test_passed_members_that_are_not_trained_on_are_a_doubt_where_nothing_changes_the_images(number, augmented):
    data = Items(MEMBERS, (lambda image: image.roll(int(torch.randint(8, ())), 1)) if augmented else (lambda x: x))
    members = torch.cat([MEMBERS[:number], images(NUM - number, seed=2)])
    callback = audit_callback(members=Items(members), controls=Items(CONTROLS))
    doubts, told, _ = run(data, callback=callback)
    assert doubts == ({} if augmented else {"members_not_given": [NUM - number, NUM, 3 * NUM]})
    assert len(told) == (number > 0 and not augmented)  # of none, the first batch has told


@pytest.mark.usefixtures("reads_here")
def test_a_callback_can_be_pickled_after_a_run():
    callback = audit_callback(num_members=NUM, num_controls=NUM)
    data = DataLoader(Items(MEMBERS, lambda image: image), 5)
    trainer_with(callback, max_epochs=1).fit(Module(), data, DataLoader(Items(CONTROLS), 5))
    assert len(pickle.loads(pickle.dumps(callback))._history.given.given) == NUM


@pytest.mark.usefixtures("reads_here")
def test_batches_that_are_filled_up_to_a_size_are_read_alike_twice(recwarn):
    def filled(items):
        return torch.cat([torch.stack(items), torch.zeros(6 - len(items), 1, 8, 8)])

    train = DataLoader(Items(MEMBERS), 6, shuffle=True, collate_fn=filled)
    trainer_with(audit_callback(), max_epochs=1).fit(Module(), train, DataLoader(Items(CONTROLS), 5))
    assert not [one for one in recwarn if "random augmentation" in str(one.message)]


class HoldsImages(Module):
    """Its batches say which of them it trains on."""

    def training_step(self, batch, batch_idx):
        return super().training_step(MEMBERS[batch], batch_idx)


def test_places_of_images_in_batches_are_no_images():
    callback = audit_callback(members=Items(MEMBERS), num_controls=NUM)
    doubts, told, _ = run(DataLoader(range(NUM), 5, shuffle=True), HoldsImages(), callback)
    assert (doubts, told) == ({}, [])

"""What follows from what a training was given: against simulated samplers, augmentation and exchanges."""

import numpy as np
import pytest

from lightning_memaudit.callback.given_record import Epoch, GivenRecord, Members


def digests(count, begin=0):
    return [f"{index:016d}" for index in range(begin, begin + count)]


def epoch(given, num_images=None):
    return Epoch(len(given) if num_images is None else num_images, frozenset(given))


def test_members_that_are_looked_for_only_since_a_resumption_are_not_called_missing():
    record = GivenRecord()
    record.watch(digests(8))
    record.add(epoch(digests(8), 40))
    again = GivenRecord.of(record.state_dict())
    again.watch(digests(40))
    again.add(epoch(digests(3), 10))
    assert again.doubts(Members(digests(40), 40), []) == []
    once_more = GivenRecord.of(again.state_dict())
    once_more.watch(digests(40))
    once_more.add(epoch(digests(3), 40))
    assert once_more.doubts(Members(digests(40), 40), []) == []


def test_what_came_before_a_checkpoint_in_the_first_epoch_is_not_called_missing():
    record = GivenRecord()
    record.watch(digests(20))
    again = GivenRecord.of(record.state_dict())
    again.is_whole = False  # resumed after some steps
    again.watch(digests(20))
    again.add(epoch(digests(12), 60))
    assert again.doubts(Members(digests(20), 60), []) == []


@pytest.mark.parametrize("state", [None, {"which": [], "num_images": 3}, GivenRecord(is_whole=False).state_dict()])
def test_of_a_training_that_was_not_watched_from_the_beginning_nothing_is_missing(state):
    record = GivenRecord.of(state)
    record.watch(digests(40))
    record.add(epoch(digests(10), 60))
    assert record.doubts(Members(digests(40), 40), []) == []
    assert [one.code for one in record.doubts(Members(digests(40), 40), digests(4))] == ["controls_given"]


@pytest.mark.parametrize("epochs", [1, 3, 10, 40, 160])
def test_passed_members_that_augmentation_leaves_as_they_are_by_chance_are_no_doubt(epochs):
    generator = np.random.default_rng(0)
    record = GivenRecord()
    record.watch(digests(200))
    for _ in range(epochs):
        given = frozenset(one for one in digests(200) if generator.random() < 1 / 160)
        record.add(Epoch(200, given, repeats=False))
    assert record.doubts(Members(digests(200), 200, passed=True), []) == []
    assert [one.code for one in record.doubts(Members(digests(200), 200), [])] == ["members_not_given"]


@pytest.mark.parametrize("batch_size", [4, 10, 20])
def test_whole_batches_that_are_flipped_half_of_the_time_are_hardly_ever_taken_for_other_images(batch_size):
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(50):
        record = GivenRecord()
        record.watch(digests(20))
        for _ in range(30):
            batches = generator.permutation(20).reshape(-1, batch_size)
            kept = [batch for batch in batches if generator.random() < 0.5]
            record.add(Epoch(20, frozenset(digests(20)[row] for batch in kept for row in batch), repeats=False))
            found = record.doubts(Members(digests(20), 20), [])
            alarms += any(one.code == "members_left_out" for one in found)
    assert alarms <= 0.02 * 50 * 30


def test_subsets_that_take_turns_are_not_taken_for_other_images():
    record = GivenRecord()
    record.watch(digests(20))
    for number in range(12):
        record.add(epoch(digests(20)[number % 4 :: 4]))
        assert [
            one.code for one in record.doubts(Members(digests(20), 5, certain=False), []) if "left" in one.code
        ] == []


def draw(kind, generator, number, num_images):
    """The images of an epoch, as such samplers choose them."""
    weights = np.ones(number)
    if kind == "weights 10 to 1":
        weights[number // 2 :] = 0.1
    if kind == "batches of one class":
        chosen = generator.choice(10, 3, replace=False)
        weights = np.isin(np.arange(number) % 10, chosen).astype(float)
    return generator.choice(number, num_images, p=weights / weights.sum())


@pytest.mark.parametrize("members", [5, 20, 100, 1000])
@pytest.mark.parametrize("kind", ["uniform", "weights 10 to 1", "batches of one class", "a tenth"])
def test_samplers_that_draw_at_random_hardly_ever_raise_an_alarm(kind, members):
    generator, alarms, audits = np.random.default_rng(members), 0, 0
    number = 1000
    for _ in range(40):
        record, audited = GivenRecord(), generator.choice(number, members, replace=False)
        names = np.array(digests(number))
        record.watch(names[audited])
        for _ in range(10):
            drawn = draw(kind, generator, number, {"a tenth": 100, "batches of one class": 300}.get(kind, number))
            record.add(epoch(set(names[drawn]) & set(names[audited]), len(drawn)))
            found = record.doubts(Members(list(names[audited]), number, certain=False), [])
            alarms += any(one.code != "members_not_yet_given" for one in found)
            audits += 1
    assert alarms <= 0.02 * audits


@pytest.mark.parametrize(
    ("share", "doubted"), [(1.0, False), (0.5, False), (0.25, False), (0.02, True), (1 / 160, True)]
)
@pytest.mark.parametrize("epochs", [60, 500])
def test_members_that_seldom_come_as_they_were_audited_are_a_doubt(share, doubted, epochs):
    generator = np.random.default_rng(1)
    record = GivenRecord()
    record.watch(digests(20))
    record.add(epoch(digests(20)))  # the first epoch gives them as the audit has read them
    for _ in range(epochs - 1):
        record.add(epoch([one for one in digests(20) if generator.random() < share], 20))
    codes = [one.code for one in record.doubts(Members(digests(20), 20), [])]
    assert ("members_not_given" in codes or "members_left_out" in codes) == doubted
    assert record.doubts(Members(digests(20), 20, certain=False), []) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_of_images_that_were_not_watched_from_the_start_nobody_knows_whether_the_loss_had_them(is_whole):
    record = GivenRecord(is_whole=is_whole)
    record.watch(digests(8))
    for _ in range(4):
        record.add(epoch(digests(8)))
        record.learn(digests(4), digests(8))
    codes = [one.code for one in record.doubts(Members(digests(8), 8), [])]
    assert codes == (["members_without_loss"] if is_whole else [])

"""``DataLoader(batch_size=None)``: data sets whose items are batches, or single images without an axis of the batch."""

import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, saved_truth

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


def unbatched(items):
    return DataLoader(Items(items), batch_size=None)


class Flipped(Items):
    def __getitem__(self, index):
        image = super().__getitem__(index)
        return image.flip(-1) if torch.rand(()) < 0.5 else image


def in_any_order(some):
    return sorted(some.flatten(1).tolist())


@pytest.mark.parametrize("size", [1, 4])
def test_batches_that_are_augmented_at_random_are_noticed(size):
    train = DataLoader(Flipped(images(24).split(size)), batch_size=None)
    with pytest.warns(UserWarning, match="reading the same training image twice gave different ones"):
        fit(audit_callback(), Module(), train, unbatched(images(4, 1).split(2)))


def test_of_batches_that_stay_the_same_nothing_is_said(recwarn):
    fit(audit_callback(), Module(), unbatched(images(24).split(4)), unbatched(images(4, 1).split(2)))
    assert not [str(one.message) for one in recwarn if "twice" in str(one.message)]
    assert in_any_order(saved_truth()) == in_any_order(images(24))

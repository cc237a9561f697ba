"""``DataLoader(batch_size=None)``: data sets whose items are batches, or single images without an axis of the batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional
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


class Autoencoder(Module):
    """A layer of images of three channels; each step gets one, without an axis of the batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[None]), batch[None])


COLORS, OTHERS = images(20, 0, (3, 8, 8)), images(4, 1, (3, 8, 8))


def test_single_images_are_refused_with_the_key_that_reads_them():
    with pytest.raises(ValueError, match=r"of members is read as a batch.*image_key=lambda item: item\[None\]; \(3\)"):
        fit(audit_callback(), Autoencoder(), unbatched(COLORS), unbatched(OTHERS))


def test_and_so_are_gray_ones_without_an_axis_of_channels():
    with pytest.raises(ValueError, match=r"shape \(8,\).*batch_size=None.*image_key=lambda item: item\[None\]"):
        fit(audit_callback(), Module(), unbatched(COLORS[:, 0]), unbatched(OTHERS[:, 0]))


def test_of_a_data_set_that_is_passed_the_key_is_named_alone():
    with pytest.raises(ValueError, match=r"2 problems.*image_key={'controls': lambda item: item\[None\]}"):
        fit(audit_callback(controls=Items(OTHERS)), Autoencoder(), unbatched(COLORS.split(4)))


def test_that_key_reads_them_and_finds_them_in_the_training_s_batches(recwarn):
    audit = audit_callback(image_key=lambda item: item[None], every_n_epochs=1)
    fit(audit, Autoencoder(), unbatched(COLORS), unbatched(OTHERS), max_epochs=2)
    assert in_any_order(saved_truth()) == in_any_order(COLORS)
    assert in_any_order(saved_truth("controls")) == in_any_order(OTHERS)
    assert not [str(one.message) for one in recwarn if str(one.message).startswith("members")]
    assert "members_not_given" not in audit.last_report.verdict.reasons

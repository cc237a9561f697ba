"""Keys that find a part of a tensor in each item: one of several frames, or some of the channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, saved_truth

from lightning_memaudit.callback.reading.finders import Each

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Autoencoder(Module):
    def __init__(self, unwrap):
        super().__init__(unwrap)
        self.net = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        images = self.unwrap(batch)
        return functional.mse_loss(self(images), images)


def second(item):
    return item[1]


def color(item):
    return item["bands"][[3, 1, 0]]


CLIPS, OTHERS = images(12, 0, (4, 3, 8, 8)), images(4, 1, (4, 3, 8, 8))  # each of four frames
BANDS, OTHER_BANDS = images(12, 0, (5, 8, 8)), images(4, 1, (5, 8, 8))


@pytest.mark.parametrize("batch_size", [3, 4])  # as many as there are frames: the key finds one item's
@pytest.mark.parametrize("key", [1, second])
def test_one_of_several_frames(key, batch_size, recwarn):
    audit = audit_callback(image_key=key)
    loaders = (DataLoader(Items(one), batch_size) for one in (CLIPS, OTHERS))
    fit(audit, Autoencoder(lambda batch: batch[:, 1]), *loaders)
    assert torch.equal(saved_truth(), CLIPS[:, 1])
    assert torch.equal(saved_truth("controls"), OTHERS[:, 1])
    assert_nothing_is_doubted(audit, recwarn)


def test_some_of_the_channels(recwarn):
    audit = audit_callback(image_key=color)
    loaders = (DataLoader(Items(one, lambda bands: {"bands": bands}), 4) for one in (BANDS, OTHER_BANDS))
    fit(audit, Autoencoder(lambda batch: batch["bands"][:, [3, 1, 0]]), *loaders)
    assert torch.equal(saved_truth(), BANDS[:, [3, 1, 0]])
    assert_nothing_is_doubted(audit, recwarn)


def named(item):
    return item["image"]


def colored(items):
    return {"image": torch.stack([item["image"] for item in items]).expand(-1, 3, -1, -1)}


@pytest.mark.parametrize("key", ["image", named])
def test_gray_images_that_are_repeated_in_three_channels_are_no_views(key):
    gray, others = CLIPS[:, 0, :1], OTHERS[:, 0, :1]
    loaders = (DataLoader(Items(one, lambda image: {"image": image}), 4, collate_fn=colored) for one in (gray, others))
    fit(audit_callback(image_key=key), Autoencoder(lambda batch: batch["image"]), *loaders)
    assert torch.equal(saved_truth(), gray.expand(-1, 3, -1, -1))


def test_a_key_that_fails_on_the_training_s_batches_ends_no_training():
    items, others = (Items(one, lambda image: image.flatten()) for one in (BANDS, OTHER_BANDS))
    audit = audit_callback(members=items, controls=others, image_key=lambda item: item[:64].view(1, 8, 8))
    train = DataLoader(Items(BANDS, lambda image: (image.flatten()[:32], 0)), 4)
    trainer = fit(audit, Module(lambda batch: batch[0]), train)
    assert trainer.state.finished
    assert torch.equal(saved_truth(), BANDS[:, :1])


def test_what_belongs_to_no_item_is_left_as_it_is():
    found = Each(color)({"bands": BANDS, "wavelengths": torch.zeros(5)})
    assert torch.equal(found, BANDS[:, [3, 1, 0]])


def assert_nothing_is_doubted(audit, recwarn):
    assert not [str(one.message) for one in recwarn if str(one.message).startswith("members")]
    assert not {"called_otherwise", "members_not_given"} & set(audit.last_report.verdict.reasons)


@pytest.mark.parametrize("wrap", [lambda image: image, lambda image: (image, 1)])
def test_a_key_that_draws_random_numbers_takes_none_of_the_training_s(wrap):
    def drawn(*callbacks):
        torch.manual_seed(0)
        loaders = (DataLoader(Items(one[:, 0], wrap), 4) for one in (CLIPS, OTHERS))
        fit(list(callbacks), Autoencoder(lambda batch: batch if torch.is_tensor(batch) else batch[0]), *loaders)
        return torch.rand(())

    def brighter(item):
        return (item if torch.is_tensor(item) else item[0]) * (0.5 + 0.5 * torch.rand(()))

    assert drawn(audit_callback(image_key=brighter)) == drawn()

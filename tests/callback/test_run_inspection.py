"""Where a run's images come from: loaders of every kind; members are only those that are trained on."""

import lightning
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


class Stream(IterableDataset):
    def __len__(self):
        return 4

    def __iter__(self):
        return iter(images(4))


def test_given_data_sets_stand_for_iterable_ones():
    given = {"members": Items(images(5)), "controls": Items(images(3, seed=1))}
    fit(audit_callback(**given), Module(), DataLoader(Stream()), DataLoader(Stream()))
    assert rows()[0]["num_images"] == 5


@pytest.mark.parametrize("wrap", [dict, lambda loaders: list(loaders.values()), CombinedLoader])
def test_several_loaders(wrap):
    first, second = DataLoader(Items(images(5)), 5), DataLoader(Items(images(3, seed=2)), 3)
    loaders = wrap({"first": first, "second": second})
    unwrap = (lambda batch: batch["first"]) if not isinstance(loaders, list) else (lambda batch: batch[0])
    fit(audit_callback(), Module(unwrap), loaders, DataLoader(Items(images(4, seed=3))))
    assert torch.equal(saved_truth(), images(5))


def test_data_modules_and_a_module_with_loaders():
    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Items(images(5)), 5)

        def val_dataloader(self):
            return DataLoader(Items(images(4, seed=1)))

    class WithLoaders(Module):
        train_dataloader = Data.train_dataloader
        val_dataloader = Data.val_dataloader

    for module, datamodule in ((Module(), Data()), (WithLoaders(), None)):
        fit(audit_callback(), module, None, datamodule=datamodule, check_val_every_n_epoch=10)
        assert rows("memaudit")[0]["num_images"] == 5
        assert rows("memaudit", "controls")[0]["num_images"] == 4


@pytest.mark.parametrize(
    ("loader", "arguments", "expected"),
    [
        ({}, {"limit_train_batches": 2}, 4),
        ({}, {"limit_train_batches": 0.5}, 4),
        ({}, {"overfit_batches": 1}, 2),
        ({"shuffle": True}, {"overfit_batches": 2}, 4),
        ({"sampler": SubsetRandomSampler([1, 5])}, {}, 2),
        ({"shuffle": True}, {}, 9),
    ],
)
def test_members_are_the_images_that_are_trained_on(loader, arguments, expected):
    data = images(9)
    seen = []
    module = Module(lambda batch: seen.append(batch) or batch)
    fit(
        audit_callback(),
        module,
        DataLoader(Items(data), 2, **loader),
        DataLoader(Items(images(9, seed=1))),
        **arguments,
    )
    audited = {image.numpy().tobytes() for image in saved_truth()}
    assert audited == {image.numpy().tobytes() for image in torch.cat(seen)}
    assert len(audited) == expected


def test_limited_batches_in_random_order_warn():
    with pytest.warns(UserWarning, match="only 2 of 5 batches are trained on in each epoch, in random order"):
        fit(
            audit_callback(), Module(), DataLoader(Items(images(9)), 2, shuffle=True),
            DataLoader(Items(images(3, seed=1))), limit_train_batches=2,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("audits", "trainer", "told"),
    [
        ({"every_n_epochs": 1}, {"max_time": {"hours": 1}}, True),
        ({"at_train_loss": [1e-9]}, {"max_time": {"hours": 1}}, True),
        ({}, {"max_time": {"hours": 1}}, False),
        ({"every_n_epochs": 1}, {}, False),
    ],
)
def test_audits_that_take_of_the_training_s_time_are_said(audits, trainer, told, recwarn):
    fit(
        audit_callback(**audits),
        Module(),
        DataLoader(Items(images(4))),
        DataLoader(Items(images(3, seed=1))),
        **trainer,
    )
    assert any("max_time" in str(one.message) for one in recwarn) == told

"""Members, controls and the training's batches in different ranges: said with a mend that works when it is followed."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

pytestmark = pytest.mark.usefixtures("reads_here")

TRAIN, OTHERS = images(8), images(8, seed=1)


def signed(x):
    return 2 * x - 1


class Hooked(Module):
    """Normalizes in a hook, in the stages for which ``when`` holds."""

    def __init__(self, when):
        super().__init__()
        self.when, self.got = when, []

    def normalized(self, batch, dataloader_idx):
        return signed(batch) if self.when(self.trainer) else batch

    def training_step(self, batch, batch_idx):
        self.got.append(batch.clone())
        return super().training_step(batch, batch_idx)


class Before(Hooked):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return self.normalized(batch, dataloader_idx)


class After(Hooked):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.normalized(batch, dataloader_idx)


def run(module, train=TRAIN, others=OTHERS, **settings):
    fit(audit_callback(**settings), module, DataLoader(Items(train), 4), DataLoader(Items(others), 4))


@pytest.mark.parametrize("kind", [Before, After])
def test_a_hook_that_normalizes_in_training_only(kind):
    with pytest.raises(ValueError, match=r"where on_\w+ does otherwise in training .* let it do the same in both"):
        run(kind(lambda trainer: trainer.training))
    module = kind(lambda trainer: True)
    run(module)
    assert sorted(map(float, signed(saved_truth()).flatten(1).sum(1))) == pytest.approx(
        sorted(map(float, torch.cat(module.got).flatten(1).sum(1))), abs=1e-3
    )


@pytest.mark.parametrize("settings", [{}, {"mean": [0.5], "std": [0.5]}, {"members": Items(TRAIN)}])
def test_the_other_mend_works_too(settings):
    with pytest.raises(ValueError, match="pass members and controls whose images are as they stand in the training's"):
        run(After(lambda trainer: trainer.training), **settings)
    given = {"members": Items(signed(TRAIN)), "controls": Items(signed(OTHERS)), "mean": [0.5], "std": [0.5]}
    run(After(lambda trainer: trainer.training), **given)
    assert torch.allclose(saved_truth().sum(), TRAIN.sum())
    assert rows()[-1]["train_loss"] < 0.1


class Shifts(lightning.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.mul_(2).sub_(1)


def test_a_callback_that_normalizes():
    loaders = DataLoader(Items(TRAIN.clone()), 4), DataLoader(Items(OTHERS), 4)
    given = {"members": Items(signed(TRAIN)), "controls": Items(signed(OTHERS)), "mean": [0.5], "std": [0.5]}
    with pytest.raises(ValueError, match=": pass members and controls whose images are as they stand"):
        fit([Shifts(), audit_callback()], Module(), *loaders)
    fit([Shifts(), audit_callback(**given)], Module(), *loaders)
    assert torch.allclose(saved_truth().sum(), TRAIN.sum())


@pytest.mark.parametrize("train", [True, False])
def test_one_group_alone_that_is_normalized(train):
    data = (signed(TRAIN), OTHERS) if train else (TRAIN, signed(OTHERS))
    with pytest.raises(ValueError, match="what is passed holds for both, so let training and validation read alike"):
        run(Module(), *data)
    with pytest.warns(UserWarning, match="controls: their values are .* where those of members are"):
        run(Module(), *data, mean=[0.5], std=[0.5])


def test_groups_that_are_read_alike_are_not_told(recwarn):
    run(Module())
    assert not [one for one in recwarn if "their values are" in str(one.message)]

"""Batches of several train dataloaders: whose images the model is given, and whose are audited."""

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Subset
from training_runs import Items, Module, audit_callback, fit, images, rows, saved_truth

FACES, OTHERS, CONTROLS = images(24), images(24, seed=1), images(4, seed=2)

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*is not empty.*", "ignore:.*first of 2 train"),
]


class Network(Module):
    """Whose layer shows what it gets; it trains on what ``unwrap`` takes of a batch."""

    def __init__(self, unwrap):
        super().__init__(unwrap)
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.layer(x) * self.weight

    def training_step(self, batch, batch_idx):
        x = self.unwrap(batch)
        return functional.mse_loss(self(x), x)


def loaders(others):
    return {"faces": DataLoader(Items(FACES), 6, shuffle=True), "others": DataLoader(others, 8, shuffle=True)}


def run(unwrap, train, **settings):
    module = Network(unwrap)
    trainer = fit(audit_callback(every_n_epochs=1, **settings), module, train, DataLoader(Items(CONTROLS), 2))
    return module, trainer


def test_training_on_another_loader_than_the_first_is_refused_by_its_name():
    told = "images at others .* of the train dataloader others, .* of the train dataloader faces: pass members="
    with pytest.raises(ValueError, match=told):
        run(lambda batch: batch["others"], CombinedLoader(loaders(Items(OTHERS)), "max_size_cycle"))


@pytest.mark.parametrize(
    "prepare",
    [lambda x: 2 * x - 1, lambda x: x + 0.5 * torch.randn_like(x), lambda x: x.flip(-1)],
    ids=["normalized", "noisy", "flipped"],
)
def test_so_it_is_where_training_step_changes_them(prepare):
    with pytest.raises(ValueError, match=r"images at 1 .* of the train dataloader 1, .* of the train dataloader 0"):
        run(lambda batch: prepare(batch[1]), list(loaders(Items(OTHERS)).values()))


@pytest.mark.parametrize("kind", ["part of it", "a copy", "without augmentation"])
def test_with_the_members_that_it_asks_for_it_goes_on(kind, recwarn):
    dataset = Items(OTHERS, (lambda x: 0.9 * x.flip(-1)) if kind == "without augmentation" else (lambda x: x))
    members = Subset(dataset, range(20)) if kind == "part of it" else Items(OTHERS.clone())
    module, _ = run(lambda batch: batch["others"], loaders(dataset), members=members)
    truth = OTHERS[:20] if kind == "part of it" else OTHERS
    assert torch.equal(saved_truth(), truth)
    with torch.no_grad():
        error = functional.mse_loss(module(truth), truth)
    assert rows()[-1]["train_loss"] == pytest.approx(float(error), rel=1e-4)
    told = [str(one.message) for one in recwarn if "members" in str(one.message)]
    assert all("none of the images of the training's first batch" in one for one in told)
    assert bool(told) == (kind == "without augmentation")


def test_members_of_both_loaders_are_found_in_both():
    both = ConcatDataset([Items(FACES), Items(OTHERS)])
    _, trainer = run(lambda batch: torch.cat([batch["faces"], batch["others"]]), loaders(Items(OTHERS)), members=both)
    assert torch.equal(saved_truth(), torch.cat([FACES, OTHERS]))
    report = trainer.callbacks[0].last_report
    assert "members_not_given" not in report.verdict.reasons


def test_that_only_the_first_is_audited_is_said():
    with pytest.warns(UserWarning, match="the first of 2 train dataloaders; those of others, .* pass members="):
        run(lambda batch: batch["faces"], loaders(Items(OTHERS)))


def test_the_other_image_of_an_item_is_named_by_its_key_within_the_item():
    paired = DataLoader(Items(list(zip(FACES, OTHERS, strict=True))), 6)
    with pytest.raises(ValueError, match=r"at \['paired', 1\] .* at \['paired', 0\]: pass image_key=1$"):
        run(lambda batch: batch["paired"][1], {"paired": paired, "more": DataLoader(Items(images(9, seed=5)), 3)})

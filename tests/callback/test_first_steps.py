"""What the first steps of a training show of how it calls the model: refused, a doubt, a warning, or nothing."""

import warnings

import lightning
import pytest
import torch
from smooth_images import color_space, photographs, stretched
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2
from training_runs import audit_callback, trainer_with

pytestmark = pytest.mark.usefixtures("reads_here")

LABELS = torch.arange(24) % 3


class Colors(lightning.LightningModule):
    """Gives its network what ``prepare`` makes of a batch's images."""

    def __init__(self, prepare=lambda x: x):
        super().__init__()
        torch.manual_seed(0)
        self.prepare, self.network = prepare, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(self.prepare(batch[0])), batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(module, **settings):
    """What was said of how the training calls the model, and the codes of the last audit's doubts."""
    torch.manual_seed(0)
    images = photographs(48)
    train, others = (TensorDataset(one, LABELS) for one in (images[:24], images[24:]))
    callback = audit_callback(**settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(callback, max_epochs=1, num_sanity_val_steps=0).fit(
            module, DataLoader(train, 8), DataLoader(others, 8)
        )
    said = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    return said, [doubt["code"] for doubt in callback.last_report.doubts]


def each(transform):
    return lambda images: torch.stack([transform(image) for image in images])


def noisy(images, scale=0.2):
    return images + scale * torch.randn_like(images)


RANDOM = {
    "crops": each(v2.RandomCrop(32, padding=4)),
    "resized crops": each(v2.RandomResizedCrop(32, antialias=True)),
    "large shifts": each(v2.RandomAffine(30, (0.2, 0.2), (0.8, 1.2))),
    "blurs": v2.GaussianBlur(7, (1.0, 3.0)),
    "one crop for all": v2.RandomCrop(32, padding=4),
    "one brightness for all": lambda images: images * (0.6 + 0.6 * torch.rand(())),
    "one saturation for all": v2.ColorJitter(saturation=0.9),
    "mixed with the next": lambda images: 0.6 * images + 0.4 * images.roll(1, 0),
}
DENOISING = {
    "noise": noisy,
    "much noise": lambda images: noisy(images, 1.0),
    "diffusion": lambda images: 0.7 * images + 0.7 * torch.randn_like(images),
    "dropout": lambda images: functional.dropout(images, 0.3),
    "missing pixels": lambda images: images * (torch.rand_like(images[:, :1]) < 0.5),
    "not a number": lambda images: images.where(torch.rand_like(images) < 0.9, torch.nan).nan_to_num(0.5),
}
FIXED = {
    "another color space": color_space,
    "each stretched": stretched,
    "gray": v2.Grayscale(3),
    "darker by a fifth": lambda images: 0.8 * images,
    "blurred": v2.GaussianBlur(3, 0.6),
    "sharpened": lambda images: v2.functional.adjust_sharpness(images, 3.0),
    "centred by the batch": lambda images: images - images.mean() + 0.5,
}
REFUSED = {
    "normalized": lambda images: (images - 0.5) / 0.5,
    "normalized, and noise": lambda images: noisy((images - 0.5) / 0.5),
    "halved": lambda images: images / 2,
}


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("name", RANDOM)
def test_augmentation_is_a_warning_and_no_doubt(name):
    said, doubts = fit(Colors(RANDOM[name]))
    assert len(said) == 1, said
    assert "if not at random" in said[0]
    assert doubts == []


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("name", DENOISING)
def test_what_denoising_takes_is_silent(name):
    assert fit(Colors(DENOISING[name])) == ([], [])


@pytest.mark.parametrize("name", FIXED)
def test_what_is_done_alike_to_all_images_is_a_doubt(name):
    said, doubts = fit(Colors(FIXED[name]))
    assert 1 <= len(said) <= 2
    assert doubts == ["called_otherwise"]


@pytest.mark.parametrize("name", REFUSED)
def test_another_range_is_refused(name):
    with pytest.raises(ValueError, match="training_step gives the model"):
        fit(Colors(REFUSED[name]))


class Conditional(Colors):
    """Takes labels beside the images; how forward fills in for them is the question."""

    def __init__(self, give, fill):
        super().__init__()
        self.network = Labelled()
        self.give, self.fill = give, fill

    def forward(self, x):
        return self.network(x, *self.fill(x))

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self.network(batch[0], *self.give(*batch)), batch[0])


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.embedding = nn.Conv2d(3, 3, 3, padding=1), nn.Embedding(3, 3)

    def forward(self, x, y=None, **others):
        return (
            self.layer(x) if y is None else self.layer(x) + (self.embedding(y)[:, :, None, None] if y.ndim == 1 else 0)
        )


@pytest.mark.parametrize(
    ("give", "fill", "doubted"),
    [
        (lambda x, y: (y,), lambda x: (), True),
        (lambda x, y: (y,), lambda x: (torch.zeros(len(x), dtype=torch.long),), True),
        (lambda x, y: (y,), lambda x: (torch.arange(len(x)) % 3,), False),
        (lambda x, y: (), lambda x: (), False),
        (lambda x, y: (x,), lambda x: (), False),  # the images again
        (lambda x, y: (torch.rand_like(x[:, :1]) < 0.5,), lambda x: (), False),  # a mask
        (lambda x, y: (torch.randn_like(x),), lambda x: (), False),  # noise
    ],
)
def test_labels_that_the_audit_does_not_give_are_a_doubt(give, fill, doubted):
    said, doubts = fit(Conditional(give, fill))
    assert ("called_otherwise" in doubts) == doubted
    assert sum("beside the images" in text for text in said) == doubted


class EmbedsOutside(Colors):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 3)

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(batch[0]) + self.embedding(batch[1])[:, :, None, None], batch[0])


def test_an_embedding_that_the_audit_does_not_call_is_a_doubt():
    said, doubts = fit(EmbedsOutside())
    assert (len(said), doubts) == (1, ["called_otherwise"])


def test_a_label_that_reconstruct_takes_from_the_batch_is_none():
    def reconstruct(module, batch):
        return module.network(batch[0], batch[1])

    module = Conditional(lambda x, y: (y,), lambda x: ())
    assert fit(module, reconstruct=reconstruct) == ([], [])


def test_the_target_beside_the_input_is_told():
    class Pairs(TensorDataset):
        def __getitem__(self, index):
            image = self.tensors[0][index]
            return (image + 0.1 * torch.sin(100 * image)).clamp(0, 1), image

    images = photographs(48)
    callback = audit_callback(controls=Pairs(images[24:]))
    with pytest.warns(UserWarning, match=r"an item holds 2 different images of one shape, at 0 and 1: .*image_key=1"):
        trainer_with(callback, max_epochs=1).fit(Colors(), DataLoader(Pairs(images[:24]), 8))


class LabelledColors(Colors):
    """Gives the network the labels too, and images of a brightness that is drawn for every batch."""

    def __init__(self):
        super().__init__(lambda x: x * (0.6 + 0.4 * torch.rand(())))
        self.table = nn.Embedding(3, 3)

    def forward(self, x, labels):
        return self.network(x + 0.3 * self.table(labels).view(-1, 3, 1, 1))

    def training_step(self, batch, batch_idx):
        return functional.mse_loss(self(self.prepare(batch[0]), batch[1]), batch[0])


def test_the_batch_that_is_given_again_is_the_one_that_the_training_was_given():
    """What is drawn for a whole batch is looked at once more on the next, whose labels are others."""
    said, doubts = fit(LabelledColors(), reconstruct=lambda module, batch: module(batch[0], batch[1]))
    assert doubts == []
    assert not any("labels" in text for text in said)


class Masked(Colors):
    """Is given a mask of patches that is drawn for each image, half of them, as masked autoencoders are."""

    def forward(self, x, mask=None):
        hidden = torch.zeros(len(x), 16) if mask is None else mask
        return self.network(x * (1 - hidden.view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)))

    def training_step(self, batch, batch_idx):
        mask = (torch.rand(len(batch[0]), 16).argsort(1) < 8).float()
        return functional.mse_loss(self(batch[0], mask), batch[0])


def test_a_mask_of_patches_that_is_drawn_is_no_label():
    assert fit(Masked()) == ([], [])


class Cached(Colors):
    """Encodes images one by one, flat, as where their codes are kept."""

    def __init__(self):
        super().__init__()
        self.network, self.decoder = nn.Linear(3 * 32 * 32, 16), nn.Linear(16, 3 * 32 * 32)

    def forward(self, x):
        return self.decoder(self.network(x.flatten(1))).view_as(x)

    def training_step(self, batch, batch_idx):
        codes = torch.stack([self.network(image.flatten()) for image in batch[0]])
        return functional.mse_loss(self.decoder(codes).view_as(batch[0]), batch[0])


def test_a_flat_image_by_itself_is_no_batch_of_numbers():
    assert fit(Cached()) == ([], [])

"""MONAI: its data sets of dictionaries, transforms and loaders, and its autoencoders."""

import lightning
import monai.data
import numpy as np
import pytest
import torch
from foreign_parts import pictures
from foreign_runs import ForeignRun, check
from monai.networks.nets import AutoEncoder, VarAutoEncoder
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandSpatialCropSamplesd,
    ScaleIntensityd,
    ScaleIntensityRanged,
)
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


class Tutorial(lightning.LightningModule):
    """As MONAI's tutorials use its networks under Lightning."""

    def __init__(self, variational=False):
        super().__init__()
        settings = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (2, 4), "strides": (2, 2)}
        self.net = (
            VarAutoEncoder(
                in_shape=(1, 16, 16), latent_size=3, **{k: v for k, v in settings.items() if k != "in_channels"}
            )
            if variational
            else AutoEncoder(**settings, norm="BATCH", num_inter_units=1)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        images = batch["image"]
        output = self(images)
        return functional.mse_loss(output[0] if isinstance(output, tuple) else output, images)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


def scaled(images):
    """ScaleIntensityd by hand: each image to [0, 1] by its own extremes."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low)


def by_hand(module, images):
    return module.net(images)


def decoded_mean(module, images):
    return module.net.decode_forward(module.net.encode_forward(images)[0])


IMAGES = {"members": pictures(5, shape=(1, 16, 16)), "controls": pictures(4, 1, (1, 16, 16))}


def saved(group):
    """Pictures in files, as MONAI's lists of dictionaries name them; MONAI reads the first axis from the left."""
    entries = []
    for index, image in enumerate(IMAGES[group]):
        path = f"{group}-{index:02d}.png"
        Image.fromarray((image[0] * 255).round().byte().numpy().T).save(path)
        entries.append({"image": path, "label": index % 2})
    return entries


def run_of(load, module=None, own_output=by_hand, loader=monai.data.DataLoader, **more):
    loaders = [loader(load(group), batch_size=2, shuffle=group == "members") for group in IMAGES]
    members, controls = (scaled(images) for images in IMAGES.values())
    settings = {"lines": {"image_key": "image"}} | more
    return ForeignRun(module or Tutorial(), *loaders, members, controls, own_output, **settings)


def from_files(dataset, **settings):
    transform = Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), ScaleIntensityd("image"), EnsureTyped("image")]
    )
    names = [f"members-{index:02d}.png" for index in range(5)]
    return run_of(lambda group: dataset(saved(group), transform, **settings), names=names)


def a_data_set_of_files():
    return from_files(monai.data.Dataset)


def a_cached_data_set_of_files():
    return from_files(monai.data.CacheDataset, progress=False)


def a_persistent_data_set_of_files():
    return from_files(monai.data.PersistentDataset, cache_dir="cache")


def from_arrays(*transforms, **more):
    """The same in memory, with intensities from -7 to 93."""
    return run_of(
        lambda group: monai.data.CacheDataset(arrays_of(group), Compose(list(transforms)), progress=False), **more
    )


def arrays_of(group):
    return [{"image": image[0].numpy() * 100 - 7, "label": 0} for image in IMAGES[group]]


ARRAYS = EnsureChannelFirstd("image", channel_dim="no_channel"), ScaleIntensityd("image")


def arrays_and_a_variational_autoencoder():
    return from_arrays(
        *ARRAYS, module=Tutorial(variational=True), own_output=decoded_mean, lines=IN_A_LINE, loader=DataLoader
    )


IN_A_LINE = {"image_key": "image", "reconstruct": decoded_mean}


def a_variational_autoencoder_as_it_is():
    """In evaluation MONAI's decodes the mean plus the standard deviation, always."""

    def decoded(module, images):
        mean, log_variance = module.net.encode_forward(images)
        return module.net.decode_forward(mean + torch.exp(log_variance / 2))

    return from_arrays(
        *ARRAYS,
        module=Tutorial(variational=True),
        lines={"image_key": "image", "output": 0},
        own_output=decoded,
    )


def arrays_in_another_range():
    """From [-7, 93] to [-1, 1]."""
    run = from_arrays(
        ARRAYS[0],
        ScaleIntensityRanged("image", a_min=-7, a_max=93, b_min=-1, b_max=1),
        lines={"image_key": "image", "mean": [0.5], "std": [0.5]},
        own_output=lambda m, x: (m.net(2 * x - 1) + 1) / 2,
    )
    run.members, run.controls = IMAGES.values()
    return run


def random_flips():
    plain = {group: monai.data.Dataset(arrays_of(group), Compose(list(ARRAYS))) for group in IMAGES}
    run = from_arrays(*ARRAYS, RandFlipd("image", prob=0.5), lines={"image_key": "image", "members": plain["members"]})
    run.validation = monai.data.DataLoader(plain["controls"], batch_size=2)
    return run


def several_crops_of_each_image():
    """An item is a list of crops, and MONAI's loader makes one batch of all; the first crop of each is audited."""
    crops = RandSpatialCropSamplesd("image", roi_size=16, num_samples=2, random_size=False)
    return from_arrays(*ARRAYS, crops, lines={"image_key": [0, "image"]})


RUNS = [
    a_data_set_of_files,
    a_cached_data_set_of_files,
    a_persistent_data_set_of_files,
    arrays_and_a_variational_autoencoder,
    a_variational_autoencoder_as_it_is,
    arrays_in_another_range,
    random_flips,
    several_crops_of_each_image,
]


@pytest.mark.parametrize("build", RUNS, ids=lambda build: build.__name__)
def test_the_run(build):
    check(build)


def test_intensities_normalized_by_each_image_are_refused():
    with pytest.raises(
        ValueError, match=r"members has values in \[-1\.\d+, 1\.\d+\]: pass images in \[0, 1\], or mean"
    ):
        check(lambda: from_arrays(ARRAYS[0], NormalizeIntensityd("image")))
    assert np.isfinite(IMAGES["members"]).all()

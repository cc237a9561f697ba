"""A MONAI autoencoder of volumes, as its tutorials train one under Lightning: audited with no change to it."""

import lightning
import numpy as np
import pytest
import torch
from foreign_parts import pictures
from foreign_runs import ForeignRun, check
from torch.nn import functional

monai = pytest.importorskip("monai")

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

SHAPE = (1, 8, 8, 8)
VOLUMES = {"members": pictures(4, shape=SHAPE), "controls": pictures(3, 1, SHAPE)}


class Tutorial(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        settings = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": (4, 8), "strides": (2, 2)}
        self.model = monai.networks.nets.AutoEncoder(**settings)
        self.loss_function = torch.nn.MSELoss()

    def forward(self, x):
        return self.model(x)

    def prepare_data(self):
        """Files in Hounsfield units, each with a segmentation beside it, whose key comes first."""
        for group, volumes in VOLUMES.items():
            for index, volume in enumerate(volumes):
                np.save(f"{group}-{index}.npy", (volume[0] * 4000 - 1000).numpy())
                np.save(f"segmentation-{group}-{index}.npy", (volume[0] > 0.5).numpy())

    def setup(self, stage=None):
        transforms = monai.transforms.Compose(
            [
                monai.transforms.LoadImaged(["label", "image"]),
                monai.transforms.EnsureChannelFirstd(["label", "image"], channel_dim="no_channel"),
                monai.transforms.ScaleIntensityRanged("image", a_min=-1000, a_max=3000, b_min=0, b_max=1, clip=True),
                monai.transforms.EnsureTyped(["label", "image"]),
            ]
        )
        files = {
            group: [
                {"label": f"segmentation-{group}-{index}.npy", "image": f"{group}-{index}.npy"}
                for index in range(len(volumes))
            ]
            for group, volumes in VOLUMES.items()
        }
        self.train_set = monai.data.CacheDataset(files["members"], transforms, progress=False)
        self.validation_set = monai.data.Dataset(files["controls"], transforms)

    def train_dataloader(self):
        collate = monai.data.list_data_collate
        return monai.data.DataLoader(self.train_set, batch_size=2, shuffle=True, collate_fn=collate)

    def val_dataloader(self):
        return monai.data.DataLoader(self.validation_set, batch_size=2)

    def training_step(self, batch, batch_idx):
        images = batch["image"]
        return self.loss_function(self.forward(images), images)

    def validation_step(self, batch, batch_idx):
        return functional.mse_loss(self.forward(batch["image"]), batch["image"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.parameters(), 1e-3)


def run():
    names = [f"members-{index}.npy" for index in range(4)]
    return ForeignRun(
        Tutorial(), None, None, *VOLUMES.values(), lambda m, x: m.model(x), {"image_key": "image"}, names=names
    )


def test_the_tutorial():
    _, callback = check(run)
    assert all(type(one) is np.ndarray for one in callback.last_report.recoveries.values())

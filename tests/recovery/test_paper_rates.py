"""The paper's method on real images: at least the rates of an independent prototype.

Needs images that are not part of the project: set MEMAUDIT_DATA to an .npz or .npy file of at least 110 colour images.
"""

import os

import pytest
import torch
from data_modules import everything

from lightning_memaudit import audit
from lightning_memaudit.training.data import ImagesDataModule
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

# 60 central crops of 32x32x3 of Tiny ImageNet, FC-10 with PReLU trained to 1e-5, penalty 0.1, 30 dB.
PROTOTYPE = {"random-0.5": 1.00, "random-0.9": 0.77, "block-0.25": 0.88, "block-0.5": 0.48}


@pytest.mark.slow
@pytest.mark.skipif("MEMAUDIT_DATA" not in os.environ, reason="MEMAUDIT_DATA names no file of images")
def test_the_papers_method_recovers_what_the_prototype_did():
    data = ImagesDataModule(os.environ["MEMAUDIT_DATA"], num_train=60, num_controls=50)
    data.setup()
    members, controls = (
        everything(dataset)[..., 16:48, 16:48] for dataset in (data.train_dataset, data.control_dataset)
    )
    torch.manual_seed(0)
    network = FullyConnectedAutoencoder(tuple(members.shape[1:]), 10, 256, "PReLU")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(10_000):
        loss = (network(members) - members).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 1e-5:
            break
    report = audit(
        network, members, controls, patterns=list(PROTOTYPE), methods=["paper_blind", "autoencoder_iterations"]
    )
    for pattern, rate in PROTOTYPE.items():
        assert report.rate("paper_blind", pattern) >= rate - 0.1
        assert report.rate("paper_blind", pattern) > report.rate("autoencoder_iterations", pattern) + 0.2
        assert report.rate("paper_blind", pattern, "controls") == 0.0

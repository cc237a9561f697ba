"""What several tests of the recovery methods share: the images that an autoencoder has stored."""

import pytest
import torch


@pytest.fixture
def stored():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.1

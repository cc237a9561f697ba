"""Small groups of images for audits."""

import pytest
import torch


@pytest.fixture
def members():
    return torch.rand(6, 1, 12, 12) * 0.8 + 0.1


@pytest.fixture
def controls():
    return torch.rand(5, 1, 12, 12) * 0.8 + 0.1

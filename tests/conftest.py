"""What every test shares: one thread, seeded randomness, and nothing left behind for the next test."""

import os
import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # small tensors: more threads only wait for each other
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Run in an empty folder, from a known random state, with torch's global settings given back."""
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that others draw from
    torch.manual_seed(0)
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)
    assert torch.is_grad_enabled(), "a test left gradients switched off"

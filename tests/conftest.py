"""What every test shares: one thread, seeded randomness, and nothing left behind for the next test."""

import os
import random
import sys

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
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()  # else the next logger would go on with this run, in this test's folder
    assert torch.is_grad_enabled(), "a test left gradients switched off"


@pytest.fixture
def without_report(monkeypatch):
    """The report at the end of fit has tests of its own, and takes longer than these runs."""
    monkeypatch.setattr("lightning_memaudit.report.write.write_report", lambda *_, **__: None)

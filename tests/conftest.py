"""What every test shares: one thread, seeded randomness, and nothing left behind for the next test."""

import gc
import multiprocessing
import os
import random
import sys

import numpy as np
import pytest
import torch
from undrawn import drawing, undrawn

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


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk():
    """No test cuts the power: what is written outlives a killed process without reaching the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _undrawn():
    with undrawn():
        yield


@pytest.fixture(scope="session", autouse=True)
def _what_is_imported_is_no_garbage():
    """Else every collection looks through it anew, and in a process that was forked copies it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def drawn():
    """Charts as they are, in a test that looks at them."""
    with drawing():
        yield


@pytest.fixture
def without_report(monkeypatch):
    """The report at the end of fit has tests of its own, and takes longer than these runs."""
    monkeypatch.setattr("lightning_memaudit.report.write.write_report", lambda *_, **__: None)


@pytest.fixture
def without_page(monkeypatch):
    """What the page shows is tested elsewhere, and drawing it takes longer than all else here."""
    monkeypatch.setattr("lightning_memaudit.report.write.render", lambda *_: "<p>a page</p>")


@pytest.fixture
def without_processes_of_before(monkeypatch):
    """What a test before has left running shares nothing with this one, and does not count as if it did."""
    find, before = multiprocessing.active_children, {*multiprocessing.active_children()}
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [one for one in find() if one not in before])


@pytest.fixture
def nothing_compiled(monkeypatch):
    """What a test before has compiled in this process is none of this one's."""
    monkeypatch.setattr("lightning_memaudit.callback.later_steps.times_compiled", lambda: 0)


@pytest.fixture
def reads_here(monkeypatch):
    """Reading in a process of its own has tests of its own, and starting one takes longer than these audits."""
    from lightning_memaudit.callback.reading.reader import Reader

    loader = Reader._loader
    monkeypatch.setattr(Reader, "_loader", lambda self, blocks, num_workers: loader(self, blocks, num_workers=0))

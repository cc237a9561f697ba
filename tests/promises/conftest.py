"""What tests of several processes, and of runs that fail or are killed, share."""

import multiprocessing
from functools import partial

import pytest
from fault_workers import FaultyModule, fit
from launching import launch_in
from lightning.pytorch import Callback

from lightning_memaudit.measurement import pace
from lightning_memaudit.measurement.probe import LOOKED_AT


@pytest.fixture(scope="session")
def context():
    """Processes that are forked from a server which has imported everything: a tenth of a second each."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        [
            "lightning.pytorch",
            "torch.distributed.fsdp",
            "lightning_memaudit.callback",
            "matplotlib.figure",
        ]
    )
    return forks


@pytest.fixture(scope="session", autouse=True)
def _as_many_calls_on_every_machine():
    """What tells how long an audit will take calls a fast model more often; here the calls are counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "LEAST_SECONDS", 0.0)
        patch.setattr(pace, "PATIENCE", 1e9)
        yield


@pytest.fixture
def launch(context, tmp_path):
    """Several processes with one run, see :func:`launching.launch_in`."""
    return partial(launch_in, context, tmp_path)


@pytest.fixture(scope="session")
def calls_before(tmp_path_factory):
    """Calls of the model before the work of each of the three audits: also those that tell what it will cost."""
    folder = tmp_path_factory.mktemp("count")
    counts = []
    module = FaultyModule()

    class Count(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            # How well it reproduces each group, and how fast its plain iterations settle; these may fail in silence.
            counts.append(module.calls + len(("members", "controls")) * (1 + LOOKED_AT[-1]))

    fit(folder, module, [Count()])
    return counts

"""What the processes of ``test_processes.py`` run: one fit with an audit, in the environment that torchrun makes."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from unittest import mock

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from training_runs import Items, trainer_with

import lightning_memaudit.report.write as report
from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.recovery import Recovery

METHODS = ("paper_blind", "autoencoder_iterations", "biharmonic")


def pictures(count, seed):
    images = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(images, scale_factor=2, mode="bilinear")


def _refuse():
    raise RuntimeError("cannot be read")


def _run_out_of_memory():
    raise MemoryError("no memory left")


def _ask_to_stop():
    raise AuditStopped("enough")


def _be_asked_to_end_later():
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    raise StopIteration


FAULTS = {
    "dies": lambda: os._exit(9),
    "hangs": lambda: time.sleep(600),
    "fails": _refuse,
    "runs out of memory": _run_out_of_memory,
    "asks to stop": _ask_to_stop,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "is asked to end": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "is asked to end when it has done its part": _be_asked_to_end_later,
}


class Script:
    """What goes wrong in the audit after the first epoch, from the 20th call at its place on.

    That is within the method: an audit begins with a few calls by which it measures the model's own output.

    The place is in the "method", between two calls of the model; or in the model, "before" it gathers weights from
    the other processes, "within", where some are gathered, or "after".
    """

    def __init__(self, fault, place):
        self.fault, self.place, self.calls, self.trainer = fault, place, 0, None

    @property
    def is_time(self):
        return self.trainer.global_step == 2 and not torch.is_grad_enabled()

    def pass_by(self, place):
        if place == self.place and self.is_time:
            self.calls += 1
            if self.calls >= 20 and self.fault is not None:
                self.fault()


class Unending:
    """A method that calls the model so often in the audit after the first epoch that it must be stopped."""

    def __init__(self, script):
        self.script, self.calls = script, 0

    def __call__(self, autoencoder, observed):
        with suppress(StopIteration):
            while self.script.is_time and self.calls < 10_000:
                self.script.pass_by("method")
                self.calls += 1
                autoencoder(observed)
                time.sleep(0.01)
        zero = torch.zeros(len(observed))
        return Recovery(autoencoder(observed), torch.ones_like(observed), zero, zero.bool(), zero.long() + 1)


class Memory(nn.Module):
    """Projects onto the span of what it remembers: iterations converge, so that rounding does not decide anything."""

    def __init__(self, images):
        super().__init__()
        flat = images.flatten(1)
        self.register_buffer("center", flat.mean(0))
        self.basis = nn.Parameter(torch.linalg.qr((flat[1:] - self.center).T).Q.T.contiguous())
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.scale.weight)
        self.script = Script(None, None)

    def forward(self, images):
        self.script.pass_by("within")
        coordinates = (images.flatten(1) - self.center) @ self.basis.T
        return (self.scale(coordinates[..., None])[..., 0] @ self.basis + self.center).view_as(images)


class Model(lightning.LightningModule):
    def __init__(self, members, shard=False, fault=None):
        super().__init__()
        self.network = Memory(members)
        self.shard, self.fault = shard, fault

    def configure_model(self):
        if self.shard and not hasattr(self.network, "set_reshard_after_forward"):
            fully_shard(self.network.scale, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

    def forward(self, images):
        if self.fault is not None and not torch.is_grad_enabled() and len(images) > 2:
            self.fault()
        self.network.script.pass_by("before")
        images = self.network(images)
        self.network.script.pass_by("after")
        return images

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch), batch)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(
    folder,
    rank,
    world_size,
    *,
    kind="ddp",
    num_members=7,
    num_controls=5,
    model_fault=None,
    num_nodes=1,
    shuffled=False,
    methods=METHODS,
    script=None,
    natural_end=False,
    max_epochs=None,
    **audit,
):
    """One fit; what became of it is written to ``<folder>/rank-<n>.json``.

    ``script`` is a fault of :class:`Script`, its place, and in which processes.
    """
    torch.set_num_threads(1)
    lightning.seed_everything(0)
    members, controls = pictures(7, 1), pictures(6, 2)
    if shuffled:
        members = members.roll(rank, 0)
    faulty = rank == world_size - 1
    fault, place, faulty_ranks = script or (None, None, ())
    script = Script(FAULTS.get(fault) if rank in faulty_ranks else None, place)
    unending = Unending(script)
    if place is not None:
        methods = {"biharmonic": "biharmonic", "unending": unending}
    callback = MemorizationAuditCallback(
        **(
            {
                "at_epochs": [0],
                "at_train_loss": [1.0],
                "patterns": ["random-0.5"],
                "methods": methods,
                "num_members": num_members,
                "num_controls": num_controls,
                "print_table": False,
                "figures": False,
            }
            | audit
        )
    )
    strategy = {
        "single": lambda: "auto",
        "ddp": DDPStrategy,
        "fsdp2": lambda: ModelParallelStrategy(world_size, 1, save_distributed_checkpoint=False),
        "tensor-parallel": lambda: ModelParallelStrategy(1, world_size, save_distributed_checkpoint=False),
    }[kind]()
    trainer = trainer_with(
        callback,
        devices=world_size // num_nodes,
        num_nodes=num_nodes,
        strategy=strategy,
        max_epochs=max_epochs or (1 if place is None else 2),
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    # It has tests of its own, and takes longer than these runs.
    without_report = mock.patch.object(report, "write_report", return_value=None)
    model_fault = FAULTS[model_fault] if model_fault and faulty else None
    model = Model(members, shard=kind == "fsdp2", fault=model_fault)
    model.network.script, script.trainer = script, trainer
    outcome = {}
    began = time.monotonic()
    try:
        with without_report:
            trainer.fit(model, DataLoader(Items(members), 2), DataLoader(Items(controls), 2))
        outcome["headline"] = callback.last_report.headline if callback.last_report else None
        outcome["num_audits"] = callback._history.num_audits
        outcome["steps"] = trainer.global_step
        weights = [weight.full_tensor() if hasattr(weight, "full_tensor") else weight for weight in model.parameters()]
        outcome["weights"] = torch.cat([weight.detach().flatten() for weight in weights]).tolist()
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        if natural_end:
            raise
    outcome["calls"] = unending.calls
    outcome["seconds"] = time.monotonic() - began
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(outcome))
    if "error" in outcome:
        os._exit(1)


def in_torchrun_environment(rank, world_size, port, folder, arguments):
    """The entry of a process of one node."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = Path(folder, f"rank-{rank}.txt").open("w", buffering=1)  # noqa: SIM115
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    fit(folder, rank, world_size, **arguments)


if __name__ == "__main__" and len(sys.argv) > 2:  # what Lightning's launcher starts again for the other processes
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    fit(sys.argv[1], local_rank, 2, natural_end=True, **json.loads(sys.argv[2]))
elif __name__ == "__main__":  # under torchrun
    fit(sys.argv[1], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), num_nodes=2)

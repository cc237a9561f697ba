"""Starts the processes of one run, as torchrun does, and waits for them."""

import json
import socket
import time

import process_workers
import pytest
import torch

TIMEOUT = 100
"""Seconds after which a run counts as hung; most take one or two."""


def skip_where_nothing_shards(kind):
    """torch 2.6 runs FSDP2 on GPUs alone: on a CPU every call of a model fails there."""
    if kind == "fsdp2" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("this torch shards no models on a CPU")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch_in(context, parent, name, world_size, waiting_for=None, **arguments):
    """Return each process's exit code and what it wrote down of itself; end all but ``waiting_for``."""
    skip_where_nothing_shards(arguments.get("kind"))
    folder, port = parent / name, free_port()
    processes = [
        context.Process(
            target=process_workers.in_torchrun_environment, args=(rank, world_size, port, str(folder), arguments)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + TIMEOUT
    for process in processes[:waiting_for]:
        process.join(max(0.0, deadline - time.monotonic()))
    hung = [process.is_alive() for process in processes[:waiting_for]]
    for process in processes:
        process.kill()
        process.join()
    logs = {path.name: path.read_text()[-3000:] for path in sorted(folder.glob("rank-*.txt"))}
    assert not any(hung), f"hung: {hung}\n{logs}"
    outcomes = []
    for rank, process in enumerate(processes):
        file = folder / f"rank-{rank}.json"
        outcome = json.loads(file.read_text()) if file.exists() else {}
        outcomes.append({"code": process.exitcode, "log": logs[f"rank-{rank}.txt"], **outcome})
    return folder, outcomes

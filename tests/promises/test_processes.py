"""One audit by several processes: the same rows, written once; no process waits in vain for another."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import process_workers
import pytest

from lightning_memaudit.results.run_folder import RunFolder

TIMEOUT = 100
FEW = process_workers.METHODS
IGNORED = ("seconds", "time", "weights_sha256")  # weights that are spread over processes have no hash
ROOT = Path(__file__).parents[2]
WORKERS = Path(process_workers.__file__)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def launch(context, tmp_path):
    def run(name, world_size, waiting_for=None, **arguments):
        """Return each process's exit code and what it wrote down of itself; end all but ``waiting_for``."""
        folder, port = tmp_path / name, free_port()
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

    return run


def rows_of(folder):
    """What must not depend on the processes: all but the times."""
    audits = RunFolder(folder / "memaudit").audits()
    images = RunFolder(folder / "memaudit").images()
    return [[{k: v for k, v in row.items() if k not in IGNORED} for row in rows] for rows in (audits, images)]


def assert_same(expected, found):
    """Counts, flags and names exactly, PSNR to 1e-3 dB; beyond 60 dB rounding decides."""
    for one, other in zip(expected, found, strict=True):
        assert len(one) == len(other)
        for row, same in zip(one, other, strict=True):
            assert row.keys() == same.keys()
            for name, value in row.items():
                if isinstance(value, float) and "psnr" in name:
                    assert same[name] == pytest.approx(value, abs=1e-3 if value < 60 else 60), (name, row, same)
                elif isinstance(value, float):
                    assert same[name] == pytest.approx(value, rel=1e-3, abs=1e-6), (name, row, same)
                else:
                    assert same[name] == value, (name, row, same)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Rows of the audit before training, by one process, for (members, controls, methods)."""
    known = {}

    def rows(num_members, num_controls, methods=process_workers.METHODS):
        key = (num_members, num_controls, methods)
        if key not in known:
            folder = tmp_path_factory.mktemp("single")
            process_workers.fit(
                str(folder), 0, 1, kind="single", num_members=num_members, num_controls=num_controls, at_train_loss=[],
                at_fit_end=False, methods=methods,
            )  # fmt: skip
            known[key] = rows_of(folder)
        return known[key]

    return rows


@pytest.mark.parametrize(
    ("kind", "world_size", "num_images", "methods"),
    [
        pytest.param("ddp", 1, (7, 5), FEW, marks=pytest.mark.slow),
        ("ddp", 2, (7, 5), (*FEW, "blind", "known_mask")),
        ("ddp", 3, (2, 2), FEW),  # one process has none
        pytest.param("fsdp2", 1, (7, 5), FEW, marks=pytest.mark.slow),
        ("fsdp2", 2, (7, 5), FEW),
        ("fsdp2", 3, (2, 2), FEW),
        pytest.param("fsdp2", 3, (7, 5), (*FEW, "blind", "known_mask"), marks=pytest.mark.slow),
        ("tensor-parallel", 2, (7, 5), FEW),
    ],
)
def test_the_rows_are_those_of_a_single_process(launch, single, kind, world_size, num_images, methods):
    members, controls = num_images
    folder, outcomes = launch("run", world_size, kind=kind, num_members=members, num_controls=controls, methods=methods)
    assert [outcome["code"] for outcome in outcomes] == [0] * world_size, outcomes
    audits, images = rows_of(folder)
    expected = single(members, controls, methods)
    assert any(row["num_recovered"] > 0 for row in expected[0] if row["method"] == "paper_blind")
    assert_same(expected, [[row for row in rows if row["audit"] == 0] for rows in (audits, images)])
    # The second audit was triggered by the loss, averaged over the processes; all of them know its result.
    assert {row["audit"]: row["trigger"] for row in audits} == {0: "epoch 0", 1: "train_loss<=1"}
    assert len(images) == 2 * len(expected[1]), "rows are written once"
    assert not list((folder / "memaudit").glob("superseded-*")), "by one process"
    assert all(outcome["headline"] == outcomes[0]["headline"] for outcome in outcomes)
    assert all(outcome["num_audits"] == 2 for outcome in outcomes)


def test_two_nodes(single, tmp_path):
    port, began = free_port(), time.monotonic()
    path = os.pathsep.join([str(ROOT), str(WORKERS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*command, f"--node-rank={node}", str(WORKERS), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        output = [node.communicate(timeout=TIMEOUT - (time.monotonic() - began))[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], output
    audits, images = rows_of(tmp_path)
    assert_same(single(7, 5), [[row for row in rows if row["audit"] == 0] for rows in (audits, images)])


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_failure_in_one_process_is_one_in_all(launch, on_error):
    _, outcomes = launch("run", 2, model_fault="fails", on_error=on_error, methods=["paper_blind"])
    if on_error == "warn":
        assert [outcome["code"] for outcome in outcomes] == [0, 0]
        assert [outcome["steps"] for outcome in outcomes] == [2, 2], "the training goes on"
        assert "in process 1 of 2: RuntimeError: cannot be read" in outcomes[0]["log"]
    else:
        assert [outcome["code"] for outcome in outcomes] == [1, 1]
        assert "in process 1 of 2: RuntimeError: cannot be read" in outcomes[0]["error"]
        assert outcomes[1]["error"] == "RuntimeError: cannot be read"


@pytest.mark.parametrize(("kind", "fault"), [("ddp", "dies"), ("fsdp2", "dies"), ("ddp", "hangs")])
def test_a_process_that_is_gone_is_noticed_and_explained(launch, kind, fault):
    _, outcomes = launch(
        "run", 2, waiting_for=1, kind=kind, model_fault=fault, process_timeout=5.0, methods=["paper_blind"]
    )
    first = outcomes[0]
    assert first["code"] == 1, "on_error=warn does not go on without the others"
    assert "process 0 of 2 got no answer from the others within 5 s: one of them has died or hangs" in first["error"]
    assert first["seconds"] < 60


def test_different_images_in_different_processes_are_refused(launch):
    _, outcomes = launch("run", 2, shuffled=True, methods=["paper_blind"])
    assert [outcome["code"] for outcome in outcomes] == [1, 1]
    assert "members are not the same images in every process" in outcomes[0]["error"]


def test_a_folder_that_only_the_first_process_cannot_write_stops_all(launch, tmp_path):
    (tmp_path / "file").write_text("")
    _, outcomes = launch("run", 2, dirpath=str(tmp_path / "file"), methods=["paper_blind"])
    assert [outcome["code"] for outcome in outcomes] == [1, 1]
    assert outcomes[0]["error"].startswith("NotADirectoryError: results folder")
    assert "in process 0 of 2: NotADirectoryError" in outcomes[1]["error"]

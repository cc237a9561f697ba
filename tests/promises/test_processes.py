"""One audit by several processes: the same rows, written once; no process waits in vain for another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import process_workers
import pytest
from launching import TIMEOUT, free_port

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.results.run_folder import RunFolder

FEW = process_workers.METHODS
IGNORED = ("seconds", "time", "cost", "weights_sha256")  # weights that are spread over processes have no hash
WITHOUT_GRADIENTS = {
    "blind": BlindRecovery(gradients="never"),
    "known_mask": KnownMaskRecovery(gradients="never"),
}
ROOT = Path(__file__).parents[2]
WORKERS = Path(process_workers.__file__)


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

    def rows(num_members, num_controls, methods=process_workers.METHODS, gradients="auto"):
        key = (num_members, num_controls, methods, gradients)
        if key not in known:
            if gradients == "never":
                methods = {name: WITHOUT_GRADIENTS.get(name, name) for name in methods}
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
        pytest.param("ddp", 3, (2, 2), FEW, marks=pytest.mark.slow),  # one process has none
        pytest.param("fsdp2", 1, (7, 5), FEW, marks=pytest.mark.slow),
        ("fsdp2", 2, (7, 5), FEW),
        pytest.param("fsdp2", 3, (2, 2), FEW, marks=pytest.mark.slow),
        pytest.param("fsdp2", 3, (7, 5), (*FEW, "blind", "known_mask"), marks=pytest.mark.slow),
        ("tensor-parallel", 2, (7, 5), FEW),
    ],
)
def test_the_rows_are_those_of_a_single_process(launch, single, kind, world_size, num_images, methods):
    members, controls = num_images
    folder, outcomes = launch("run", world_size, kind=kind, num_members=members, num_controls=controls, methods=methods)
    assert [outcome["code"] for outcome in outcomes] == [0] * world_size, outcomes
    audits, images = rows_of(folder)
    # A backward pass through weights that are spread would need the other processes, which may make none.
    expected = single(members, controls, methods, gradients="auto" if kind == "ddp" else "never")
    assert any(row["num_recovered"] > 0 for row in expected[0] if row["method"] == "paper_blind")
    assert_same(expected, [[row for row in rows if row["audit"] == 0] for rows in (audits, images)])
    # The second audit was triggered by the loss, averaged over the processes; all of them know its result.
    assert {row["audit"]: row["trigger"] for row in audits} == {0: "epoch 0", 1: "train_loss<=1"}
    assert len(images) == 2 * len(expected[1]), "rows are written once"
    assert not list((folder / "memaudit").glob("superseded-*")), "by one process"
    assert all(outcome["headline"] == outcomes[0]["headline"] for outcome in outcomes)
    assert all(outcome["num_audits"] == 2 for outcome in outcomes)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed_and_explained(launch):
    _, outcomes = launch("run", 2, waiting_for=1, model_fault="hangs", process_timeout=5.0, methods=["paper_blind"])
    first = outcomes[0]
    assert first["code"] == 1, "on_error=warn does not go on without the others"
    assert "process 0 of 2 got no answer from the others within 5 s: one of them has died or hangs" in first["error"]


def test_a_process_that_dies_is_noticed_and_explained(launch):
    _, outcomes = launch("run", 2, model_fault="dies", methods=["paper_blind"])
    assert [outcome["code"] for outcome in outcomes] == [1, 9]
    assert "process 0 of 2 got no answer from the others: one of them has died" in outcomes[0]["error"]


@pytest.mark.slow
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

"""A process that fails, or is asked to end, ends the work of the others soon, with the cause; real processes.

The others would call the model for minutes more: where they end before that, they did not just finish their part.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import process_workers
import pytest
from launching import skip_where_nothing_shards

from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.run_folder import RunFolder

ROOT, WORKERS = Path(__file__).parents[2], Path(process_workers.__file__)
ALL_CALLS = 10_000


def assert_nothing_is_lost(folder, audits=(0,)):
    """What was written before is there, whole, and nothing of the audit that was stopped."""
    run = RunFolder(folder / "memaudit")
    assert {row["audit"] for row in run.audits()} == set(audits)
    assert len(run.images()) == len(audits) * 2 * (7 + 5)


def assert_all_ended(outcomes, codes):
    assert [outcome["code"] for outcome in outcomes] == codes, outcomes
    assert all(outcome.get("calls", 0) < ALL_CALLS for outcome in outcomes), "stopped before their part was done"


@pytest.fixture(scope="module")
def undisturbed(context, tmp_path_factory):
    """The weights after a training in which no audit failed."""
    from launching import launch_in

    parent = tmp_path_factory.mktemp("undisturbed")
    return launch_in(context, parent, "run", 2, kind="fsdp2", max_epochs=2, at_epochs=[], at_train_loss=[])[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_failure_between_calls_stops_all_at_their_next_call(launch, kind):
    folder, outcomes = launch("run", 2, kind=kind, script=("fails", "method", [1]), on_error="raise")
    assert_all_ended(outcomes, [1, 1])
    assert outcomes[0]["error"] == "RuntimeError: in process 1 of 2: RuntimeError: cannot be read"
    assert outcomes[1]["error"] == "RuntimeError: cannot be read"
    assert_nothing_is_lost(folder)


@pytest.mark.slow
def test_the_training_goes_on_after_all_have_stopped(launch, undisturbed):
    folder, outcomes = launch("run", 3, kind="fsdp2", script=("asks to stop", "method", [2]))
    assert_all_ended(outcomes, [0, 0, 0])
    assert "failed, the training goes on: RuntimeError: in process 2 of 3: AuditStopped: enough" in outcomes[0]["log"]
    assert_nothing_is_lost(folder, [0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [pytest.param("fails", marks=pytest.mark.slow), "runs out of memory"])
def test_a_model_that_fails_in_all_processes_is_an_error_like_any_other(launch, undisturbed, fault):
    folder, outcomes = launch("run", 2, kind="fsdp2", script=(fault, "within", [0, 1]))
    assert_all_ended(outcomes, [0, 0])
    cause = {"fails": "RuntimeError: cannot be read", "runs out of memory": "MemoryError: no memory left"}[fault]
    assert f"unending failed on members, random-0.5: {cause}" in outcomes[0]["log"]
    assert ("going on with fewer" in outcomes[0]["log"]) == (fault == "runs out of memory")
    assert_nothing_is_lost(folder, [0, 1, 2])
    failed = [row for row in RunFolder(folder / "memaudit").images() if row["failed"]]
    assert {(row["audit"], row["method"]) for row in failed} == {(1, "unending")}
    assert len(failed) == 7 + 5
    for outcome, expected in zip(outcomes, undisturbed, strict=True):
        assert outcome["steps"] == 4
        assert outcome["weights"] == expected["weights"], "bit by bit"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "place", "failing"),
    [
        ("fails", "before", 0),  # the others wait for its weights; it holds the store of the run
        ("runs out of memory", "within", 1),
        ("fails", "after", 1),  # the others have completed the call
    ],
)
def test_a_model_that_fails_in_one_process_ends_all_with_the_cause(launch, fault, place, failing):
    folder, outcomes = launch("run", 2, kind="fsdp2", script=(fault, place, [failing]))
    assert_all_ended(outcomes, [1, 1])
    cause = {"fails": "RuntimeError: cannot be read", "runs out of memory": "MemoryError: no memory left"}[fault]
    for outcome in outcomes:
        assert outcome["error"] == f"ProcessesLost: memorization audit: in process {failing} of 2: {cause}"
        assert "going on with fewer" not in outcome["log"], "no smaller batch while the others wait with the whole"
    assert_nothing_is_lost(folder)


LATE = pytest.param("is asked to end when it has done its part", marks=pytest.mark.slow)


@pytest.mark.parametrize("when", ["is asked to end", LATE])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_sigterm_to_one_process_ends_the_audit_in_all(launch, kind, when):
    folder, outcomes = launch("run", 2, kind=kind, script=(when, "method", [1]))
    assert_all_ended(outcomes, [1, 1])
    for outcome in outcomes:
        assert outcome["error"].startswith("SIGTERMException"), "the training ends as Lightning ends it"
    assert "gave way to SIGTERM" in outcomes[0]["log"]
    assert_nothing_is_lost(folder)


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_is_noticed_within_a_call(launch, killed):
    folder, outcomes = launch("run", 2, kind="fsdp2", script=("is killed", "within", [killed]))
    assert_all_ended(outcomes, [-signal.SIGKILL if rank == killed else 1 for rank in range(2)])
    left = outcomes[1 - killed]
    assert f"process {1 - killed} of 2 got no answer from the others: one of them has died" in left["error"]
    assert_nothing_is_lost(folder)


@pytest.mark.slow
def test_a_process_that_hangs_within_a_call_ends_all(launch):
    """Nothing can be raised in a process that waits for the weights of another."""
    folder, outcomes = launch("run", 2, kind="fsdp2", script=("hangs", "within", [1]), process_timeout=4.0)
    assert_all_ended(outcomes, [1, 1])
    for rank, outcome in enumerate(outcomes):
        assert f"process {rank} of 2 has waited" in outcome["log"], outcome["log"]
        assert "pass a longer process_timeout" in outcome["log"]
    assert_nothing_is_lost(folder)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_under_the_launcher_of_lightning_too(tmp_path, failing):
    """The first process starts the other one, and both end by themselves, as a script does."""
    skip_where_nothing_shards("fsdp2")
    arguments = {"kind": "fsdp2", "script": ["runs out of memory", "within", [failing]]}
    path = os.pathsep.join([str(ROOT), str(WORKERS.parent)])
    done = subprocess.run(
        [sys.executable, str(WORKERS), str(tmp_path), json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    for rank in range(2):
        cause = f"memorization audit: in process {failing} of 2: MemoryError: no memory left"
        assert f"[rank{rank}]: lightning_memaudit.measurement.processes.ProcessesLost: {cause}" in done.stderr
    assert_nothing_is_lost(tmp_path)


def test_processes_can_be_pickled_when_idle():
    processes = pickle.loads(pickle.dumps(Processes(timeout=3.0)))
    assert processes == Processes(timeout=3.0)
    assert processes.share(lambda: "measured") == ["measured"]

"""Two runs never write to one results folder; a killed one leaves no lock; without locks there is a warning."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from lightning_memaudit.results.run_folder import RunFolder

HOLDER = """
import os, sys, time
from lightning_memaudit.results.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.lock()
if "fork" not in sys.argv or os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(600)
"""


def hold(folder, *arguments):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder, *arguments], stdout=subprocess.PIPE, text=True)
    return holder, holder.stdout.readline().strip()


def test_another_process_is_told_who_writes_here_and_gets_in_when_that_is_killed(tmp_path):
    holder, _ = hold(tmp_path)
    for _ in range(2):  # and trying does not make it forget who it is
        with pytest.raises(PermissionError) as caught:
            RunFolder(tmp_path).lock()
        message = str(caught.value)
        assert f"results folder {tmp_path} is in use by process {holder.pid} on {os.uname().nodename}" in message
        assert "pass another dirpath or name" in message
        assert "\n" not in message
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    folder = RunFolder(tmp_path)
    folder.lock()
    folder.unlock()
    RunFolder(tmp_path).lock()


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_run(tmp_path):
    holder, child = hold(tmp_path, "fork")
    try:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        os.kill(int(child), 0)  # it lives on
        RunFolder(tmp_path).lock()
    finally:
        os.kill(int(child), signal.SIGKILL)
        holder.stdout.close()


def test_a_second_run_in_the_same_process_is_kept_out_too(tmp_path):
    first = RunFolder(tmp_path)
    first.lock()
    with pytest.raises(PermissionError, match=f"process {os.getpid()} "):
        RunFolder(tmp_path).lock()
    first.unlock()
    first.unlock()
    RunFolder(tmp_path).lock()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_pointed_out_and_used(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    folder = RunFolder(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder.lock()
    assert [str(one.message).startswith(f"results folder {tmp_path} cannot be locked") for one in caught] == [True]
    folder.unlock()
    folder.append_audit([{"audit": 0, "step": 1}], [], {})
    assert folder.audited() == {(0, 1)}

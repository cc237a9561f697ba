"""A signal, a kill, a damaged file: at most the audit in progress is lost, and resuming repeats it."""

import json
import os
import signal
import warnings

import fault_workers
import pytest
from fault_workers import FaultyModule, fit, numbers, results

from lightning_memaudit.results.run_folder import RunFolder

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]

SLOW = pytest.mark.slow


def same_as_uninterrupted():
    fit("whole")
    for found, expected in zip(results(), results("whole"), strict=True):
        assert found == expected


@pytest.mark.parametrize(
    ("audit", "call"), [(0, 3), pytest.param(1, 3, marks=SLOW), pytest.param(2, 3, marks=SLOW), (1, -29)]
)
def test_sigterm_ends_the_audit_at_once_and_resuming_repeats_it(audit, call, calls_before):
    """Near its beginning, or within its last recoveries, 26 calls before the next one's: these do not fail."""
    call_of_signal = calls_before[audit if call > 0 else audit + 1] + call
    module = FaultyModule(lambda call: call == call_of_signal, lambda x: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.warns(UserWarning, match="gave way to SIGTERM"), pytest.raises(SystemExit):
        fit(".", module)
    assert module.calls == call_of_signal, "no call of the model after the signal"
    assert numbers() == list(range(audit))
    fit(".", None, ckpt_path="saved/last.ckpt")
    same_as_uninterrupted()


@pytest.mark.parametrize(
    ("where", "number"),
    [
        pytest.param("model", 30, marks=pytest.mark.slow),
        *[pytest.param("write", number, marks=SLOW) for number in (2, 3, 5, 6, 7)],
        *[pytest.param("rename", number, marks=SLOW) for number in (2, 4)],
        ("write", 4),
        ("rename", 3),
    ],
)
def test_sigkill_loses_at_most_the_audit_in_progress(context, where, number):
    process = context.Process(target=fault_workers.killed, args=(os.getcwd(), where, number))  # noqa: PTH109
    process.start()
    process.join(90)
    assert process.exitcode == -signal.SIGKILL
    left = numbers()
    assert left == list(range(len(left)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(".", None, ckpt_path="saved/last.ckpt" if os.path.exists("saved/last.ckpt") else None)  # noqa: PTH110
    same_as_uninterrupted()


@pytest.mark.parametrize("cut", [pytest.param(1, marks=SLOW), 20, pytest.param(300, marks=SLOW)])
@pytest.mark.parametrize("name", ["audits.jsonl", "images.jsonl"])
def test_a_truncated_file_is_repaired_on_resume(name, cut):
    fit(".", max_epochs=2)
    path = RunFolder("memaudit").path / name
    path.write_bytes(path.read_bytes()[:-cut])
    fit(".", None, ckpt_path="saved/last.ckpt")
    assert numbers()[-1] == 2
    assert 0 in numbers()
    for file in ("audits.jsonl", "images.jsonl"):
        for line in (RunFolder("memaudit").path / file).read_text().splitlines():
            json.loads(line)


def test_a_damaged_line_in_the_middle_is_reported_before_training():
    fit(".", max_epochs=2)
    path = RunFolder("memaudit").path / "audits.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "\0\0\0\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"audits\.jsonl is corrupt at line 3"):
        fit(".", None, ckpt_path="saved/last.ckpt")

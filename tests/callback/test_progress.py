"""How long an audit takes is said where it is long, on whatever shows its progress."""

import io

import pytest
import rich
from rich.console import Console

from lightning_memaudit.callback.progress import AuditProgress


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (9.9, ""), (10, ", about 10 s"), (170, ", about 3 min"), (7200, ", about 2 h")],
)
@pytest.mark.parametrize("watched", [False, True])
def test_the_estimate_is_said_from_ten_seconds_on(seconds, said, watched, monkeypatch, capsys):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=watched, width=120))
    with AuditProgress(None, 100, "epoch 20", seconds):
        pass
    if watched:
        assert f"Audit (epoch 20){said} " in screen.getvalue()
    else:
        assert capsys.readouterr().out == f"Audit (epoch 20): 100 recoveries{said}\n"

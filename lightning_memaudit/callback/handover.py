"""The last report, on its way from a process that Lightning launched back to the one that called ``fit``."""

import os
import stat
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.cells import Cell
from lightning_memaudit.results.rows import Occasion


def is_launched(trainer: Trainer) -> bool:
    """Whether ``fit`` launched this process (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``).

    To be asked in a hook: under these strategies hooks run in the launched processes alone.
    """
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


class ReportHandover:
    """A private file through which a child process gives its parent the last report.

    Its path is fixed when it is made, so that both know it: a forked child has it in its memory, a spawned one from the
    pickle. A deep copy is another handover, with a path of its own. The file is readable for this user alone; the
    parent removes it when it takes the report, or at its end.

    >>> import copy
    >>> handover = ReportHandover()
    >>> in_the_child = copy.copy(handover)  # as a fork has it
    >>> in_the_child.put(None)
    >>> handover.take(), handover.take()
    ((None,), ())
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.gettempdir(), f"memaudit-{uuid4().hex}.pt")
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __deepcopy__(self, memo: dict[int, Any]) -> "ReportHandover":
        return ReportHandover()

    def put(self, report: AuditReport | None) -> None:
        """Leave a report, or that there is none yet, in place of what was left before.

        Raises:
            OSError: The file cannot be written.
        """
        unfinished = self.path.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            torch.save(None if report is None else _plain(report), file)
        unfinished.replace(self.path)

    def take(self) -> tuple[AuditReport | None, ...]:
        """What was left since this was last asked, once; empty where nothing was.

        Only a plain file of this user that nobody else may write or read is opened, and loaded as plain values.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return ()
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if hasattr(os, "geteuid") and (
                not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077
            ):
                return ()
            content = torch.load(file, weights_only=True)
        self.path.unlink(missing_ok=True)
        return (None if content is None else _report(content),)

    def discard(self) -> None:
        """Remove what was left, which is of no use any more."""
        self.path.unlink(missing_ok=True)


def _plain(report: AuditReport) -> dict[str, Any]:
    """A report as tensors, lists, texts and numbers."""
    content = {one.name: getattr(report, one.name) for one in fields(report)}
    cells = [{one.name: getattr(cell, one.name) for one in fields(cell)} for cell in report.cells]
    return content | {
        "occasion": asdict(report.occasion),
        "cells": [cell | {"columns": _tensors(cell["columns"])} for cell in cells],
        "recoveries": _tensors(report.recoveries),
    }


def _report(content: dict[str, Any]) -> AuditReport:
    cells = [Cell(**(cell | {"columns": _arrays(cell["columns"])})) for cell in content["cells"]]
    made = {"occasion": Occasion(**content["occasion"]), "cells": cells, "recoveries": _arrays(content["recoveries"])}
    return AuditReport(**(content | made))


def _tensors(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as tensors; texts, which no tensor holds, as lists with their kind."""
    return {
        name: (str(column.dtype), column.tolist()) if column.dtype.kind in "UO" else torch.from_numpy(column.copy())
        for name, column in columns.items()
    }


def _arrays(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: np.array(column[1], dtype=column[0]) if isinstance(column, tuple) else column.numpy()
        for name, column in columns.items()
    }


def _remove(path: Path, owner: int) -> None:
    """At the end of the process that made it; a forked child that ends leaves it for its parent."""
    if os.getpid() == owner:
        for file in (path, path.with_suffix(".tmp")):
            with suppress(OSError):
                file.unlink()

"""One thing that was computed again, and how two JSON values differ."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NOT_TRUE = "The report is NOT true."
OLDER = "The report is older than its results: make it again with `report`."
OTHER_RULES = "What the report concludes was not checked: make it again with `report`."
OTHER_WEIGHTS = "The checkpoint holds other weights than those that the report is about."


@dataclass(frozen=True)
class Check:
    """One thing that was computed again.

    Attributes:
        name: What was checked.
        passed: Whether it came out as the report says; None where it was not checked.
        detail: How much was checked, the first thing that differs, or why it was not checked.
        means: What to conclude if it did not pass.

    >>> import torch
    >>> from lightning_memaudit.measurement.engine import audit
    >>> from lightning_memaudit.report.verify import verify
    >>> from lightning_memaudit.report.write import write_report
    >>> from lightning_memaudit.results.run_folder import RunFolder
    >>> folder = RunFolder("memaudit")
    >>> folder.write_run({})
    >>> audit(lambda x: x, torch.rand(4, 1, 8, 8), patterns=["half"], methods=["biharmonic"]).append_to(folder)
    >>> report = write_report(folder, figures=False)
    >>> verify(folder)[0].name, verify(folder)[0].passed, verify(folder)[0].detail[:12]
    ('report.json is as it was written', True, 'its own hash')
    """

    name: str
    passed: bool | None
    detail: str
    means: str = field(default=NOT_TRUE, repr=False)


def guarded(name: str, function: Callable[..., Check], *arguments: Any) -> Check:
    """The check that a function makes; one that fails where what it reads cannot be what the tool has written."""
    try:
        return function(name, *arguments)
    except Exception as error:  # a folder from elsewhere may hold anything, and the other checks go on
        return Check(name, False, _reason(error))


def _reason(error: Exception) -> str:
    return f"it cannot be checked: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def guarded_all(function: Callable[..., Iterable[Check]], *arguments: Any) -> Iterator[Check]:
    """The checks that a function yields, and one that fails where it cannot go on."""
    try:
        yield from function(*arguments)
    except Exception as error:
        yield Check("what is not checked", False, _reason(error))


def first(name: str, problems: Iterable[str], passed: str) -> Check:
    """A check that fails with the first problem, if there is one."""
    problem = next(iter(problems), None)
    return Check(name, problem is None, passed if problem is None else problem)


def differences(one: Any, other: Any, place: str, ignored: str = "") -> Iterator[str]:
    """Where two JSON values differ; numbers may by the last digits that another library version rounds.

    Args:
        one: As it is written.
        other: As it is computed again.
        place: Where they are, for people.
        ignored: A key that may differ, or be in one of them only.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            if key == ignored:
                continue
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{place}/{key}" if place else str(key), ignored)
            else:
                yield f"{place}/{key} is in one of them only"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}/{index}", ignored)
    elif isinstance(one, float) and isinstance(other, float):
        if not np.isclose(one, other, rtol=1e-6, atol=1e-9):
            yield f"{place} is {one}, computed again {other}"
    elif one != other:
        yield f"{place} is {_short(one)}, computed again {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."

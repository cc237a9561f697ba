"""A progress bar for the audit that does not fight the one that Lightning may be showing."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich

from lightning_memaudit.measurement.estimate import Estimate
from lightning_memaudit.results.cost import about

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Advance = Callable[[str, int, str], None]
"""Called with what was just done, the number of recoveries that are done by it, and what is said of the time left."""

Close = Callable[[], None]
_WORTH_SAYING = 10.0
"""Seconds."""

_ENOUGH_DONE = 0.1
"""Share of an audit after which its own pace tells how long the rest takes."""


class AuditProgress:
    """Shows how far an audit is, in the way that fits what is on the screen.

    Under Lightning's ``RichProgressBar`` the audit is one more line of the same live display; under its
    ``TQDMProgressBar`` a second tqdm bar below the first; without a trainer a bar of its own. All of them
    vanish at the end. Where nobody watches (no terminal, or progress bars switched off) one plain line is
    printed, and nothing at all on processes other than the first.

    Args:
        trainer: The trainer at work, if there is one.
        total: Number of recoveries to come.
        description: What is being done, in a few words.
        estimate: What it will cost, where that is known; from 10 s on this is said too, and how much time is left.

    >>> with AuditProgress(None, total=100, description="epoch 10") as bar:  # in no terminal, where nobody watches
    ...     bar.advance("members half blind", 50)
    Audit (epoch 10): 100 recoveries
    >>> with AuditProgress(None, 100, "epoch 20", Estimate(170.0, 5200.0, 50, 3e8, {}, {})):
    ...     pass
    Audit (epoch 20): 100 recoveries, about 3 min (5,200 evaluations of 50 images; 0.3 GB)
    """

    def __init__(
        self, trainer: "Trainer | None", total: int, description: str, estimate: Estimate | None = None
    ) -> None:
        self.trainer = trainer
        self.total = total
        self.description = description
        said = estimate is not None and estimate.seconds >= _WORTH_SAYING
        self.estimate = f", {estimate}" if said else ""
        self._time_left = TimeLeft(estimate, total) if said and estimate is not None else None
        self._advance: Advance = _ignore
        self._close: Close = _nothing

    def __enter__(self) -> "AuditProgress":
        self._advance, self._close = _open(self.trainer, self.total, f"Audit ({self.description})", self.estimate)
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()
        self._advance, self._close = _ignore, _nothing

    def advance(self, description: str, count: int) -> None:
        """Tell that ``count`` more recoveries are done, and of which kind they were."""
        left = "" if self._time_left is None else f", {self._time_left.after(description, count)} left"
        self._advance(f"Audit: {description}", count, left)


class TimeLeft:
    """How long an audit will still take: some methods take a hundred times as long as others.

    Args:
        estimate: Of the whole audit.
        total: Number of recoveries.
        clock: Seconds that only go up.

    >>> seconds = iter([0.0, 60.0])
    >>> cells = {("members", "half", "blind"): 90.0, ("members", "half", "known_mask"): 10.0}
    >>> left = TimeLeft(Estimate(100.0, 0, 2, 0, cells, {}), total=4, clock=lambda: next(seconds))
    >>> left.after("members · half · blind", 2)  # it took less than expected
    'about 7 s'
    """

    def __init__(self, estimate: Estimate, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._cells = {" · ".join(key): seconds for key, seconds in estimate.cells.items()}
        self._each = total / max(1, len(self._cells))
        self._expected, self._done = max(estimate.seconds, 1e-9), 0.0

    def after(self, description: str, count: int) -> str:
        """What is left after ``count`` more recoveries of a kind."""
        self._done += self._cells.get(description, 0.0) * min(1.0, count / max(self._each, 1e-9))
        elapsed = self._clock() - self._began
        share = min(1.0, self._done / self._expected)
        # At first the estimate says more, later what was done.
        pace = elapsed / self._done if share > _ENOUGH_DONE else 1.0
        return about(max(0.0, self._expected - self._done) * pace)


def end_display(trainer: "Trainer") -> None:
    """End the training's live display of rich, which else stays below all that is printed after the training.

    Lightning ends it in its teardown, to which this makes no difference.
    """
    display = getattr(getattr(trainer.progress_bar_callback, "progress", None), "live", None)
    if display is not None and display.is_started and display.console.is_terminal:
        display.stop()


def _open(trainer: "Trainer | None", total: int, description: str, estimate: str) -> tuple[Advance, Close]:
    if trainer is not None and not trainer.is_global_zero:
        return _ignore, _nothing
    plain = f"{description}: {total} recoveries{estimate}"
    description += estimate
    if trainer is None:
        return _own_bar(total, description) if rich.get_console().is_terminal else _plain_line(plain)
    bar: Any = trainer.progress_bar_callback
    if bar is not None and not getattr(bar, "is_disabled", False):
        live = getattr(bar, "progress", None)
        if live is not None and live.live.is_started and live.console.is_terminal:
            return _line_in(live, total, estimate)
        if hasattr(bar, "process_position") and sys.stdout.isatty():
            return _tqdm_bar(2 * bar.process_position + 1, total, description)
        if rich.get_console().is_terminal:
            return _own_bar(total, description)
    return _plain_line(plain)


def _line_in(progress: Any, total: int, estimate: str) -> tuple[Advance, Close]:
    """One more task of a live display of rich that somebody else owns."""
    task = progress.add_task(f"Audit{estimate}", total=total)

    def advance(text: str, count: int, left: str) -> None:
        # The line shares its columns with the training's; beside a long text their times and metrics wrap.
        progress.update(task, description=f"Audit: {text.rpartition(' ')[2]}{left}", advance=count)
        progress.refresh()

    def close() -> None:
        progress.remove_task(task)
        progress.refresh()

    return advance, close


def _tqdm_bar(position: int, total: int, description: str) -> tuple[Advance, Close]:
    """A tqdm bar below Lightning's, on the same stream."""
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        desc=description,
        position=position,
        leave=False,
        file=sys.stdout,
        dynamic_ncols=True,
        unit=" images",
    )

    def advance(text: str, count: int, left: str) -> None:
        bar.set_description(f"{text}{left}", refresh=False)
        bar.update(count)

    return advance, bar.close


def _own_bar(total: int, description: str) -> tuple[Advance, Close]:
    """A bar of rich that vanishes when done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, transient=True)
    task = progress.add_task(description, total=total)
    progress.start()

    def advance(text: str, count: int, left: str) -> None:
        progress.update(task, description=f"{text}{left}", advance=count)

    return advance, progress.stop


def _plain_line(text: str) -> tuple[Advance, Close]:
    print(text, flush=True)
    return _ignore, _nothing


def _ignore(description: str, count: int, left: str) -> None:
    pass


def _nothing() -> None:
    pass

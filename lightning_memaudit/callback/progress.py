"""A progress bar for the audit that does not fight the one that Lightning may be showing."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Advance = Callable[[str, int], None]
Close = Callable[[], None]
_WORTH_SAYING = 10.0


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
        seconds: How long it will take, where that is known; from 10 s on this is said too.

    >>> with AuditProgress(None, total=100, description="epoch 10") as bar:  # in no terminal, where nobody watches
    ...     bar.advance("members half blind", 50)
    Audit (epoch 10): 100 recoveries
    >>> with AuditProgress(None, 100, "epoch 20", seconds=170):
    ...     pass
    Audit (epoch 20): 100 recoveries, about 3 min
    """

    def __init__(self, trainer: "Trainer | None", total: int, description: str, seconds: float | None = None) -> None:
        self.trainer = trainer
        self.total = total
        self.description = description
        self.estimate = f", {about(seconds)}" if seconds is not None and seconds >= _WORTH_SAYING else ""
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
        self._advance(f"Audit: {description}", count)


def about(seconds: float) -> str:
    """A duration for people, in one unit.

    >>> about(42), about(170), about(5400), about(400_000)
    ('about 42 s', 'about 3 min', 'about 90 min', 'about 111 h')
    """
    number, unit = (seconds, "s") if seconds < 90 else (seconds / 60, "min")
    if number > 90:
        number, unit = seconds / 3600, "h"
    return f"about {number:.0f} {unit}"


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

    def advance(text: str, count: int) -> None:
        # The line shares its columns with the training's; beside a long text their times and metrics wrap.
        progress.update(task, description=f"Audit: {text.rpartition(' ')[2]}", advance=count)
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

    def advance(text: str, count: int) -> None:
        bar.set_description(text, refresh=False)
        bar.update(count)

    return advance, bar.close


def _own_bar(total: int, description: str) -> tuple[Advance, Close]:
    """A bar of rich that vanishes when done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeRemainingColumn(), transient=True)
    task = progress.add_task(description, total=total)
    progress.start()

    def advance(text: str, count: int) -> None:
        progress.update(task, description=text, advance=count)

    return advance, progress.stop


def _plain_line(text: str) -> tuple[Advance, Close]:
    print(text, flush=True)
    return _ignore, _nothing


def _ignore(description: str, count: int) -> None:
    pass


def _nothing() -> None:
    pass

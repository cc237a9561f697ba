"""The command line. Sees every room; nothing sees it.

Commands that need no torch are dispatched before torch is imported, and so is ``--help``, also that of a command.
"""

import os
import select
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from lightning_memaudit.cli.plain import plain_signs
from lightning_memaudit.cli.twins import imported_as_one
from lightning_memaudit.results.names import did_you_mean

SCRIPT = "lightning-memaudit"
"""The console script; the same as ``python -m lightning_memaudit``."""
PROGRAM = SCRIPT if Path(sys.argv[0]).stem == SCRIPT else "python -m lightning_memaudit"
"""How the command line was started, and can be started again."""
DEBUG_VARIABLE = "MEMAUDIT_DEBUG"

DONE, FAILED, BAD_USAGE, GATE_HOLDS, UNDECIDED = 0, 1, 2, 3, 4

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("lightning_memaudit.cli.fit:run_fit", "train an autoencoder and audit it as it trains"),
    "audit": ("lightning_memaudit.cli.audit:run_audit", "audit a checkpoint of any LightningModule"),
    "bench": ("lightning_memaudit.cli.bench:run_bench", "measure speed, and what each piece of the method pays"),
    "report": ("lightning_memaudit.cli.report:run_report", "rebuild tables and reports from results; compare runs"),
    "verify": ("lightning_memaudit.cli.report:run_verify", "score the saved recoveries again: is the report true?"),
    "dashboard": ("lightning_memaudit.cli.report:run_dashboard", "save a W&B workspace that shows the audits"),
    "configs": ("lightning_memaudit.cli.configs:run_configs", "list the configs that come with it, or print one"),
    "completion": ("lightning_memaudit.cli.completion:run_completion", "print what completes the options in a shell"),
}
"""Where each command lives, as ``module:function`` of its arguments, and what it does."""

OTHER_NAMES = {
    "train": "fit",
    "training": "fit",
    "run": "fit",
    "test": "audit",
    "validate": "audit",
    "evaluate": "audit",
    "benchmark": "bench",
    "compare": "report",
    "html": "report",
    "check": "verify",
    "sweep": "configs",
    "list": "configs",
    "complete": "completion",
}
"""What people call a command who have not read its name."""

PREPARED = {
    "fit": "lightning_memaudit.cli.first_help:prepared",
    "audit": "lightning_memaudit.cli.first_help:prepared",
}
"""What is done with the arguments of a command before it gets them, as ``module:function``; None: all is done."""

TWIN = "lightning_memaudit.cli.reference:fit_with_twin"
"""What follows ``fit`` where a twin is asked for; like a command, it is looked up when it is needed."""

QUESTION = "How much of its training data does this autoencoder remember?"
HINTS = (
    "With no options, `fit` trains and audits the quickstart: 50 real faces, about two minutes on two cores.",
    f"`{PROGRAM} <command> --help` lists the options of a command.",
)


class UsageError(ValueError):
    """What was asked for cannot be done as it was asked; the message is one line that says what to change.

    >>> from lightning_memaudit.cli.bench import run_bench
    >>> run_bench(["sped"])
    Traceback (most recent call last):
    lightning_memaudit.cli.main.UsageError: 'sped' is not a measurement; did you mean 'speed'?; known: speed, ...
    >>> main(["bench", "sped"])  # prints that line to stderr
    2
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 it failed, 2 it was asked for wrongly.

    Of ``audit`` and ``report`` also 3, where what ``--fail_if`` names holds, and 4, where that was not measured, or
    where the verdict is inconclusive and ``--strict`` asks.

    Args:
        args: Command line arguments without the program; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        with plain_signs(), imported_as_one(), _importable(os.getcwd()):  # noqa: PTH109 - as Python writes it there
            return _dispatch(arguments)
    except SystemExit as exit_:
        # Options such as --help and --print_config end in this way.
        return exit_.code if isinstance(exit_.code, int) else DONE if exit_.code is None else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILED
        if os.environ.get(DEBUG_VARIABLE):
            raise
        from lightning_memaudit.report.labels import printable

        code = exit_code(error)
        with plain_signs():
            print(legible(f"error: {printable(one_line(error))}", sys.stderr), file=sys.stderr)
        if code == FAILED:
            print(f"       set {DEBUG_VARIABLE}=1 for the traceback", file=sys.stderr)
        return code


def _nobody_reads() -> bool:
    """Whether what stdout goes to has ended, as `head` does when it has enough: no reason to complain."""
    if not hasattr(select, "poll"):
        return False
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # where Python flushes the rest at its end
    return True


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Modules in the folder of the command can be named in options, however the command was started."""
    missing = not {"", folder} & {*sys.path}
    if missing:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if missing and folder in sys.path:
            sys.path.remove(folder)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(wrapped(f"usage: {PROGRAM} <command> [options]"), wrapped(QUESTION), sep="\n\n")
        print("\ncommands:", in_columns({name: what for name, (_, what) in COMMANDS.items()}), "", sep="\n")
        print(*map(wrapped, HINTS), sep="\n")
        return DONE
    if arguments[0] == "--version":
        from lightning_memaudit import __version__

        print(f"lightning_memaudit {__version__}")
        return DONE
    command, *rest = arguments
    if command not in COMMANDS:
        meant = OTHER_NAMES.get(command)
        near = f"; did you mean {meant!r}?" if meant else hint(command, COMMANDS)
        raise UsageError(f"{command!r} is not a command{near}; known: {', '.join(COMMANDS)}")
    given = look_up(PREPARED[command])(command, rest) if command in PREPARED else rest
    if given is None:
        return DONE
    code: int = look_up(COMMANDS[command][0])(given)
    return code


def columns() -> int:
    """Columns of the terminal; 80 where there is none, and never so few that no word fits."""
    return max(30, shutil.get_terminal_size().columns)


def wrapped(text: str, indent: str = "") -> str:
    """The text in lines that this terminal shows whole; all but the first are indented."""
    return _filled(text, "", indent)


def legible(text: str, stream: TextIO) -> str:
    """One line, which a terminal would break within words: there broken between them, elsewhere as it is."""
    return wrapped(text, "  ") if stream.isatty() else text


def _filled(text: str, first: str, below: str) -> str:
    width = columns() - 1
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=below, break_on_hyphens=False)


def in_columns(what: Mapping[str, str], indent: str = "  ") -> str:
    """Names with what they are, one below the other; in a narrow terminal the words begin below a long name.

    >>> print(in_columns({"fit": "train", "audit": "look"}))
      fit    train
      audit  look
    """
    width = min(max(map(len, what)), columns() // 2)
    lines = []
    for name, words in what.items():
        start = f"{indent}{name:{width}}  "
        below = " " * (len(indent) + width + 2)
        if len(name) > width:
            lines.append(f"{indent}{name}")
            start = below
        lines.append(_filled(words, start, below))
    return "\n".join(lines)


def look_up(place: str) -> Callable[..., Any]:
    """The function at ``module:function``."""
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def exit_code(error: Exception) -> int:
    """2 for errors that the user can mend in the arguments, config or input, 1 for all others."""
    bad_input = (
        ValueError,
        TypeError,
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        PermissionError,
    )
    if isinstance(error, bad_input):
        return BAD_USAGE
    # Lightning's own name for a wrong argument; imported by whoever could have raised it.
    exceptions = sys.modules.get("lightning.fabric.utilities.exceptions")
    misconfiguration = getattr(exceptions, "MisconfigurationException", None)
    return BAD_USAGE if misconfiguration is not None and isinstance(error, misconfiguration) else FAILED


def one_line(error: Exception) -> str:
    """The message of an error, on one line; its type too when it is not one of those meant for users."""
    text = " ".join(str(error).split()) or "no message"
    return text if exit_code(error) == BAD_USAGE else f"{type(error).__name__}: {text}"


def hint(given: str, known: Iterable[str]) -> str:
    """``; did you mean 'this'?`` when something known is near, else nothing."""
    nearest = did_you_mean(given, known)
    return f"; {nearest}" if nearest else ""


def shipped_configs() -> Path:
    """The folder of the configs: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"

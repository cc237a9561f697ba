"""The command line. Sees every room; nothing sees it.

Commands that need no torch are dispatched before torch is imported, and so is ``--help``.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_memaudit.cli.twins import imported_as_one
from lightning_memaudit.results.names import did_you_mean

PROGRAM = "python -m lightning_memaudit"
DEBUG_VARIABLE = "MEMAUDIT_DEBUG"

DONE, FAILED, BAD_USAGE, GATE_HOLDS, UNDECIDED = 0, 1, 2, 3, 4

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("lightning_memaudit.cli.fit:run_fit", "train an autoencoder and audit it as it trains"),
    "audit": ("lightning_memaudit.cli.audit:run_audit", "audit a checkpoint of any LightningModule"),
    "bench": ("lightning_memaudit.cli.bench:run_bench", "measure speed, and what each piece of the method pays"),
    "report": ("lightning_memaudit.cli.report:run_report", "rebuild tables and reports from results; compare runs"),
    "verify": ("lightning_memaudit.cli.report:run_verify", "score the saved recoveries again: is the report true?"),
    "dashboard": ("lightning_memaudit.cli.report:run_dashboard", "save a W&B workspace that shows the audits"),
}
"""Where each command lives, as ``module:function`` of its arguments, and what it does."""

TWIN = "lightning_memaudit.cli.reference:fit_with_twin"
"""What follows ``fit`` where a twin is asked for; like a command, it is looked up when it is needed."""

HELP = f"""\
usage: {PROGRAM} <command> [options]

How much of its training data does this autoencoder remember?

commands:
{{commands}}

With no options, `fit` trains and audits the quickstart: 50 real faces, about two minutes on two cores.
`{PROGRAM} <command> --help` lists the options of a command.
"""


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
        with imported_as_one(), _importable(os.getcwd()):  # noqa: PTH109 - as Python writes it there itself
            return _dispatch(arguments)
    except SystemExit as exit_:
        # Options such as --help and --print_config end in this way.
        return exit_.code if isinstance(exit_.code, int) else DONE if exit_.code is None else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        from lightning_memaudit.report.labels import printable

        code = exit_code(error)
        print(f"error: {printable(one_line(error))}", file=sys.stderr)
        if code == FAILED:
            print(f"       set {DEBUG_VARIABLE}=1 for the traceback", file=sys.stderr)
        return code


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
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items())))
        return DONE
    if arguments[0] == "--version":
        from lightning_memaudit import __version__

        print(f"lightning_memaudit {__version__}")
        return DONE
    command, *rest = arguments
    if command not in COMMANDS:
        raise UsageError(f"{command!r} is not a command{hint(command, COMMANDS)}; known: {', '.join(COMMANDS)}")
    code: int = look_up(COMMANDS[command][0])(rest)
    return code


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

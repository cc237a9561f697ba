"""``lightning-memaudit completion SHELL``: the script by which a shell completes commands, options and their values.

It is made by shtab, through jsonargparse, from the parsers themselves: each is caught as it begins to parse.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any, NoReturn

from lightning_memaudit.cli.main import DONE, SCRIPT, UsageError, hint, look_up, wrapped

SHELLS = ("bash", "zsh", "tcsh")
FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""``shtab.FILE``, which is known without shtab."""
EXTRA = "completion"
"""The extra that brings shtab."""
USAGE = f"""\
usage: {SCRIPT} completion {{{",".join(SHELLS)}}}

Print the script that completes the options of {SCRIPT}. In bash, for this session:
  eval "$({SCRIPT} completion bash)"
For all sessions:
  {SCRIPT} completion bash > ~/.local/share/bash-completion/completions/{SCRIPT}
In zsh, for all sessions, in a folder of $fpath:
  {SCRIPT} completion zsh > ~/.zfunc/_{SCRIPT}
"""


def run_completion(arguments: Sequence[str]) -> int:
    """Print the script for a shell.

    Raises:
        UsageError: An unknown shell, or shtab is not installed.
    """
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(
            "\n".join(
                wrapped(line, "  ") if len(line) > 60 and "~" not in line else line for line in USAGE.splitlines()
            )
        )
        return DONE
    shell, *more = arguments
    if shell not in SHELLS or more:
        given = " ".join(arguments)
        raise UsageError(f"completion {given}: give one shell{hint(shell, SHELLS)}; known: {', '.join(SHELLS)}")
    if find_spec("shtab") is None:
        raise UsageError(f"completion takes shtab: pip install 'lightning-memaudit[{EXTRA}]'")
    with redirect_stdout(StringIO()):  # a help that is printed on the way is no part of a script
        parser = whole_parser()
    print(parser.get_completion_script(f"shtab-{shell}"))
    return DONE


def whole_parser() -> Any:
    """One parser of all commands, as the console script would have it if it did not look for its commands itself."""
    from jsonargparse import ArgumentParser, capture_parser

    from lightning_memaudit.cli.bench import BENCHMARKS, MEASURED, parse_and_run
    from lightning_memaudit.cli.configs import names
    from lightning_memaudit.cli.gate import gate_parser
    from lightning_memaudit.cli.main import COMMANDS

    whole: Any = ArgumentParser(prog=SCRIPT, description="Audits what an autoencoder remembers.")
    commands = whole.add_subcommands(required=False)
    for name, (place, what) in COMMANDS.items():
        if name in ("fit", "audit"):
            caught: Any = capture_parser(look_up(place), ["--help"])
            own = caught._subcommands_action._name_parser_map[name]
            own.description = what
            own.add_argument("-v", "--verbose", action="store_true", help="with --help: show all options")
            _leave_out_what_classes_take(own)
            for action in gate_parser()._actions if name == "audit" else ():
                _add(own, action)
            if name == "audit":
                own.add_argument("run", nargs="?").complete = FILE
        else:
            own = ArgumentParser()
        commands.add_subcommand(name, own, help=what)
        if name == "bench":
            measurements = own.add_subcommands(required=False, dest="measurement")
            for one, measurement in BENCHMARKS.items():
                options = capture_parser(parse_and_run, one, look_up(measurement), [])
                measurements.add_subcommand(one, options, help=MEASURED[one])
        elif name == "configs":
            own.add_argument("config", nargs="*", choices=[*names()])
        elif name == "completion":
            own.add_argument("shell", choices=SHELLS)
        elif name not in ("fit", "audit"):
            for action in _plain_actions(look_up(place)):
                _add(own, action)
    return whole


def _leave_out_what_classes_take(parser: Any) -> None:
    """Classes are completed by the name of a file only: all that all of them take is megabytes, and takes minutes."""
    options = parser._option_string_actions
    for option in [one.removesuffix(".help") for one in options if one.endswith(".help")]:
        options[option].complete = FILE


class _Caught(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@contextmanager
def _catching() -> Iterator[None]:
    """Whatever parser of the standard library begins to parse is raised as :class:`_Caught`."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _Caught(self)

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]


def _plain_actions(command: Callable[[Sequence[str]], int]) -> list[argparse.Action]:
    """The options and arguments of a command whose parser is one of the standard library."""
    try:
        with _catching():
            command([])
    except _Caught as caught:
        return [one for one in caught.parser._actions if one.dest != "help"]
    raise AssertionError(f"{command} has no parser")


def _add(parser: Any, action: argparse.Action) -> None:
    """Give a parser the option that another one has; what it does is of no matter, only how it is written."""
    settings: dict[str, Any] = {"help": action.help}
    if action.nargs == 0:
        settings["action"] = "store_true"
    elif action.choices:
        settings["choices"] = list(action.choices)
    if not action.option_strings:
        settings["nargs"] = action.nargs
    added = parser.add_argument(*(action.option_strings or [action.dest]), **settings)
    if action.nargs != 0 and not action.choices:
        added.complete = FILE

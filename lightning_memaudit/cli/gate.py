"""``--fail_if``, ``--strict``, ``--format``: the exit code of ``audit`` and ``report`` as a gate before a release."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lightning_memaudit.cli.main import DONE, FAILED, GATE_HOLDS, PROGRAM, UNDECIDED, UsageError
from lightning_memaudit.report.gate_formats import FORMATS, VERDICT, Document, GatedRun
from lightning_memaudit.report.labels import printable
from lightning_memaudit.results.files import write_text
from lightning_memaudit.results.gate import NAMES, Condition, Examined, read_conditions

OPTIONS: dict[str, dict[str, Any]] = {
    "fail_if": {
        "action": "append",
        "metavar": "'NAME>VALUE'",
        "help": "exit with 3 where this holds, such as 'memorized_rate>0.05' or outcome==memorized; may be given "
        f"several times. What was not measured is no pass: it exits with 4. Names: {', '.join(NAMES)}",
    },
    "strict": {"action": "store_true", "help": "exit with 4 where the verdict is inconclusive"},
    "format": {
        "choices": list(FORMATS),
        "help": "print the result for machines, and nothing else, to stdout, or to the file of --output",
    },
}
OUTPUT: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "where what --format makes goes, instead of stdout"}


@dataclass(frozen=True)
class Gate:
    """What decides the exit code.

    Attributes:
        conditions: Any of them that holds fails the gate.
        strict: An inconclusive verdict is no pass.
        format: One of ``json``, ``junit`` and ``sarif``; None prints lines for people.
        output: File for what the format makes; None is stdout.

    >>> gate, rest = Gate.take(["--fail_if", "extracted>0", "--ckpt_path=a.ckpt", "--strict"])
    >>> [str(condition) for condition in gate.conditions], gate.strict, rest
    (['extracted>0'], True, ['--ckpt_path=a.ckpt'])
    """

    conditions: tuple[Condition, ...] = ()
    strict: bool = False
    format: str | None = None
    output: Path | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Gate":
        """Of parsed options.

        Raises:
            ValueError: A condition is none, or the output cannot be written to.
        """
        gate = cls(read_conditions(options.fail_if or ()), options.strict, options.format, options.output)
        if gate.format is not None:
            check_file(gate.output)
        return gate

    @classmethod
    def take(cls, arguments: Sequence[str]) -> tuple["Gate", list[str]]:
        """The gate that the arguments of a command ask for, and the other arguments.

        Raises:
            UsageError: One of its options is used wrongly.
        """
        options, rest = gate_parser().parse_known_args(list(arguments))
        gate = cls.of(options)
        if gate.output is not None and gate.format is None:
            raise UsageError(
                f"--output {gate.output}: there is nothing to write; give --format, one of {', '.join(FORMATS)}"
            )
        return gate, rest

    @property
    def is_asked_for(self) -> bool:
        """Whether there is anything to decide or to write."""
        return bool(self.conditions or self.strict or self.format)

    def run(self, work: Callable[[], Sequence["Result"]]) -> int:
        """Do the work of a command, then say what the gate finds, and return the exit code.

        Args:
            work: Returns the results of each run; nothing on processes that have no say. With a format for stdout,
                whatever it prints goes to stderr.
        """
        if self.output is not None:
            self.output.unlink(missing_ok=True)  # what an earlier gate said, should this one not come to its end
        to_stdout = self.format is not None and self.output is None
        with _stdout_kept_clear() if to_stdout else nullcontext():
            runs = [
                GatedRun(one.folder, one.document, self._examined(one.document), one.untrue, one.unshown)
                for one in work()
            ]
            for run in runs if self.is_asked_for else ():
                _print_findings(run, named=len(runs) > 1)
        code = exit_code(runs)
        if self.format is not None and runs:
            text = FORMATS[self.format](runs, code)
            if self.output is None:
                sys.stdout.write(text)
            else:
                self.output.parent.mkdir(parents=True, exist_ok=True)
                write_text(self.output, text)
        return code

    def _examined(self, document: Document) -> Examined:
        return Examined.of(document, self.conditions, self.strict)


class Result(NamedTuple):
    """What a command found of one run.

    Attributes:
        folder: Of the results.
        document: The content of ``report.json``.
        untrue: What is wrong with the results, where they were checked.
        unshown: Why nothing but the results speaks for them, if so.

    >>> Result(Path("runs/a/memaudit"), {}).untrue
    ()
    """

    folder: Path
    document: Document
    untrue: tuple[str, ...] = ()
    unshown: str | None = None


def gate_help(command: str) -> str:
    """What ``--help`` says of the options of the gate."""
    parser = gate_parser()
    parser.prog = f"{PROGRAM} {command}"
    return parser.format_help()


def gate_parser() -> argparse.ArgumentParser:
    """The options of the gate alone; what is wrong is raised as one line."""
    parser = _Taker(add_help=False, allow_abbrev=False)
    for name, settings in OPTIONS.items():
        parser.add_argument(f"--{name}", **settings)
    parser.add_argument("--output", **OUTPUT)
    return parser


def exit_code(runs: Sequence[GatedRun]) -> int:
    """1 where any results are not true, 3 where a condition holds, 4 where something could not be decided, else 0."""
    if any(run.untrue for run in runs):
        return FAILED
    if any(run.examined.fails for run in runs):
        return GATE_HOLDS
    return UNDECIDED if any(run.examined.is_undecided for run in runs) else DONE


def _print_findings(run: GatedRun, named: bool) -> None:
    where = f" {printable(str(run.folder))}" if named else ""
    for finding in run.findings():
        if finding.name != VERDICT:
            print(f"gate{where}: {finding.text}")
        elif finding.status == "undecided":
            print(f"gate{where}: the verdict is inconclusive")
        elif finding.status == "noted":
            print(f"gate{where}: the verdict is inconclusive, which fails nothing without --strict")


@contextmanager
def _stdout_kept_clear() -> Iterator[None]:
    """Whatever is printed within goes to stderr, also by processes that are started within."""
    sys.stdout.flush()
    descriptor = None
    with suppress(OSError):
        # Other processes inherit the descriptor, not the object.
        descriptor = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if descriptor is not None:
            os.dup2(descriptor, 1)
            os.close(descriptor)


def check_file(path: Path | None) -> None:
    """Raise unless what is written to is a file, or not there yet: a device would be written to, or worse replaced."""
    if path is not None and path.exists() and not path.is_file():
        raise UsageError(f"--output {path}: it is no regular file; give the name of a file")


class _Taker(argparse.ArgumentParser):
    """Raises what is wrong as one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

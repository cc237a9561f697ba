"""``python -m lightning_memaudit bench NAME [options]``: pick a measurement and run it."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from lightning_memaudit.cli.main import DONE, PROGRAM, UsageError, hint, in_columns, look_up, wrapped

BENCHMARKS = {
    "speed": "lightning_memaudit.bench.speed:speed",
    "overhead": "lightning_memaudit.bench.overhead:overhead",
    "large": "lightning_memaudit.bench.large:large",
    "ablation": "lightning_memaudit.bench.ablation:ablation",
    "attack": "lightning_memaudit.bench.attack:attack",
    "extraction": "lightning_memaudit.bench.extraction:extraction",
    "estimate": "lightning_memaudit.bench.estimate:estimate",
    "paper": "lightning_memaudit.bench.paper:paper",
    "diffusion": "lightning_memaudit.bench.diffusion:diffusion",
    "referee": "lightning_memaudit.bench.referee:referee",
}
"""Where each measurement lives, as ``module:function``; its arguments are the command's options."""
MEASURED = {
    "speed": "recovery against its own forward passes, one image at a time, DeepInverse, two processes",
    "overhead": "what the callback costs a run",
    "large": "real sizes, on a GPU",
    "ablation": "what each piece of the blind method pays",
    "attack": "the paper's method, and blind without and with gradients",
    "estimate": "the cost of an audit, as told before it and as taken",
    "extraction": "training images that come out when nothing goes in",
    "paper": "the paper's experiment, at its size or in small",
    "diffusion": "a diffusion model for ddnm, trained on your images",
    "referee": "how often the verdict's rules are wrong, and what they find, by simulation",
}
"""What each of them says, in a few words."""
DEFAULT = "speed"
"""Whose options are given where no measurement is named."""


def run_bench(arguments: Sequence[str]) -> int:
    """Run the measurement named first; list them where there is nothing to run.

    Raises:
        UsageError: An unknown name or option.
    """
    name, rest = DEFAULT, list(arguments)
    if not rest or rest[0] in ("-h", "--help", "-v", "--verbose"):
        print(
            wrapped(f"usage: {PROGRAM} bench NAME [--option VALUE ...]", "  "), "", in_columns(MEASURED), "", sep="\n"
        )
        print(wrapped("They take minutes to hours. `bench NAME --help` lists the options of one."))
        return DONE
    if not rest[0].startswith("-"):
        name = rest.pop(0)
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise UsageError(f"{name!r} is not a measurement{hint(name, BENCHMARKS)}; known: {known}")
    measurement = look_up(BENCHMARKS[name])
    try:
        parse_and_run(name, measurement, rest)
    except ArgumentError as error:
        from lightning_memaudit.cli.parser import explain

        raise UsageError(explain(str(error), inspect.signature(measurement).parameters)) from error
    return DONE


def parse_and_run(name: str, measurement: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Call a measurement with the options that its arguments are.

    Raises:
        ArgumentError: An option is wrong.
    """
    from jsonargparse import auto_cli

    auto_cli(
        measurement,
        args=list(arguments),
        as_positional=False,
        exit_on_error=False,
        allow_abbrev=False,
        prog=f"{PROGRAM} bench {name}",
    )

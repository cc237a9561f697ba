"""``python -m lightning_memaudit bench [NAME] [options]``: pick a measurement and run it."""

import inspect
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module

from jsonargparse import auto_cli

from lightning_memaudit.cli.main import DONE, PROGRAM, UsageError, hint
from lightning_memaudit.cli.parser import explain

BENCHMARKS = {
    "speed": "lightning_memaudit.bench.speed:speed",
    "overhead": "lightning_memaudit.bench.overhead:overhead",
    "large": "lightning_memaudit.bench.large:large",
    "ablation": "lightning_memaudit.bench.ablation:ablation",
    "attack": "lightning_memaudit.bench.attack:attack",
    "extraction": "lightning_memaudit.bench.extraction:extraction",
    "estimate": "lightning_memaudit.bench.estimate:estimate",
    "paper": "lightning_memaudit.bench.paper:paper",
    "referee": "lightning_memaudit.bench.referee:referee",
}
"""Where each measurement lives, as ``module:function``; its arguments are the command's options."""
DEFAULT = "speed"


def run_bench(arguments: Sequence[str]) -> int:
    """Run the measurement named first, or :data:`DEFAULT`.

    Raises:
        UsageError: An unknown name or option.
    """
    name, rest = DEFAULT, list(arguments)
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise UsageError(f"{name!r} is not a measurement{hint(name, BENCHMARKS)}; known: {known}")
    module, _, function = BENCHMARKS[name].partition(":")
    measurement = getattr(import_module(module), function)
    try:
        auto_cli(
            measurement,
            args=rest,
            as_positional=False,
            exit_on_error=False,
            allow_abbrev=False,
            prog=f"{PROGRAM} bench {name}",
        )
    except ArgumentError as error:
        raise UsageError(explain(str(error), inspect.signature(measurement).parameters)) from error
    return DONE

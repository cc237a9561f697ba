"""The configs that come with the package, by name: ``--config quickstart``; ``configs`` lists and prints them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType

import yaml

from lightning_memaudit.cli.main import DONE, PROGRAM, UsageError, hint, in_columns, shipped_configs, wrapped

OPTIONS = ("-c", "--config")
A_NAME = re.compile(r"[\w./\\-]+")
"""What may be a name or a path; all else is the content of a config, which may be given in its place."""
SUFFIXES = (".yaml", ".yml", ".json")


def names() -> dict[str, Path]:
    """Every config by its name, which is its path in their folder without ``.yaml``; experiments of ours first.

    >>> names()["paper/unet-cifar10"].name
    'unet-cifar10.yaml'
    """
    folder = shipped_configs()
    found = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.relative_to(folder).parts), path))
    known = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
    return {name: known[name] for name in sorted(known, key=lambda name: name != "quickstart")}


def summary(path: Path) -> str:
    """What a config is for: the first sentence of the comment at its top.

    >>> summary(names()["ddp"])
    'Overlay: every GPU of this machine, each with its part of a batch and of an audit; the rates are the same.'
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    words = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("#  "):
            break  # what is indented is a command
        words.append(line[2:].strip().removesuffix(":"))
        if line.endswith("."):
            break
    return re.split(r"(?<=[.?])\s+(?=[A-Z])", " ".join(words))[0]


def run_configs(arguments: Sequence[str]) -> int:
    """List the configs, or print those that are named.

    Raises:
        UsageError: An unknown name.
    """
    known = names()
    usage = f"usage: {PROGRAM} configs [NAME ...]"
    if set(arguments) & {"-h", "--help"}:
        print(
            wrapped(usage), "", wrapped("List the configs that come with the package, or print those named."), sep="\n"
        )
        return DONE
    for given in arguments:
        if given.startswith("-"):
            raise UsageError(f"{given!r} is not an option; {usage}")
        print(_named(given, known).read_text(encoding="utf-8"), end="")
    if not arguments:
        print(wrapped(f"Configs of `{PROGRAM} fit --config NAME [--config OVERLAY ...]`; `configs NAME` prints one:"))
        print()
        print(in_columns({name: summary(path) for name, path in known.items()}))
        print("", wrapped(f"They are in {shipped_configs()}"), sep="\n")
    return DONE


def with_paths(arguments: Iterable[str]) -> list[str]:
    """The arguments, with the path of a config wherever its name follows ``--config``; a file of that name wins.

    Raises:
        UsageError: There is neither a file nor a config of that name.

    >>> with_paths(["--config=quickstart", "--trainer.max_epochs=3"])[0].endswith("quickstart.yaml")
    True
    """
    found: list[str] = []
    follows = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if follows:
            argument = _path(argument)
        elif option in OPTIONS and equals:
            argument = f"{option}={_path(value)}"
        follows = not follows and argument in OPTIONS
        found.append(argument)
    return found


def _path(given: str) -> str:
    if Path(given).is_file():
        _check_yaml(given)
        return given
    if not A_NAME.fullmatch(given) or given.startswith("-"):
        return given
    return str(_named(given, names()))


def _check_yaml(given: str) -> None:
    """The parser's own complaint about a config that is none does not say which one it is."""
    try:
        content = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--config {given}: {not_yaml(error)}") from error
    if not isinstance(content, dict | NoneType):
        raise UsageError(f"--config {given}: expected a mapping of options to values, such as {{seed_everything: 0}}")


def not_yaml(complaint: object) -> str:
    r"""What is wrong with a file that should be YAML, by the parser's complaint, on one line.

    >>> not_yaml('did not find expected node content\n  in "<unicode string>", line 2, column 1')
    'not valid YAML: did not find expected node content in line 2, column 1'
    """
    words = re.sub(r'in "<[^>]+>", ', "in ", str(complaint)).split()
    return f"not valid YAML: {' '.join(words)}"


def _named(given: str, known: dict[str, Path]) -> Path:
    if given in known:
        return known[given]
    # A path that leads nowhere may be meant to lead to a config of ours, which is said, and not guessed.
    bare = next((given.removesuffix(suffix) for suffix in SUFFIXES if given.endswith(suffix)), given)
    bare = bare.removeprefix("./").removeprefix("configs/")
    by_end = [name for name in known if name.rpartition("/")[2] == bare]
    near = (
        f"; did you mean {bare!r}?"
        if bare in known
        else f"; did you mean {by_end[0]!r}?"
        if by_end
        else hint(bare, known)
    )
    raise UsageError(f"--config {given}: there is no such file or config{near}; `{PROGRAM} configs` lists the configs")

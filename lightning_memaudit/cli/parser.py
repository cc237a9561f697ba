"""The parser of the commands that use Lightning, whose complaints are one line that says what to change."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, get_origin

import torch
from jsonargparse.typing import register_type
from lightning.pytorch import Callback, LightningDataModule, LightningModule, callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_memaudit.cli.configs import not_yaml
from lightning_memaudit.cli.main import UsageError, hint
from lightning_memaudit.recovery.tuning import Round
from lightning_memaudit.training import data, datasets, module, networks

KEY = re.compile(r'^(\s*)(?:- )?Parser key "([^"]+)":')
UNKNOWN_OPTION = re.compile(r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected|option '([^']+)'")
OF_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
NO_CLASS = re.compile(rf"Expected a dot import path string: ([\w.]+)|{OF_CLASS.pattern}")
NESTED = re.compile(r"^NestedArg\(key='(.+?)', val=(.*)\)$")
"""What is given where ``--a.b value`` sets an argument of the class of a."""
NO_MAPPING = re.compile(r"'\w+' object has no attribute 'keys'")
TAKES_NO = re.compile(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'")
NOT_THERE = re.compile(r"has no attribute|No module named|Expected a dot import path")
UNLOADABLE = re.compile(r"^Unable to load config (.+)$", re.MULTILINE)
"""What is given for a group of options, such as ``--trainer``, is no file, or no YAML; ends with the value."""
NO_YAML = re.compile(r"Invalid content in sub-config file (.+?): (.+)")
NOT_ITS_WORDS = r"\s*(- Expected a|Given value)"
UNION = "Does not validate against any of the Union"
EXPECTED = re.compile(r"Expected an? (?!path |dot )(.+?)(?:\. Got value.*)?$")
GIVEN = re.compile(r"(?:Got value|Given value): (.*)$")
WRONG_KIND = re.compile(r"(?:Not a valid subclass of|does not correspond to a subclass of) (\w+)")
TYPE_NAMES = {
    "NoneType": "null",
    "bool": "true or false",
    "collections.abc.Sequence": "a list, such as [a, b]",
    "collections.abc.Mapping": "a mapping, such as {a: b}",
}


def _round_of(given: Any) -> Round:
    return Round(tuple(given["penalties"]), given["start"], given["num_iterations"])


# Within a tuple, which is what it is a default of, jsonargparse writes no dataclass: a saved config could not be read.
register_type(Round, lambda one: asdict(one) | {"penalties": list(one.penalties)}, _round_of)


class OneLineParser(LightningArgumentParser):
    """Raises what is wrong as one line, where Lightning's prints its usage and the whole tree of types.

    >>> parser = OneLineParser()
    >>> _ = parser.add_argument("--steps", type=int)
    >>> parser.parse_args(["--steps=3"]).steps
    3
    >>> parser.parse_args(["--steps=many"])
    Traceback (most recent call last):
    lightning_memaudit.cli.main.UsageError: steps='many': expected int
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation that happens to be unique today is a typo in tomorrow's version.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the complaint as a :class:`~lightning_memaudit.cli.main.UsageError`."""
        if not self.exit_on_error:
            # A parser within the parser: the outermost one sees the whole tree.
            super().error(message, ex)
        parsers = [self, *(getattr(self._subcommands_action, "choices", None) or {}).values()]
        known = {option.lstrip("-") for parser in parsers for option in parser._option_string_actions}
        raise UsageError(explain(message, known)) from ex


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Turn a complaint of jsonargparse into one line: the argument, its value, and what to give instead.

    Args:
        message: The complaint; for nested classes and unions of types a tree of many lines.
        options: Names of the options there are, without dashes, from which the nearest is suggested.
    """
    lines = message.splitlines()
    if unloadable := _unloadable(message):
        return unloadable
    key, block = _innermost(lines)
    text = " ".join(" ".join(block).split())
    if missing := re.search(r"arguments are required: (?:fit\.|audit\.)?([\w.]+)", text):
        full = f"{key}.{missing[1]}" if key else missing[1]
        return f"{full} is required; give --{full}, or a --config that has it"
    if stray := re.search(r"unrecognized arguments: (.+)", text, re.IGNORECASE):
        name = stray[1].split("=")[0].split()[0].lstrip("-")
        if key:  # of the class that is given there
            return _not_an_option(key, name, text)
        return f"{stray[1].split()[0]!r} is not an option{_nearest_option(name, options, '--')}"
    given = next((match[1] for line in block if (match := GIVEN.search(line))), None)
    if unknown := UNKNOWN_OPTION.search(text):
        name = next(group for group in unknown.groups() if group)
        return _not_an_option(key, name, text) if key else f"{name} is not an option{_nearest_option(name, options)}"
    if no_argument := TAKES_NO.search(text):
        return f"{no_argument[2]} is not an argument of {no_argument[1].removesuffix('.__init__')}; leave it out"
    if key and NO_MAPPING.search(text):
        return f"{key}.init_args: expected a mapping, such as {{a: b}}"
    expected = dict.fromkeys(_plain_type(match[1]) for line in block if (match := EXPECTED.search(line)))
    if key and given and (nested := NESTED.match(given)) and nested[1] != "class_path":
        return f"{key}.{nested[1]} is not an option: {key} takes {' or '.join(expected) or 'no such thing'}"
    if NOT_THERE.search(text) and (no_class := NO_CLASS.search(text)):
        name = no_class[1] or no_class[2]
        place, _, bare = name.rpartition(".")
        near = f"; did you mean {bare!r}?" if place and bare in _names_of_classes() else hint(bare, _names_of_classes())
        return f"{key}={name!r}: there is no such class or file{near or '; give module.Class'}"
    if no_yaml := NO_YAML.search(" ".join(line.strip() for line in block if not re.match(NOT_ITS_WORDS, line))):
        return f"{key}={no_yaml[1]!r}: {not_yaml(no_yaml[2])}"
    if key and re.match(r"while (parsing|scanning) ", text):
        return f"{key}: {not_yaml(KEY.sub('', message))}"
    if wrong_kind := WRONG_KIND.search(text):
        return f"{key}={given!r}: expected a {wrong_kind[1]}"
    if key and expected:
        value = "" if given is None else f"={given!r}"
        return f"{key}{value}: expected {' or '.join(expected)}"
    return f"{key}: {text}" if key else text


def _unloadable(message: str) -> str:
    """What is said where the value of a group of options is no file of options; nothing of other complaints."""
    group, found = KEY.match(message), UNLOADABLE.search(message)
    if not group or not found:
        return ""
    why = message[found.end() :].strip().removeprefix("- ")
    if UNLOADABLE.match(KEY.sub("", why).strip()):
        expected = f"expected a YAML file that maps its options to values; --{group[2]}.NAME VALUE sets one"
        return f"{group[2]}={found[1]}: {expected}"
    return "" if KEY.match(why) else f"{group[2]}={found[1]}: {not_yaml(why)}"


def _innermost(lines: list[str]) -> tuple[str, list[str]]:
    """The dotted key of the first, deepest complaint in the tree, and the lines below it."""
    keys: list[str] = []
    deepest, start = -1, 0
    for number, line in enumerate(lines):
        match = KEY.match(line)
        if match and len(match[1]) > deepest:
            whole = keys and f"{match[2]}.".startswith(f"{'.'.join(keys)}.")  # some name what they are in, some do not
            keys = [match[2]] if whole else [*keys, match[2]]
            deepest, start = len(match[1]), number + 1
    block = [KEY.sub("", lines[start - 1])] if start else []
    for line in lines[start:]:
        if start and line.strip() and len(line) - len(line.lstrip()) <= deepest:
            break
        block.append(line)
    return ".".join(keys), block


def _not_an_option(key: str, name: str, text: str) -> str:
    """What is said of an argument that the class at a key does not take; the nearest of those that it takes."""
    classes = [path.rpartition(".")[2] for path in OF_CLASS.findall(text)]
    known = [one for one in _known_classes() if one.__name__ in classes[:1]]
    of = f" of {classes[0]}" if classes and classes[0] not in _BASES else ""
    return f"{key}.{name} is not an option{of}{hint(name, _names_of_arguments(known if of else ()))}"


def _plain_type(name: str) -> str:
    plain = re.sub(r"^<class '(.+)'>$", r"\1", name.strip())
    if plain.startswith("instantiatable class"):
        return "the name of a class"
    if literal := re.fullmatch(r"typing\.Literal\[(.+)\]", plain):
        return literal[1].replace(", ", " or ")
    return TYPE_NAMES.get(plain, plain)


def _nearest_option(name: str, options: Iterable[str], prefix: str = "") -> str:
    """The nearest option: where a group is named by its own name there, or of the same name elsewhere."""
    known = list(options)
    group, _, own = name.rpartition(".")
    within = {option[len(group) + 1 :]: option for option in known if group and option.startswith(f"{group}.")}
    if not within:
        # Never what was given without its end: of options that take options it says nothing.
        others = [option for option in known if not name.startswith(f"{option}.")]
        return hint(prefix + name, [prefix + option for option in others])
    elsewhere = {option.rpartition(".")[2]: option for option in known if option not in within.values()}
    near = difflib.get_close_matches(own, within, n=1) or difflib.get_close_matches(own, elsewhere, n=1, cutoff=0.9)
    return f"; did you mean {prefix + (elsewhere | within)[near[0]]!r}?" if near and own not in within else ""


_BASES = ("Callback", "LightningDataModule", "LightningModule", "Logger", "Module", "Precision")
"""Classes that are named where none was given."""


def _known_classes() -> list[type]:
    optimization = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    bases = (nn.Module, LightningModule, LightningDataModule, Callback, Logger, *optimization)
    places = (networks, module, data, datasets, callbacks, loggers, torch.optim, torch.optim.lr_scheduler)
    found = (value for place in places for value in vars(place).values() if inspect.isclass(value))
    # In Python 3.10 list[int] is a class, but no subclass of anything.
    return [value for value in found if get_origin(value) is None and issubclass(value, bases)]


def _names_of_classes() -> list[str]:
    return sorted({known.__name__ for known in _known_classes()})


def _names_of_arguments(classes: Sequence[type] = ()) -> list[str]:
    """Of some classes; without any, and where one hands on what it is given, of all that are known."""
    parameters = [one for known in classes for one in inspect.signature(known).parameters.values()]
    if not parameters or any(one.kind == one.VAR_KEYWORD for one in parameters):
        parameters = [one for known in _known_classes() for one in inspect.signature(known).parameters.values()]
    return sorted({one.name for one in parameters})

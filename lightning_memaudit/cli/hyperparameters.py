"""Arguments of model and data module that a checkpoint knows, below those of configs and options."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_only

from lightning_memaudit.cli.main import UsageError
from lightning_memaudit.report.checkpoint import ALLOW, read_checkpoint

HELP = ("-h", "--help")
CONFIG = ("-c", "--config")
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
UNSERIALIZABLE = "Unable to serialize instance"
"""How Lightning's command line saves an argument that was a live object."""


@dataclass(frozen=True)
class Given:
    """What the arguments of a command, and the configs that they name, say of a checkpoint and its classes.

    Attributes:
        has_config: There is a config, or help is asked for, which needs none.
        ckpt_path: The checkpoint.
        model: The class of the model, as it is named there.
        data: The class of the data module.
        allow_types: Types that may be in the checkpoint.
        weights_only: False lets Lightning load anything; nothing is read here then.

    >>> Given.read(["--model=my.Autoencoder", "--model.width", "8", "--ckpt_path", "a.ckpt", "--allow_types=[my.Type]"])
    Given(has_config=False, ckpt_path='a.ckpt', model='my.Autoencoder', data=None, allow_types=('my.Type',), ...)
    """

    has_config: bool = False
    ckpt_path: str | None = None
    model: str | None = None
    data: str | None = None
    allow_types: tuple[str, ...] = ()
    weights_only: bool | None = None

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Given":
        """Read the arguments in their order; what cannot be read is left to the parser to complain of."""
        given = cls()
        for name, value in _pairs(arguments):
            if name in (*HELP, *CONFIG):
                given = replace(given, has_config=True)
            if name in CONFIG:
                config = _load(value, is_file=True)
                for key, content in config.items() if isinstance(config, Mapping) else ():
                    given = given._with(str(key), content)
            elif name.startswith("--"):
                given = given._with(name[2:], _load(value))
        return given

    def _with(self, key: str, value: Any) -> "Given":
        if key == "ckpt_path":
            return replace(self, ckpt_path=None if value is None else str(value))
        if key == "allow_types" and isinstance(value, list):
            return replace(self, allow_types=tuple(map(str, value)))
        if key == "weights_only":
            return replace(self, weights_only=value if isinstance(value, bool) else None)
        group, _, part = key.partition(".")
        if group not in ("model", "data") or part not in ("", "class_path"):
            return self
        if isinstance(value, str) and value.endswith((".yaml", ".yml")):
            value = _load(value, is_file=True)
        name = value.get("class_path") if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            return self
        return replace(self, model=name) if group == "model" else replace(self, data=name)


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, whether after ``=`` or as the next argument."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument.startswith("-"):
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            yield name, value if equals else following


def _load(text: str, is_file: bool = False) -> Any:
    try:
        return yaml.safe_load(Path(text).read_text() if is_file else text)
    except (OSError, ValueError, yaml.YAMLError):
        return None


@dataclass(frozen=True)
class Known:
    """A class and its arguments, as far as a checkpoint knows them.

    Attributes:
        class_path: What the checkpoint calls the class; None where it does not say.
        arguments: By their names, perhaps more than the class takes.
        name: Of the one argument that takes all of them as a mapping, if the class has such an argument.

    >>> Known.of({"hyper_parameters": {"_class_path": "my.Autoencoder", "width": 8}}, LightningModule)
    Known(class_path='my.Autoencoder', arguments={'width': 8}, name=None)
    """

    class_path: str | None
    arguments: dict[str, Any]
    name: str | None

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], kind: type[LightningModule] | type[LightningDataModule]) -> "Known":
        """What ``save_hyperparameters`` has left in a checkpoint."""
        saved = checkpoint.get(kind.CHECKPOINT_HYPER_PARAMS_KEY) or {}
        saved = dict(saved) if isinstance(saved, Mapping) else dict(getattr(saved, "__dict__", {}))
        class_path = saved.pop("_class_path", None)
        saved.pop("_instantiator", None)
        arguments = {
            str(name): value
            for name, value in saved.items()
            if not (isinstance(value, str) and value.startswith(UNSERIALIZABLE))
        }
        name = checkpoint.get(kind.CHECKPOINT_HYPER_PARAMS_NAME)
        return cls(class_path if isinstance(class_path, str) else None, arguments, name if arguments else None)

    def below(self, given: str | None, kind: type, option: str, checkpoint: str) -> Namespace | None:
        """The class and those of the arguments that it takes, for a parser to put below whatever else it is given.

        Args:
            given: The class by configs and options; None takes the checkpoint's.
            kind: What the class must be a subclass of.
            option: Which names the class.
            checkpoint: Its path.

        Raises:
            UsageError: The class that the checkpoint names cannot be imported.
        """
        found = find_class(given or self.class_path or "", kind)
        if found is None:
            if given is None and self.class_path is not None:
                raise UsageError(
                    f"ckpt_path={checkpoint!r} is of {self.class_path}, which cannot be imported here; "
                    f"give --{option}, or run where it can be imported"
                )
            return None
        parameters = _parameters(found)
        own = inspect.signature(found).parameters
        takes_all = own.get(self.name or "")
        if takes_all is not None and takes_all.kind in NAMED:
            taken, more = {takes_all.name: self.arguments}, {}
        else:
            taken = {name: value for name, value in self.arguments.items() if name in parameters}
            open_ended = any(one.kind == one.VAR_KEYWORD for one in own.values())
            more = {name: value for name, value in self.arguments.items() if open_ended and name not in parameters}
        name = given or str(self.class_path)
        class_path = name if "." in name else f"{found.__module__}.{found.__qualname__}"
        extra = {"dict_kwargs": more} if more else {}
        return namespace(class_path=class_path, init_args=namespace(**taken), **extra)


def namespace(**content: Any) -> Namespace:
    """What a parser returns, and can begin with."""
    return Namespace(**content)  # type: ignore[no-untyped-call]


def known_arguments(given: Given, mend: str = ALLOW) -> tuple[dict[str, str], Namespace | None]:
    """What the checkpoint of a command knows of the classes that are given, or of those that it names itself.

    Args:
        given: To the command.
        mend: The option that lets the command read other types, see :func:`read_checkpoint`.

    Returns:
        The classes of ``model`` and ``data`` that only the checkpoint names, which are also printed; and the arguments
        for a parser to put below all others, None where there are none.

    Raises:
        ValueError: The checkpoint cannot be read, or a class that it names cannot be imported.
    """
    named: dict[str, str] = {}
    below: dict[str, Namespace] = {}
    if given.ckpt_path is None or not Path(given.ckpt_path).is_file() or given.weights_only is False:
        return named, None
    content = read_checkpoint(given.ckpt_path, given.allow_types, mend=mend)
    if not isinstance(content, dict):
        return named, None
    say = rank_zero_only(print)
    # The data module first: it may import the model, which can then be given by its bare name.
    for group, kind, option in (("data", LightningDataModule, given.data), ("model", LightningModule, given.model)):
        found = Known.of(content, kind).below(option, kind, group, given.ckpt_path)
        if found is None:
            continue
        below[group] = found
        if option is None:
            named[group] = found["class_path"]
            say(f"--{group} {named[group]}, as the checkpoint says")
    return named, namespace(**below) if below else None


def find_class(name: str, kind: type) -> type | None:
    """The class of a dotted name, or, as on the command line, of the bare name of a subclass that is imported."""
    module, _, attribute = name.rpartition(".")
    if not module:
        found = [one for one in _subclasses(kind) if one.__name__ == name]
        return found[0] if len(found) == 1 else None
    try:
        value = getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return value if inspect.isclass(value) and get_origin(value) is None and issubclass(value, kind) else None


def _subclasses(kind: type) -> Iterator[type]:
    one: type
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _parameters(kind: type) -> set[str]:
    """Names of the arguments of a class, and of its bases where it hands on what it is given."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base in (LightningModule, LightningDataModule, object) or "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names |= {one.name for one in parameters if one.kind in NAMED}
        if not any(one.kind == one.VAR_KEYWORD for one in parameters):
            break
    return names

"""Keys: where something is within nested tuples, mappings and objects that nobody here wrote; and import paths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch

Key = int | str | Sequence[int | str] | Callable[[Any], Any]
"""An index, a mapping's key or an attribute; several, outermost first; or a function, perhaps by its import path."""

GroupKey = Mapping[str, Key] | Key
"""One key for all images, or one for ``members`` and one for ``controls``.

The mapping comes first: a function is what jsonargparse takes a mapping for when it saves a config.
"""

GROUPS = ("members", "controls")
MOST_NAMES = 20
"""So many keys or fields of an item are named when the one that was asked for is not there."""

NOT_THERE = (AttributeError, LookupError, TypeError, ValueError)
"""What tuples, mappings, objects, tensors and arrays raise for a key that they do not have."""


def imported(path: str) -> Callable[..., Any] | None:
    """The function, class or other callable that an import path such as ``my_package.calls.decode`` names.

    Args:
        path: A module's name, then an attribute, perhaps of a class.

    Returns:
        None when there is no such module or attribute, when it cannot be called, or when the path has no dot.

    Raises:
        ValueError: The module is there, but fails when it is imported.

    >>> imported("torch.nn.functional.relu")(torch.tensor(-1.0)).item(), imported("forward"), imported("torch.pi")
    (0.0, None, None)
    """
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            module = import_module(name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and f"{name}.".startswith(f"{missing}."):
                continue  # the path itself names no module so deep, or none at all
            raise ValueError(f"{path!r}: importing {name} fails ({_one_line(error)}): mend it") from error
        try:
            found = attrgetter(".".join(parts[count:]))(module)
        except AttributeError:
            return None
        except Exception as error:  # of a module that imports its attributes when asked
            raise ValueError(f"{path!r}: importing it fails ({_one_line(error)}): mend it") from error
        return found if callable(found) else None
    return None


def key_for(group_name: str, image_key: GroupKey | None) -> Key | None:
    """The key of one group, where a mapping gives each its own; None for a group that it does not name.

    Raises:
        ValueError: The mapping names something else.

    >>> key_for("members", {"members": ["inputs", 0], "controls": "pixels"}), key_for("controls", 1)
    (['inputs', 0], 1)
    """
    if not isinstance(image_key, Mapping):
        return image_key
    if not image_key or not set(image_key) <= set(GROUPS):
        raise ValueError(
            f"image_key={dict(image_key)!r}: a mapping gives each group a key of its own, so name members, controls or "
            "both; pass [outer, inner] for a key within another"
        )
    return image_key.get(group_name)


def key_path(key: Key | None) -> Sequence[int | str | Callable[[Any], Any]]:
    """A key as a path of keys, outermost first; none at all for None.

    Raises:
        ValueError: It is no key.
    """
    if key is None:
        return ()
    if isinstance(key, int | str) or callable(key):
        return (key,)
    path: Any = key
    if not isinstance(path, Sequence) or not all(isinstance(step, int | str) or callable(step) for step in path):
        raise ValueError(f"{key!r} is no key: pass an index, a name, several of them, or a function")
    return tuple(path)


def select(value: Any, key: Key | None, what: str) -> Any:
    """What a key selects from an item of a data set, a batch, or what a model returned.

    A name selects from a mapping by key, from anything else by attribute or, where there is none, by key. A name with a
    dot that is neither is the import path of a function. A function is applied. Without a key: the value itself.

    Args:
        value: Anything: tuples, mappings, named tuples, dataclasses and other objects, nested in each other.
        key: See :data:`Key`.
        what: The argument that the key came from, ``output`` or ``image_key``, for messages.

    Raises:
        ValueError: There is nothing of that key, or the function fails.

    >>> select({"out": ("code", 7)}, ["out", 1], "output"), select({"x": 3}, lambda item: item["x"] + 1, "image_key")
    (7, 4)
    >>> select({"out": 7}, "decoded", "output")
    Traceback (most recent call last):
    ValueError: output='decoded' selects nothing from the dict that the model returned; it has keys ['out']
    """
    try:
        path = key_path(key)
    except ValueError as error:
        raise ValueError(f"{what}={error}") from None
    for step in path:
        function = None if isinstance(step, int | str) else step
        if isinstance(step, int | str):
            try:
                value = _look_up(value, step)
            except NOT_THERE as error:
                function = imported(step) if isinstance(step, str) else None
                if function is None:
                    raise ValueError(_not_there(value, key, what)) from error
        if function is not None:
            value = _apply(function, value, key, what)
    return value


def _look_up(value: Any, key: int | str) -> Any:
    if isinstance(key, str) and not _has_keys(value):
        try:
            return getattr(value, key)
        except AttributeError:
            if isinstance(value, torch.Tensor):
                raise  # it would take the name for a sequence of indices
    return value[key]


def _apply(function: Callable[[Any], Any], value: Any, key: Key | None, what: str) -> Any:
    try:
        return function(value)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{what}={_named(key)} fails on a {type(value).__name__}{_having(value)} ({_one_line(error)}): mend it"
        ) from error


def _not_there(value: Any, key: Key | None, what: str) -> str:
    kind, having = type(value).__name__, _having(value)
    if what == "image_key":
        return f"image_key={_named(key)} is not in the data set's {kind}{having}"
    owner = " that the model returned" if what == "output" else ""
    return f"{what}={_named(key)} selects nothing from the {kind}{owner}{having}"


def _named(key: Key | None) -> str:
    return getattr(key, "__qualname__", None) or repr(key)


def _having(value: Any) -> str:
    """``; it has keys [...]``, whatever one could have asked for instead."""
    kind, names = "fields", []
    if _has_keys(value):
        kind, names = "keys", list(value.keys())
    elif hasattr(value, "_fields"):  # a named tuple
        names = list(value._fields)
    elif isinstance(value, tuple | list):
        return f"; it has {len(value)} elements"
    elif getattr(getattr(value, "dtype", None), "names", None):  # a record of a structured array
        names = list(value.dtype.names)
    elif is_dataclass(value):
        names = [field.name for field in fields(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
        names = [name for name in vars(value) if not name.startswith("_")]
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"; it has {kind} {names[:MOST_NAMES]}{more}"


def _has_keys(value: Any) -> bool:
    """Whether it is a mapping, or something like it, whose attributes are its methods rather than its content."""
    kind = type(value)
    return isinstance(value, Mapping) or (hasattr(kind, "keys") and hasattr(kind, "__getitem__"))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

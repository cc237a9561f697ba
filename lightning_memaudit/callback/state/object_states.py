"""Contents of containers and objects: what they hold, put back into the very same objects."""

# ruff: noqa: D102 - State says what its methods do

import threading
import types
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor

from lightning_memaudit.callback.state.user_code import is_atom

MISSING = object()
Swap = dict[int, Any]
"""By the id of an object, what is to take its place."""
Held = Iterable[tuple[Any, Any]]
"""Keys and what is held under them."""


def only_atoms(values: Iterable[Any]) -> bool:
    """Whether values, or the items of tuples among them, hold nothing that could change."""
    kinds = set(map(type, values))
    if tuple in kinds:
        kinds.remove(tuple)
        kinds |= set(map(type, chain.from_iterable(value for value in values if type(value) is tuple)))
    return all(map(is_atom, kinds))


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


def swapped(values: list[Any], swap: Swap) -> list[Any]:
    """Values, with those that others are to take the place of replaced."""
    return [swap.get(id(value), value) for value in values] if swap else values


class State:
    """What one object held; a subclass for each kind of object.

    Attributes:
        owner: The object.
        fixed: Whether what it holds can only be changed in place.

    >>> State.label("key"), State.label(3)
    ("['key']", '[3]')
    """

    fixed = False

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def held(self) -> Held:
        """What it held."""
        return ()

    def restore(self, swap: Swap) -> str | None:
        """Put it back; what could not be is returned in words."""
        return None

    @staticmethod
    def label(key: Any) -> str:
        """How what is held under a key is called, after the name of the object."""
        return f"[{key!r}]" if isinstance(key, str | int) else f"[{type(key).__name__}]"


class Dict(State):
    """A dict of any kind, with the order of its keys.

    >>> table = {"a": 1, "b": 2}
    >>> state = Dict(table)
    >>> table["a"] = table.pop("a") + 1
    >>> state.restore({})
    >>> table
    {'a': 1, 'b': 2}
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._target = self._mapping()
        self._base: Any = OrderedDict if issubclass(type(self._target), OrderedDict) else dict
        self._keys = list(self._base.keys(self._target))
        self._values = list(self._base.values(self._target))
        self._factory = owner.default_factory if isinstance(self._target, defaultdict) else None

    def _mapping(self) -> Any:
        return self.owner

    def held(self) -> Held:
        found: list[tuple[Any, Any]] = []
        if len(self._values) < 100 or not only_atoms(self._values):
            found += zip(self._keys, self._values, strict=True)
        if self._factory is not None:
            found.append(("default_factory", self._factory))
        if set(map(type, self._keys)) != {str}:
            found += [("key", key) for key in self._keys if not is_atom(type(key))]
        return found

    def restore(self, swap: Swap) -> str | None:
        mapping, base = self._target, self._base
        if self._mapping() is not mapping:
            return "attributes"
        if not self._keys and not len(mapping):
            return None
        values = swapped(self._values, swap)
        if not _same(list(base.keys(mapping)), self._keys):
            base.clear(mapping)
            for key, value in zip(self._keys, values, strict=True):
                base.__setitem__(mapping, key, value)
        elif not _same(now := list(base.values(mapping)), values):
            for key, value, current in zip(self._keys, values, now, strict=True):
                if value is not current:
                    base.__setitem__(mapping, key, value)
        if isinstance(mapping, defaultdict) and mapping.default_factory is not self._factory:
            mapping.default_factory = self._factory
        return None


class Attributes(Dict):
    """The attributes of an object, and its class.

    >>> owner = types.SimpleNamespace(calls=0)
    >>> state = Attributes(owner)
    >>> owner.calls, owner.new = 1, 2
    >>> state.restore({})
    >>> owner
    namespace(calls=0)
    """

    def __init__(self, owner: Any) -> None:
        self._class = type(owner)
        super().__init__(owner)

    def _mapping(self) -> Any:
        return attributes_of(self.owner)

    def restore(self, swap: Swap) -> str | None:
        if type(self.owner) is not self._class:
            object.__setattr__(self.owner, "__class__", self._class)
        return super().restore(swap)

    @staticmethod
    def label(key: Any) -> str:
        return f".{key}"


class AttributesButTensors(Attributes):
    """Those of a module whose weights are spread over processes: calls exchange its tensors, and set it up at first.

    >>> owner = types.SimpleNamespace(calls=0, weight=Tensor([0]))
    >>> state = AttributesButTensors(owner)
    >>> owner.calls, owner.weight = 1, Tensor([1])
    >>> state.restore({})
    >>> owner
    namespace(calls=0, weight=tensor([1.]))
    """

    def restore(self, swap: Swap) -> str | None:
        mapping, saved = self._target, dict(zip(self._keys, swapped(self._values, swap), strict=True))
        for key in [key for key in mapping if key not in saved and not key.startswith("_")]:
            if not isinstance(mapping[key], Tensor):
                del mapping[key]
        for key, value in saved.items():
            now = mapping.get(key, MISSING)
            if now is not value and not isinstance(now, Tensor) and not isinstance(value, Tensor):
                mapping[key] = value
        return None


class Slots(State):
    """The attributes of an object that are in ``__slots__``.

    >>> class Owner:
    ...     __slots__ = ("calls", "new")
    >>> owner = Owner()
    >>> owner.calls = 0
    >>> state = Slots(owner)
    >>> owner.calls, owner.new = 1, 2
    >>> state.restore({})
    >>> owner.calls, hasattr(owner, "new")
    (0, False)
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._members = slots_of(type(owner))
        self._values = [_slot(member, owner) for member in self._members]

    def held(self) -> Held:
        for member, value in zip(self._members, self._values, strict=True):
            if value is not MISSING:
                yield member.__name__, value

    def restore(self, swap: Swap) -> str | None:
        for member, value in zip(self._members, swapped(self._values, swap), strict=True):
            if _slot(member, self.owner) is not value:
                if value is MISSING:
                    member.__delete__(self.owner)
                else:
                    member.__set__(self.owner, value)
        return None

    @staticmethod
    def label(key: Any) -> str:
        return f".{key}"


class Sequenced(State):
    """A list, a deque, an array of numbers or of bytes.

    >>> recent = deque([1, 2], maxlen=2)
    >>> state = Sequenced(recent)
    >>> recent.append(3)
    >>> state.restore({})
    >>> recent
    deque([1, 2], maxlen=2)
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._base: Any = next(base for base in (list, deque, bytearray, array) if issubclass(type(owner), base))
        self._holds_objects = self._base in (list, deque)
        # All at once: an array of bytes may be large.
        whole: Any = slice(None)
        if self._base is deque:
            self._items: Any = list(deque.__iter__(owner))
        else:
            self._items = self._base.__getitem__(owner, whole)

    def held(self) -> Held:
        return enumerate(self._items) if self._holds_objects and not only_atoms(self._items) else ()

    def restore(self, swap: Swap) -> str | None:
        items = swapped(self._items, swap) if self._holds_objects else self._items
        if self._base is deque:
            deque.clear(self.owner)
            deque.extend(self.owner, items)
        else:
            self._base.__setitem__(self.owner, slice(None), items)
        return None


class Set(State):
    """A set.

    >>> seen = {1}
    >>> state = Set(seen)
    >>> seen.add(2)
    >>> state.restore({})
    >>> seen
    {1}
    """

    def __init__(self, owner: set[Any]) -> None:
        super().__init__(owner)
        self._items = list(set.__iter__(owner))

    def held(self) -> Held:
        return () if only_atoms(self._items) else (("item", item) for item in self._items)

    def restore(self, swap: Swap) -> str | None:
        if not _same(list(set.__iter__(self.owner)), self._items):
            set.clear(self.owner)
            set.update(self.owner, self._items)
            if not _same(list(set.__iter__(self.owner)), self._items):
                return "order of a set"
        return None

    @staticmethod
    def label(key: Any) -> str:
        return ""


class Frozen(State):
    """What always holds the same: tuples, bound methods, ``functools.partial``, weak references.

    >>> list(Frozen((1, []), (1, [])).held())
    [(0, 1), (1, [])]
    """

    fixed = True

    def __init__(self, owner: Any, items: Iterable[Any]) -> None:
        super().__init__(owner)
        self._items = list(items)

    def held(self) -> Held:
        return () if only_atoms(self._items) else enumerate(self._items)


class ObjectArray(State):
    """A numpy array of objects; its content is put back as that of any array, this is for what the objects hold.

    >>> list(ObjectArray(np.array([None, [1]], dtype=object)).held())
    [(0, None), (1, [1])]
    """

    def held(self) -> Held:
        return enumerate(self.owner.view(np.ndarray).flat)


def attributes_of(owner: Any) -> dict[str, Any] | None:
    """The attributes of an object, without a call of the user's code; None where it has none."""
    for kind in type(owner).__mro__:
        found: Any = kind.__dict__.get("__dict__")
        if type(found) in (types.GetSetDescriptorType, types.MemberDescriptorType):
            attributes: dict[str, Any] = found.__get__(owner)
            return attributes
    if issubclass(type(owner), threading.local):
        mine: dict[str, Any] = threading.local.__getattribute__(owner, "__dict__")
        return mine
    return None


def slots_of(kind: type) -> list[Any]:
    """The members in ``__slots__`` of a class and of those that it inherits from."""
    members = []
    for base in kind.__mro__:
        if "__slots__" in base.__dict__:
            members += [one for one in base.__dict__.values() if type(one) is types.MemberDescriptorType]
    return members


def _slot(member: Any, owner: Any) -> Any:
    try:
        return member.__get__(owner)
    except AttributeError:
        return MISSING

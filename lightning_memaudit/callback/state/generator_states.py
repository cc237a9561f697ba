"""States of random generators and of iterators, which are not attributes that anybody could read."""

import copyreg
import functools
import gc
import itertools
import random
import types
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from lightning_memaudit.callback.state.user_code import is_iterator

RANDOM_GENERATORS = (
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    torch.Generator,
)
_NUMBERS = (type(None), bool, int, float, str, bytes)


class RandomState:
    """The state of one random generator, whatever its library.

    >>> generator = random.Random(0)
    >>> state = RandomState(generator)
    >>> first = generator.random()
    >>> state.restore()
    >>> generator.random() == first
    True
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self._spawned: int | None = None
        self._base: Any = None
        if isinstance(owner, random.SystemRandom):
            self._state: Any = None
        elif isinstance(owner, random.Random):
            self._state = random.Random.getstate(owner)
        elif isinstance(owner, np.random.Generator | np.random.BitGenerator):
            bits = owner.bit_generator if isinstance(owner, np.random.Generator) else owner
            self._bits, self._state = bits, bits.state
            self._spawned = _num_spawned(bits)
        else:
            self._base = torch.Generator if isinstance(owner, torch.Generator) else np.random.RandomState
            self._state = self._base.get_state(owner)

    def restore(self) -> str | None:
        """Put it back; what could not be is returned in words."""
        owner = self.owner
        if isinstance(owner, np.random.Generator | np.random.BitGenerator):
            self._bits.state = self._state
            return "generator that spawned others" if _num_spawned(self._bits) != self._spawned else None
        if isinstance(owner, random.Random):
            if self._state is not None:
                random.Random.setstate(owner, self._state)
        else:
            self._base.set_state(owner, self._state)
        return None


def _num_spawned(bits: Any) -> int | None:
    return getattr(getattr(bits, "seed_seq", None), "n_children_spawned", None)


class IteratorState:
    """Where an iterator of the language stands: ``iter(list)``, ``itertools.cycle``, ``zip``, ...

    It cannot be moved back. A copy takes its place in whatever holds it.

    Attributes:
        owner: The iterator.
        copy: One that stands where it stood; None where there is no way to copy it.

    >>> stream = iter([1, 2, 3])
    >>> state = IteratorState(stream, {})
    >>> _ = next(stream)
    >>> state.moved, next(state.copy)
    (True, 1)
    """

    def __init__(self, owner: Any, copies: dict[int, Any]) -> None:
        self.owner = owner
        self._place = _place(owner)
        try:
            self.copy = _copied(owner, copies)
        except Exception:
            self.copy = None

    def held(self) -> Iterable[Any]:
        """What it goes through."""
        return _behind(self.owner)

    @property
    def moved(self) -> bool:
        """Whether it can be seen that it does not stand where it stood."""
        return bool(_place(self.owner) != self._place)


class GeneratorPlace:
    """Where a generator function stands, as far as that can be seen: it can neither be copied nor moved back.

    >>> stream = (number for number in range(3))
    >>> place = GeneratorPlace(stream)
    >>> next(stream), place.restore()
    (0, 'generator')
    """

    def __init__(self, owner: "types.GeneratorType[Any, Any, Any]") -> None:
        self.owner = owner
        self._held = _referents(owner)
        # Holding on to the local variables keeps their addresses from being used again.
        self._locals = dict(owner.gi_frame.f_locals) if owner.gi_frame is not None else {}
        self._place = self._now()

    @property
    def goes_on(self) -> bool:
        """Whether it has not come to its end."""
        return self.owner.gi_frame is not None

    def held(self) -> Iterable[Any]:
        """Its local variables, and what its loops go through."""
        return [item for one in self._held for item in (_behind(one) if is_iterator(type(one)) else [one])]

    def _now(self) -> tuple[Any, ...]:
        frame = self.owner.gi_frame
        if frame is None:
            return ("finished",)
        values = [(name, id(value)) for name, value in frame.f_locals.items()]
        loops = [_place(item) for item in _referents(self.owner) if is_iterator(type(item))]
        return frame.f_lasti, values, loops

    def restore(self) -> str | None:
        """What could not be put back, in words."""
        return "generator" if self._now() != self._place else None


class CacheState:
    """A function's ``functools.lru_cache``: what an audit put in is not there for the training, which may draw it.

    >>> square = functools.lru_cache(lambda number: number**2)
    >>> state = CacheState(square)
    >>> square(3), state.restore(), square.cache_info().currsize
    (9, None, 0)
    """

    def __init__(self, owner: Any) -> None:
        self.owner, self._before = owner, owner.cache_info()

    def restore(self) -> str | None:
        """Empty it, where it was empty; else say that it has changed."""
        now = self.owner.cache_info()
        if now.misses == self._before.misses:
            return None
        if self._before.currsize == 0:
            self.owner.cache_clear()
            return None
        return "cache"


LRU_CACHE = type(functools.lru_cache(lambda: None))


def _reduced(iterator: Any) -> tuple[Any, ...] | None:
    """Constructor, arguments and state that make a copy; None where the language gives none."""
    if isinstance(iterator, types.GeneratorType):
        return None
    if type(iterator) is itertools.count:  # the only way from Python 3.14 on
        try:
            return itertools.count, tuple(int(number) for number in repr(iterator)[6:-1].split(", ")), ()
        except ValueError:
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # itertools, from Python 3.12 to 3.14
        try:
            parts = iterator.__reduce__()
        except TypeError:
            return None
    if not isinstance(parts, tuple) or parts[0] is copyreg._reconstructor:  # type: ignore[attr-defined]
        return None
    constructor, arguments, *state = parts
    return constructor, tuple(arguments), tuple(state[:1]) if state and state[0] is not None else ()


def _referents(iterator: Any) -> list[Any]:
    """What an iterator holds; in Python 3.10 the frame of a generator function holds its variables and loops."""
    found = gc.get_referents(iterator)
    frame = iterator.gi_frame if isinstance(iterator, types.GeneratorType) else None
    if frame is None:
        return found
    # Neither the variables of its module, nor the dict in which its own are shown to whoever asks for them.
    others = {id(one) for one in (frame, frame.f_globals, frame.f_builtins, frame.f_locals)}
    return [one for one in (*found, *gc.get_referents(frame)) if id(one) not in others]


def _behind(iterator: Any) -> list[Any]:
    """What an iterator goes through, and the iterators within it, which share its fate."""
    reduced = _reduced(iterator)
    if reduced is None:
        found = _referents(iterator)
        return [item for one in found for item in (_behind(one) if is_iterator(type(one)) else [one])]

    def items(value: Any) -> list[Any]:
        if type(value) is tuple:
            return [item for one in value for item in items(one)]
        return _behind(value) if is_iterator(type(value)) else [value]

    return items(reduced[1:])


def _copied(iterator: Any, copies: dict[int, Any]) -> Any:
    """A copy at the same place; iterators within it are copied too, once for all that share them."""
    if id(iterator) in copies:
        return copies[id(iterator)]
    reduced = _reduced(iterator)
    if reduced is None:
        raise TypeError(type(iterator).__name__)

    def item(value: Any) -> Any:
        if is_iterator(type(value)):
            return _copied(value, copies)
        if type(value) is tuple:
            return tuple(item(one) for one in value)
        # itertools.cycle goes on to fill the list of what it has seen.
        return list(value) if type(value) is list and type(iterator) is itertools.cycle else value

    constructor, arguments, state = reduced
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        copy = constructor(*(item(argument) for argument in arguments))
        if state:
            copy.__setstate__(item(state[0]))
    copies[id(iterator)] = copy
    return copy


def _place(iterator: Any) -> Any:
    """Something that is equal as long as an iterator does not move; what cannot be seen is equal always."""
    reduced = _reduced(iterator)
    if reduced is None:
        return [_place(held) for held in _referents(iterator) if is_iterator(type(held))]

    def item(value: Any) -> Any:
        kind = type(value)
        if kind in _NUMBERS or kind is range:  # from Python 3.12 on a new range at every call, of what is left
            return kind.__name__, repr(value)
        if is_iterator(kind):
            return _place(value)
        if kind is tuple:
            return tuple(item(one) for one in value)
        return id(value) if kind is not list else ("list", len(value))

    return tuple(item(part) for part in reduced)

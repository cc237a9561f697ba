"""What functions and classes hold: variables, default arguments, attributes; put back into the very same objects."""

# ruff: noqa: D102 - State says what its methods do

import contextvars
import types
from collections.abc import Iterable
from typing import Any

from lightning_memaudit.callback.state.object_states import MISSING, Held, State, Swap


class Names(State):
    """Some names of a namespace: global variables that functions name, attributes of a module that they use.

    >>> variables = {"calls": 0}
    >>> names = Names(variables)
    >>> names.add(["calls", "new"])
    [('calls', 0)]
    >>> variables.update(calls=1, new=2)
    >>> names.restore({})
    >>> variables
    {'calls': 0}
    """

    def __init__(self, owner: dict[str, Any]) -> None:
        super().__init__(owner)
        self._saved: dict[str, Any] = {}

    def add(self, names: Iterable[str]) -> list[tuple[str, Any]]:
        """Watch more names; those that are new, with their values."""
        new = [(name, self.owner.get(name, MISSING)) for name in names if name not in self._saved]
        self._saved.update(new)
        return [(name, value) for name, value in new if value is not MISSING]

    def restore(self, swap: Swap) -> str | None:
        for name, value in self._saved.items():
            if self.owner.get(name, MISSING) is not (value := swap.get(id(value), value)):
                if value is MISSING:
                    del self.owner[name]
                else:
                    self.owner[name] = value
        return None

    @staticmethod
    def label(key: Any) -> str:
        return f".{key}"


class Class(State):
    """The attributes of a class.

    >>> class Owner:
    ...     calls = 0
    >>> state = Class(Owner)
    >>> Owner.calls, Owner.new = 1, 2
    >>> state.restore({})
    >>> Owner.calls, hasattr(Owner, "new")
    (0, False)
    """

    def __init__(self, owner: type) -> None:
        super().__init__(owner)
        self._saved = self._now()

    def _now(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.owner).items() if not name.startswith("__")}

    def held(self) -> Held:
        yield from self._saved.items()
        yield from ((name, vars(self.owner)[name]) for name in vars(self.owner) if name.startswith("__"))
        yield from (("base", base) for base in self.owner.__mro__[1:])

    def restore(self, swap: Swap) -> str | None:
        now = self._now()
        for name in now.keys() - self._saved.keys():
            type.__delattr__(self.owner, name)
        for name, value in self._saved.items():
            if now.get(name, MISSING) is not (value := swap.get(id(value), value)):
                type.__setattr__(self.owner, name, value)
        return None

    @staticmethod
    def label(key: Any) -> str:
        return f".{key}"


class Cell(State):
    """A variable that functions share with the function that they were made in.

    >>> def counter():
    ...     calls = 0
    ...     def count():
    ...         nonlocal calls
    ...         calls += 1
    ...         return calls
    ...     return count
    >>> count = counter()
    >>> state = Cell(count.__closure__[0])
    >>> count(), state.restore({}), count()
    (1, None, 1)
    """

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self._value = _content(owner)

    def held(self) -> Held:
        return () if self._value is MISSING else (("", self._value),)

    def restore(self, swap: Swap) -> str | None:
        value = swap.get(id(self._value), self._value)
        if _content(self.owner) is not value:
            if value is MISSING:
                del self.owner.cell_contents
            else:
                self.owner.cell_contents = value
        return None

    @staticmethod
    def label(key: Any) -> str:
        return ""


class Context(State):
    """A context variable.

    >>> calls = contextvars.ContextVar("calls", default=0)
    >>> state = Context(calls)
    >>> _ = calls.set(1)
    >>> state.restore({}), calls.get()
    (None, 0)
    """

    fixed = True

    def __init__(self, owner: "contextvars.ContextVar[Any]") -> None:
        super().__init__(owner)
        self._value = owner.get(MISSING)

    def held(self) -> Held:
        return () if self._value is MISSING else (("", self._value),)

    def restore(self, swap: Swap) -> str | None:
        value = self._value
        if self.owner.get(MISSING) is value:
            return None
        if value is MISSING:  # it cannot be without a value again, but have the one that it has without
            try:
                value = contextvars.Context().run(self.owner.get)
            except LookupError:
                return "context variable"
        self.owner.set(value)
        return None

    @staticmethod
    def label(key: Any) -> str:
        return ""


class Function(State):
    """A function: its default arguments, and the variables of the functions around it.

    >>> def count(calls=[]):
    ...     calls.append(1)
    >>> list(Function(count).held())
    [('argument 0', [])]
    """

    fixed = True

    def __init__(self, owner: types.FunctionType) -> None:
        super().__init__(owner)
        self._defaults, self._named_defaults = owner.__defaults__, owner.__kwdefaults__

    def held(self) -> Held:
        function = self.owner
        yield from zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        yield from ((f"argument {position}", value) for position, value in enumerate(self._defaults or ()))
        if self._named_defaults is not None:
            yield "", self._named_defaults

    def restore(self, swap: Swap) -> str | None:
        if self.owner.__defaults__ is not self._defaults:
            self.owner.__defaults__ = self._defaults
        if self.owner.__kwdefaults__ is not self._named_defaults:
            self.owner.__kwdefaults__ = self._named_defaults
        return None

    @staticmethod
    def label(key: Any) -> str:
        return f"<{key}>" if key else ""


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING

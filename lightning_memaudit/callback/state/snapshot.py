"""All state that can be reached from a module and from other objects, as it is now."""

import functools
import gc
import sys
import types
import weakref
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_memaudit.callback.state.code_states import Cell, Class, Context, Function, Names
from lightning_memaudit.callback.state.generator_states import (
    LRU_CACHE,
    RANDOM_GENERATORS,
    CacheState,
    GeneratorPlace,
    IteratorState,
    RandomState,
)
from lightning_memaudit.callback.state.object_states import (
    Attributes,
    AttributesButTensors,
    Dict,
    Frozen,
    ObjectArray,
    Sequenced,
    Set,
    Slots,
    State,
    attributes_of,
    slots_of,
)
from lightning_memaudit.callback.state.run_states import C_VALUE, OnTrainer, Settings, Value
from lightning_memaudit.callback.state.tensor_contents import ArrayContent, ChangedBefore, Contents, tensor_content
from lightning_memaudit.callback.state.user_code import (
    ATOMS,
    is_a,
    is_atom,
    is_dataset,
    is_iterator,
    is_open,
    is_user_class,
    is_user_code,
)

MOST_OBJECTS = 300_000
_WAYS = ("_modules", "_parameters", "_buffers")
_PLAIN_DICTS = (dict, OrderedDict)
_CELL = type((lambda x: lambda: x)(0).__closure__[0])  # type: ignore[index]
_FROZEN: dict[type, Callable[[Any], Iterable[Any]]] = {
    tuple: lambda owner: tuple.__iter__(owner),
    frozenset: lambda owner: frozenset.__iter__(owner),
    functools.partial: lambda owner: (owner.func, owner.args, owner.keywords),
    types.MethodType: lambda owner: (owner.__self__, owner.__func__),
    types.BuiltinMethodType: lambda owner: () if isinstance(owner.__self__, types.ModuleType) else (owner.__self__,),
    types.MethodWrapperType: lambda owner: (owner.__self__,),
    types.MappingProxyType: gc.get_referents,
    weakref.ref: lambda owner: (weakref.ref.__call__(owner),),
    staticmethod: lambda owner: (owner.__func__,),
    classmethod: lambda owner: (owner.__func__,),
    property: lambda owner: (owner.fget, owner.fset, owner.fdel),
}
_Place = tuple[Any, type[State] | None, Any]
"""Where an object was found: the place of what holds it, how what that holds is called, and the key."""


class Snapshot:
    """The state of everything that is reachable from some objects, each visited once.

    Lists, dicts, sets, attributes, slots, class attributes, variables of functions and global variables that functions
    of user code name are put back into the very same objects, and so are the contents of tensors and arrays, gradients,
    random generators, the place of iterators, values that processes share, the settings of optimizers and what others
    keep on a trainer. Left alone are trainers and optimizers otherwise, loggers, data loaders, data sets (unless
    given), and the insides of the big libraries. No code of the user's is called.

    Args:
        owners: Where to start; the first is what the others are named beside.
        ignored: Ids of tensors whose content others take care of.
        changed: Tensors that were found changed before.
        random_only: Take the random generators only, also those of data sets.
        sharded: The weights of modules are spread over processes: they are left alone.

    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.calls, self.seen = 0, []
    >>> model = Model()
    >>> snapshot = Snapshot([model])
    >>> model.calls, model.seen[:], model.new = 1, [2], 3
    >>> snapshot.restore()
    []
    >>> model.calls, model.seen, hasattr(model, "new")
    (0, [], False)
    """

    def __init__(
        self,
        owners: Sequence[object],
        ignored: frozenset[int] = frozenset(),
        changed: ChangedBefore | None = None,
        random_only: bool = False,
        sharded: bool = False,
    ) -> None:
        self._ignored, self._random_only, self._sharded = ignored, random_only, sharded
        self._states: list[tuple[State, _Place]] = []
        self._random: list[tuple[RandomState, _Place]] = []
        self._others: list[tuple[GeneratorPlace | CacheState, _Place]] = []
        self._iterators: list[tuple[IteratorState, _Place]] = []
        self._empty: list[Any] = []
        self._lazy: list[tuple[Any, _Place]] = []
        self._tensors: list[Any] = []
        self._places: dict[int, tuple[Any, _Place]] = {}  # holding on to an object keeps its id from another
        self._fixed: set[int] = set()
        self._copies: dict[int, Any] = {}
        self._names: dict[int, tuple[Names, _Place]] = {}
        self._makers: dict[type, list[Callable[[Any, _Place], None]]] = {}
        self._gradients: set[int] = set()
        self._queue: deque[tuple[Any, _Place]] = deque()
        self._datasets = random_only
        self.num_objects = 0
        # The collector would look through all that is made here again and again, and take longer than the walk.
        collecting = gc.isenabled()
        gc.disable()
        try:
            names = ["", *(type(owner).__name__ for owner in owners[1:])]
            roots: list[tuple[Any, _Place]] = [
                (owner, (None, None, name)) for owner, name in zip(owners, names, strict=False)
            ]
            self._places.update((id(owner), (owner, place)) for owner, place in roots)
            for owner, place in roots:
                self._datasets = random_only or is_dataset(type(owner))
                self._queue.append((owner, place))
                self._walk()
        finally:
            if collecting:
                gc.enable()
        self._contents = Contents(self._tensors, changed or ChangedBefore())

    # Before

    def _push(self, value: Any, place: _Place, fixed: bool = False) -> None:
        kind = type(value)
        if kind in ATOMS:
            return
        if fixed and is_iterator(kind):
            self._fixed.add(id(value))
        if id(value) not in self._places:
            self._places[id(value)] = value, place
            if kind in _PLAIN_DICTS and not value:
                self._empty.append(value)  # fourteen for each module
            else:
                self._queue.append((value, place))

    def _walk(self) -> None:
        queue, makers = self._queue, self._makers
        while queue and self.num_objects < MOST_OBJECTS:
            value, place = queue.popleft()
            self.num_objects += 1
            kind = type(value)
            if not self._datasets and is_dataset(kind):
                del self._places[id(value)]  # another owner may lead to it
                continue
            if kind not in makers:
                makers[kind] = self._makers_of(kind)
            for make in makers[kind]:
                make(value, place)

    def _makers_of(self, kind: type) -> list[Callable[[Any, _Place], None]]:
        """What to do with objects of this type."""
        for bases, take in (
            (RANDOM_GENERATORS, self._take_random),
            (Tensor, self._take_tensor),
            (np.ndarray, self._take_array),
        ):
            if issubclass(kind, bases):
                return [take, *self._attribute_makers(kind)]
        if is_atom(kind):
            return []
        if issubclass(kind, types.FunctionType):
            return [self._take_function]
        if issubclass(kind, type):
            return [self._take_class]
        if issubclass(kind, types.GeneratorType):
            return [self._take_generator]
        if is_iterator(kind):
            return [self._take_iterator]
        if kind is LRU_CACHE:
            return [self._take_cache]
        if issubclass(kind, types.ModuleType):
            return [self._take_module]
        if issubclass(kind, C_VALUE | SynchronizedBase):
            return [functools.partial(self._take, Value)]
        for name, framework in (("Trainer", OnTrainer), ("Optimizer", Settings)):
            if is_a(kind, name):
                return [functools.partial(self._take, framework)]
        makers: list[Callable[[Any, _Place], None]] = []
        for base, content in ((dict, Dict), (set, Set), (_CELL, Cell), (ContextVar, Context)):
            if issubclass(kind, base):
                makers.append(functools.partial(self._take, content))
        if issubclass(kind, list | deque | bytearray | array):
            makers.append(functools.partial(self._take, Sequenced))
        for base, read in _FROZEN.items():
            if issubclass(kind, base):
                makers.append(functools.partial(self._take_frozen, read))
        return makers + self._attribute_makers(kind) if is_open(kind) else makers

    def _attribute_makers(self, kind: type) -> list[Callable[[Any, _Place], None]]:
        makers: list[Callable[[Any, _Place], None]] = [self._take_attributes]
        if slots_of(kind):
            makers.append(functools.partial(self._take, Slots))
        if is_user_class(kind):
            makers.append(lambda value, place: self._push(type(value), (None, None, kind.__name__)))
        return makers

    def _take(self, content: type[State], value: Any, place: _Place) -> None:
        self._add(content(value), place)

    def _add(self, state: State, place: _Place) -> None:
        self._states.append((state, place))
        kind, fixed = type(state), state.fixed
        for key, held in state.held():
            self._push(held, (place, kind, key), fixed)

    def _take_frozen(self, read: Callable[[Any], Iterable[Any]], value: Any, place: _Place) -> None:
        self._add(Frozen(value, read(value)), place)

    def _take_attributes(self, value: Any, place: _Place) -> None:
        attributes = attributes_of(value)
        if attributes is None:
            return
        if not attributes and issubclass(type(value), Tensor | types.FunctionType):
            self._empty.append(attributes)
        elif self._sharded and issubclass(type(value), nn.Module):
            parameters = attributes.get("_parameters")
            self._places.setdefault(id(parameters), (parameters, place))
            self._add(AttributesButTensors(value), place)
        else:
            self._add(Attributes(value), place)

    def _take_tensor(self, tensor: Tensor, place: _Place) -> None:
        if is_lazy(tensor):
            self._lazy.append((tensor, place))
            return
        parameter = isinstance(tensor, nn.Parameter) or id(tensor) in self._gradients
        if self._random_only or id(tensor) in self._ignored or (self._sharded and parameter):
            return
        content = tensor_content(tensor, parameter)
        if content is None:
            return
        self._tensors.append(content)
        if content.grad is not None:
            self._gradients.add(id(content.grad))
            self._push(content.grad, (place, Attributes, "grad"))
        if tensor._backward_hooks is not None:
            self._push(tensor._backward_hooks, (place, Attributes, "_backward_hooks"))

    def _take_array(self, value: Any, place: _Place) -> None:
        if not self._random_only:
            self._tensors.append(ArrayContent(value))
        if value.dtype.hasobject:
            self._add(ObjectArray(value), place)

    def _take_function(self, function: types.FunctionType, place: _Place) -> None:
        self._add(Function(function), place)
        self._take_attributes(function, place)
        module = function.__globals__.get("__name__")
        if is_user_code(module):
            self._take_names(function.__globals__, str(module), _names_in(function.__code__))

    def _take_names(self, namespace: dict[str, Any], module: str, names: Sequence[str]) -> None:
        """Watch names of a module, and the same names of modules among them: ``helper.counts.append``."""
        modules, visited = [(namespace, module)], {id(namespace)}
        for name in names:  # of modules that are imported within a function
            for imported in (sys.modules.get(name), sys.modules.get(f"{module.rpartition('.')[0]}.{name}")):
                if _is_module(imported):
                    modules.append((vars(imported), imported.__name__))
        for namespace, module in modules:
            if not is_user_code(module):
                continue
            state, place = self._names.setdefault(id(namespace), (Names(namespace), (None, None, module)))
            for name, value in state.add(names):
                if not _is_module(value):
                    self._push(value, (place, Names, name))
            for name in names:
                value = namespace.get(name)
                if _is_module(value) and id(vars(value)) not in visited:
                    visited.add(id(vars(value)))
                    modules.append((vars(value), value.__name__))

    def _take_module(self, value: types.ModuleType, place: _Place) -> None:
        if is_user_code(value.__name__):
            self._take_names(vars(value), value.__name__, [name for name in vars(value) if not name.startswith("__")])

    def _take_class(self, kind: type, place: _Place) -> None:
        if is_user_code(getattr(kind, "__module__", None)):
            self._add(Class(kind), place)

    def _take_random(self, value: Any, place: _Place) -> None:
        self._random.append((RandomState(value), place))

    def _take_generator(self, value: Any, place: _Place) -> None:
        state = GeneratorPlace(value)
        self._others.append((state, place))
        for position, held in enumerate(state.held()):
            self._push(held, (place, Frozen, position), fixed=True)

    def _take_iterator(self, value: Any, place: _Place) -> None:
        state = IteratorState(value, self._copies)
        self._iterators.append((state, place))
        for position, held in enumerate(state.held()):
            self._push(held, (place, Frozen, position), fixed=state.copy is None)

    def _take_cache(self, value: Any, place: _Place) -> None:
        self._others.append((CacheState(value), place))
        self._push(value.__wrapped__, place)

    # After

    @property
    def is_one_way(self) -> bool:
        """Whether it holds what goes on and cannot be moved back, such as a generator function."""
        fixed = (one.copy is None or id(one.owner) in self._fixed for one, _ in self._iterators)
        return any(fixed) or any(isinstance(one, GeneratorPlace) and one.goes_on for one, _ in self._others)

    def restore(self) -> list[str]:
        """Put everything back; the names of what could not be, with what they are."""
        problems = []
        for generator, place in self._random:
            problems += _attempt(generator.restore, place)
        if self._random_only:
            return problems
        for mapping in self._empty:
            if mapping:
                mapping.clear()
        swap: dict[int, Any] = {}
        for iterator, place in self._iterators:
            if iterator.moved:
                if iterator.copy is None or id(iterator.owner) in self._fixed:
                    problems.append(f"{_path(place)} (iterator)")
                else:
                    swap[id(iterator.owner)] = iterator.copy
        for state, place in [*self._states, *self._names.values()]:
            problems += _attempt(functools.partial(state.restore, swap), place)
        for other, place in self._others:
            problems += _attempt(other.restore, place)
        for owner, problem in self._contents.restore():
            problems.append(f"{_path(self._places[id(owner)][1])} ({problem})")
        problems += [f"{_path(place)} (initialized)" for tensor, place in self._lazy if not is_lazy(tensor)]
        if self._queue:
            problems.append(f"what lies beyond {MOST_OBJECTS} objects (not watched)")
        return problems


def _attempt(restore: Callable[[], str | None], place: _Place) -> list[str]:
    try:
        problem = restore()
    except Exception as error:  # a value whose equality or hash raises, an attribute that is read-only
        problem = type(error).__name__
    return [] if problem is None else [f"{_path(place)} ({problem})"]


def _path(place: _Place) -> str:
    """Such as ``decoder.blocks[2].stream``."""
    steps: list[tuple[type[State] | None, Any]] = []
    here: Any = place
    while here is not None:
        here, kind, key = here
        steps.append((kind, key))
    path = str(steps.pop()[1])
    way = False
    for kind, key in reversed(steps):
        if kind is not None and issubclass(kind, Attributes) and key in _WAYS:
            way = True
            continue
        path += f".{key}" if way or kind is None else kind.label(key)
        way = False
    return path.removeprefix(".") or "the model"


def _is_module(value: Any) -> TypeGuard[types.ModuleType]:
    return issubclass(type(value), types.ModuleType)  # isinstance asks for __class__, which may be a property


def _names_in(code: types.CodeType) -> list[str]:
    """Global variables, and attributes too, that a function names, and the functions within it."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names_in(constant)
    return names

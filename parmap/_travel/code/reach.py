"""What functions and classes reach: a walk through all that travels with them, of which a mark is made."""

from __future__ import annotations

import builtins
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import attrgetter
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    NotImplementedType,
    WrapperDescriptorType,
)
from typing import Any, Union
from weakref import ref

from parmap._travel.code.by_value import MADE_BY_CODE, globals_of, is_by_value
from parmap._travel.code.classes import NOTED, is_made_with_class, tracker_of
from parmap._travel.code.late import LAZY_IMPORT, annotations_of, are_late, is_of_module, names_in_hints, variables_of
from parmap._travel.code.marks import DIGESTED, MANY, REST, Look, Mark, Packer, Round, Table, pattern_of
from parmap._travel.code.remade import remake
from parmap._travel.text import is_enumeration

_HELD = 64 << 20  # bytes that a mark holds of the user's data, at most
_LONG = 64 * 1024  # bytes, or characters, from which on a string is not held

_ATOMS: frozenset[type] = frozenset(
    {int, float, complex, bool, str, bytes, range, CodeType, NoneType, EllipsisType, NotImplementedType}
    | {getattr(builtins, "sentinel", NoneType)}  # from 3.15 on
)
_FROZEN = frozenset({tuple, frozenset})
_OF_TYPES = ("types", "typing")  # where what stands in annotations is made
_HINTS = frozenset({EllipsisType, NoneType, type(Union)})
# Of `dataclasses`; each has one instance for each name.
_MARKERS = ("_MISSING_TYPE", "_FIELD_BASE", "_HAS_DEFAULT_FACTORY_CLASS", "_KW_ONLY_TYPE")
_OF_DATACLASS = ("Field", "_DataclassParams")

ABSENT = object()
"""In the place of what is not there."""

Large = list[tuple[Any, Table]]
"""Containers that travel by themselves, each with what it holds."""


def mark(roots: Sequence[Any], known: Callable[[type, int], Iterable[Table]]) -> tuple[Mark, Large]:
    """The mark of some objects, and the large containers among what they reach.

    *known*: tables of that type and length that were marked before; one that is the same is used again.
    """
    walk = _Walk(known)
    try:
        walk.through(roots)
        made = Mark(walk.steps, list(map(ref, walk.things)), pattern_of(walk.boxes), walk.nbytes)
        made.classes = frozenset(map(tracker_of, walk.classes))
        return made, walk.large
    finally:
        walk.packer = None  # which refers to the walk: what it has seen shall not wait for the garbage collector


def apart_of(large: Large) -> dict[int, int]:
    """The numbers of the large containers, by their identities."""
    return {id(value): number for number, (value, _) in enumerate(large)}


class _Walk:
    def __init__(self, known: Callable[[type, int], Iterable[Table]]) -> None:
        self.steps: list[Look | Round] = []
        self._queue: deque[Any] = deque()
        self._rest: list[Any] = []
        self.boxes: list[Any] = []
        self.large: Large = []
        self.things: list[Any] = []  # functions and classes, by their place
        self.classes: list[type] = []  # those by value
        self.nbytes = 0
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []  # as long as their identities are used
        self._known = known
        self.packer: Packer | None = None

    def through(self, roots: Sequence[Any]) -> None:
        """Look at everything."""
        if all(issubclass(type(root), (FunctionType, type)) for root in roots):  # whoever asks knows them by identity
            for root in roots:
                self._place(root)
        else:
            self._look(None, _read_roots, roots)
        while self._queue or self._rest:
            while self._queue:
                thing = self._queue.popleft()
                named = names_in_hints(thing)
                if isinstance(thing, FunctionType):
                    names = (*globals_of(thing.__code__), *named, *_OF_MODULE)
                    get = _of_late if are_late(thing) else _of_function
                    self._look(thing, functools.partial(_read_function, get, names), thing)
                else:
                    self._look(thing, functools.partial(_read_class, named), thing)
            if self._rest:
                self._pack()

    def _look(self, thing: Any, read: Callable[[Any], list[Any]], source: Any) -> None:
        values = read(source)
        kept = [self._keep(value) for value in values]
        self.steps.append(Look(None if thing is None else ref(thing), read, kept))

    def _pack(self) -> None:
        if self.packer is None:
            self.packer = Packer(self.boxes, self._place)
        stream, buffers = self.packer.pack(self._rest)
        self._alive.append(self._rest)
        self._rest = []
        self.nbytes += min(len(stream), DIGESTED)
        self.steps.append(Round(stream, buffers))

    def _place(self, thing: Any) -> int:
        """The place of a function or class; one by value is looked at, too."""
        key = id(thing)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.things)
            self.things.append(thing)
            if is_by_value(thing):
                self._queue.append(thing)
                if isinstance(thing, type) and remake(thing) is None:
                    self.classes.append(thing)
        return place

    def _keep(self, value: Any) -> Any:
        kind = type(value)
        if value is ABSENT or self._may_hold(value, kind) or _is_constant(value, kind):
            return value
        if kind is FunctionType or issubclass(kind, type):
            self._place(value)
            return value if kind is type and not value.__flags__ & MADE_BY_CODE else ref(value)
        if _goes_by_name(value, kind) or (kind.__weakrefoffset__ and self._knows(value)):
            return ref(value)
        table = self._table(value, kind) if kind is list or kind is dict or kind is set else None
        return self._leave(value) if table is None else self._box(value, table)

    def _knows(self, hint: Any) -> bool:
        """Whether a type, such as `list[int] | None`, can't change, but for the classes in it, which are looked at."""
        kind = type(hint)
        if issubclass(kind, type):
            self._place(hint)
            return True
        if kind in _HINTS or kind in _ATOMS:
            return True
        is_plain = kind.__module__ in _OF_TYPES and not hasattr(hint, "__metadata__")  # as `Annotated` has
        args = getattr(hint, "__args__", None) if is_plain else None
        return type(args) is tuple and self._knows(hint.__origin__) and all(map(self._knows, args))

    def _may_hold(self, value: Any, kind: type) -> bool:
        if kind in _ATOMS:
            return (kind is not str and kind is not bytes) or len(value) <= _LONG
        if kind not in _FROZEN or not _are_frozen((value,)):
            return kind.__module__ == "_contextvars"  # a variable is the same as long as it is there
        size = _size_of((value,))
        if size > _LONG:
            return False
        self.nbytes += size
        return True

    def _table(self, value: Any, kind: type) -> Table | None:
        if len(value) >= MANY:
            for each in self._known(kind, len(value)):
                if each.same(value):
                    return each
        return _table_of(value, kind, _HELD - self.nbytes)

    def _box(self, value: Any, table: Table) -> Any:
        if self.packer is not None:  # it may be in what was pickled already, and that must be seen
            return self._leave(value)
        self.boxes.append(value)
        self.nbytes += table.nbytes
        if table.is_large:
            self.large.append((value, table))
        return table

    def _leave(self, value: Any) -> Any:
        self._rest.append(value)
        self._place(type(value))  # before it is met in the middle of pickling: then its tables would have to be pickled
        return REST


def _goes_by_name(value: Any, kind: type) -> bool:
    if kind is BuiltinFunctionType:
        owner = value.__self__
        return type(owner) is ModuleType or (type(owner) is type and not owner.__flags__ & MADE_BY_CODE)
    if kind is ModuleType:
        return not is_by_value(value)
    logging = sys.modules.get("logging")
    return logging is not None and kind is getattr(logging, "Logger", None)


def _is_constant(value: Any, kind: type) -> bool:
    """Whether it is there once, as long as the process lives, and never changes."""
    if kind is LAZY_IMPORT:
        return is_of_module(value)
    if kind is WrapperDescriptorType or kind is MethodDescriptorType:
        return not value.__objclass__.__flags__ & MADE_BY_CODE
    return kind.__module__ == "dataclasses" and kind.__name__ in _MARKERS


def _table_of(value: Any, kind: type, room: int) -> Table | None:
    """What a container holds; `None` if that is not atoms alone, or too much."""
    try:
        value = value.copy()  # in one step: another thread may change it between the keys and the values
        keys = tuple(value)
        values = tuple(value.values()) if kind is dict else None
        every = keys if values is None else keys + values
        if not _are_frozen(every):
            return None
    except (TypeError, RuntimeError):  # a class without a hash; changed just now
        return None
    size = _size_of(every)
    return Table(kind, keys, values, size) if size <= room else None


def _are_frozen(values: Sequence[Any]) -> bool:
    """Whether all are atoms, or tuples or frozen sets of such."""
    kinds = set(map(type, values))
    if kinds <= _ATOMS:
        return True
    if not kinds <= _ATOMS | _FROZEN:
        return False
    inner = [each for each in values if type(each) in _FROZEN]
    try:
        return _are_frozen(list(chain.from_iterable(inner)))
    except RecursionError:
        return False


def _size_of(values: Sequence[Any]) -> int:
    size = 8 * len(values) + sum(map(sys.getsizeof, values))
    inner = [each for each in values if type(each) in _FROZEN and each]
    return size + _size_of(list(chain.from_iterable(inner))) if inner else size


# --- the parts of functions and classes, in a fixed order ------------------------------------------

_OF_MODULE = ("__package__", "__name__", "__path__", "__file__")  # globals that always travel
_OF_ANNOTATIONS = frozenset({"__annotate_func__", "__annotations_cache__"})  # from 3.14 on
_OF_OTHERS = _OF_ANNOTATIONS | NOTED


def _read_roots(roots: Sequence[Any]) -> list[Any]:
    values: list[Any] = []
    for root in roots:
        if type(root) is MethodType:
            values += (MethodType, root.__func__, root.__self__)
        elif type(root) is functools.partial:
            values += (functools.partial, root.func, *_spread(root.args), *_spread_dict(root.keywords))
            values += _spread_dict(vars(root))
        else:
            values.append(root)
    return values


_PARTS = (
    "__code__", "__module__", "__name__", "__qualname__", "__doc__",
    "__closure__", "__defaults__", "__kwdefaults__", "__dict__",
)  # fmt: skip
_of_function = attrgetter(*_PARTS, "__annotations__")


def _of_late(function: FunctionType) -> tuple[Any, ...]:
    return *attrgetter(*_PARTS)(function), annotations_of(function)


def _read_function(get: Callable[[Any], Iterable[Any]], names: tuple[str, ...], function: FunctionType) -> list[Any]:
    # Read before each task of `submit`: most functions have few of these, and C fetches them.
    *values, closure, defaults, keywords, attributes, annotations = get(function)
    values += map(function.__globals__.get, names, repeat(ABSENT))
    if closure:
        values += map(_content, closure)
    if defaults is not None or keywords or annotations or attributes:
        values += _spread(defaults)
        for each in (keywords, annotations, attributes):
            values += _spread_dict(each) if each else (None,)
    return values


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return ABSENT


def _spread(values: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return (None,) if values is None else (len(values), *values)


def _spread_dict(values: dict[Any, Any] | None) -> Iterator[Any]:
    return iter((None,)) if values is None else chain((len(values),), values, values.values())


def _read_class(names: tuple[str, ...], cls: type) -> list[Any]:
    values: list[Any] = [type(cls), *_spread(cls.__bases__), *map(variables_of(cls).get, names, repeat(ABSENT))]
    is_of_c = "_fields_" in vars(cls)  # a structure of ctypes
    is_enum = is_enumeration(cls)
    if not _OF_ANNOTATIONS.isdisjoint(vars(cls)):
        values += _spread_dict(annotations_of(cls))
    for name, value in vars(cls).items():
        kind = type(value)
        if name in _OF_OTHERS:
            continue
        values.append(name)
        if kind is GetSetDescriptorType or kind is MemberDescriptorType or (is_of_c and is_made_with_class(value)):
            values.append(kind)
        elif name == "_abc_impl":
            values += _registered_in(cls)
        elif kind is cls and is_enum:
            values.append(value._name_)
        elif kind is dict and name in (_OF_ENUMERATION if is_enum else _READ_IN):
            values += (_read_members if name in _OF_ENUMERATION else _READ_IN[name])(value)
        elif kind in _READ:
            values += _READ[kind](value)
        elif kind.__module__ in _MADE_OF:
            values += _MADE_OF[kind.__module__](value, kind)
        else:
            values.append(value)
    return values


def _read_members(members: dict[Any, Any]) -> Iterator[Any]:
    """The members of an enumeration, by name or by value."""
    yield from (len(members), *members)
    for member in members.values():
        attributes = getattr(member, "__dict__", {})
        yield from chain.from_iterable(each for each in attributes.items() if each[0] != "__objclass__")


def _read_fields(fields: dict[str, Any]) -> Iterator[Any]:
    """Those of a dataclass."""
    yield from (len(fields), *fields)
    for field in fields.values():
        yield from _read_slots(field, type(field))


def _read_slots(value: Any, kind: Any) -> Iterable[Any]:
    """What is of `dataclasses`."""
    if kind.__module__ != "dataclasses" or kind.__name__ not in _OF_DATACLASS:
        return (value,)
    metadata = getattr(value, "metadata", None)
    parts: tuple[Any, ...] = _slots_of(kind)(value)
    return (*parts, *_spread_dict(dict(metadata))) if metadata else parts


@functools.cache
def _slots_of(kind: Any) -> Callable[[Any], Any]:
    return attrgetter(*[name for name in kind.__slots__ if name != "metadata"])


def _read_lazy(value: Any, kind: Any) -> Iterator[Any]:
    """What is of `functools`."""
    yield from (kind, value.func, value.attrname, value.__doc__) if kind is functools.cached_property else (value,)


def _read_getter(value: Any, kind: Any) -> Iterator[Any]:
    """What is of `collections`: the attributes of a named tuple."""
    yield from (kind, *value.__reduce__()[1]) if kind.__name__ == "_tuplegetter" else (value,)


def _registered_in(cls: type) -> list[Any]:
    """The classes that were registered as subclasses of an abstract one."""
    import abc

    found = [each() for each in abc._get_dump(cls)[0]]  # type: ignore[attr-defined]  # noqa: SLF001 - as cloudpickle
    return [each for each in found if each is not None]


_READ: dict[type, Callable[[Any], Iterable[Any]]] = {
    tuple: _spread,
    staticmethod: lambda value: (staticmethod, value.__func__),
    classmethod: lambda value: (classmethod, value.__func__),
    property: lambda value: (property, value.fget, value.fset, value.fdel, value.__doc__),
}
_READ_IN: dict[str, Callable[[dict[Any, Any]], Iterable[Any]]] = {
    "__annotations__": _spread_dict,
    "__dataclass_fields__": _read_fields,
}
_OF_ENUMERATION = ("_member_map_", "_value2member_map_")
_MADE_OF: dict[str, Callable[[Any, Any], Iterable[Any]]] = {
    "dataclasses": _read_slots,
    "functools": _read_lazy,
    "collections": _read_getter,
    "_collections": _read_getter,
}

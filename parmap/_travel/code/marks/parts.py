"""The parts of functions, classes and objects, in a fixed order: what a mark looks at."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any

from parmap._travel.code.by_value import MADE_BY_CODE
from parmap._travel.code.classes import NOTED, is_made_with_class
from parmap._travel.code.needs.variables import globals_of
from parmap._travel.code.special.lazy import annotations_of, are_late, names_in_hints, variables_of
from parmap._travel.code.special.remade import DISPATCHING, parts_of_dispatch
from parmap._travel.text import is_enumeration

# Of `dataclasses`.
_OF_DATACLASS = ("Field", "_DataclassParams")

ABSENT = object()
"""In the place of what is not there."""

_OF_MODULE = ("__package__", "__name__", "__path__", "__file__")  # globals that always travel
_OF_ANNOTATIONS = frozenset({"__annotate_func__", "__annotations_cache__"})  # from 3.14 on
_OF_OTHERS = _OF_ANNOTATIONS | NOTED


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
    values += (len(defaults), *defaults) if defaults else (None,)
    for each in (keywords, attributes, annotations):
        values += (len(each), *each, *each.values()) if each else (None,)
    return values


def reader_of(thing: Any) -> Callable[[Any], list[Any]]:
    """What reads the parts of a function or class by value."""
    if isinstance(thing, type):
        return _class_reader(thing)
    if thing.__code__ is DISPATCHING:
        return parts_of_dispatch
    get = _of_late if are_late(thing) else _of_function
    return functools.partial(_read_function, get, (*globals_of(thing.__code__), *names_in_hints(thing), *_OF_MODULE))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return ABSENT


def _spread(values: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return (None,) if values is None else (len(values), *values)


def _spread_dict(values: dict[Any, Any] | None) -> Iterator[Any]:
    return iter((None,)) if values is None else chain((len(values),), values, values.values())


def _class_reader(cls: type) -> Callable[[Any], list[Any]]:
    """What reads a class, whose variables are of the kinds that they are of now."""
    own = {name: value for name, value in vars(cls).items() if name not in _OF_OTHERS}
    made = tuple([name for name, value in own.items() if name == "_abc_impl" or is_made_with_class(value)])
    ways = {name: way for name, value in own.items() if name not in made and (way := _way_of(cls, name, value))}
    names = tuple([name for name in own if name not in ways and name not in made])
    return functools.partial(_read_class, names_in_hints(cls), names, made, ways)


def _read_class(
    hints: tuple[str, ...],
    names: tuple[str, ...],
    made: tuple[str, ...],
    ways: dict[str, Callable[[Any], Iterable[Any]]],
    cls: type,
) -> list[Any]:
    own = vars(cls)
    values: list[Any] = [type(cls), *_spread(cls.__bases__)]
    if hints:
        values += map(variables_of(cls).get, hints, repeat(ABSENT))
    if not own.keys().isdisjoint(_OF_ANNOTATIONS):
        values += _spread_dict(annotations_of(cls))
    if "_abc_impl" in own:
        values += _registered_in(cls)
    has_others = not own.keys().isdisjoint(_OF_OTHERS)
    values += [name for name in own if name not in _OF_OTHERS] if has_others else own
    values += map(own.get, names, repeat(ABSENT))
    values += map(type, map(own.get, made))
    for name, way in ways.items():
        values += (type(own[name]), *way(own[name]))  # what is not there any more, is an error: it is not the same
    return values


def _way_of(cls: type, name: str, value: Any) -> Callable[[Any], Iterable[Any]] | None:
    """What reads a variable of a class whose value says nothing by itself, or is made anew with the class."""
    kind = type(value)
    if kind is dict:
        return (_READ_IN_ENUMERATION if is_enumeration(cls) else _READ_IN).get(name)
    if kind is cls and is_enumeration(cls):
        return lambda member: (member._name_,)
    return _READ.get(kind) or _MADE_OF.get(kind.__module__)


def _read_members(members: dict[Any, Any]) -> Iterator[Any]:
    """The members of an enumeration, by name or by value."""
    yield from (len(members), *members)
    for member in members.values():
        attributes = getattr(member, "__dict__", {})
        yield from chain.from_iterable(each for each in attributes.items() if each[0] != "__objclass__")


def _read_fields(fields: dict[str, Any]) -> list[Any]:
    """Those of a dataclass."""
    values: list[Any] = [len(fields), *fields]
    for field in fields.values():
        values += _read_slots(field)
    return values


def _read_slots(value: Any) -> Iterable[Any]:
    """What is of `dataclasses`."""
    kind: Any = type(value)
    if kind.__module__ != "dataclasses" or kind.__name__ not in _OF_DATACLASS:
        return (value,)
    metadata = getattr(value, "metadata", None)
    return (*_slots_of(kind)(value), *(_spread_dict(dict(metadata)) if metadata else ()))


@functools.cache
def _slots_of(kind: Any) -> Callable[[Any], Any]:
    return attrgetter(*[name for name in kind.__slots__ if name != "metadata"])


def _read_lazy(value: Any) -> tuple[Any, ...]:
    """What is of `functools`."""
    is_property = type(value) is functools.cached_property
    return (value.func, value.attrname, value.__doc__) if is_property else (value,)


def _read_getter(value: Any) -> tuple[Any, ...]:
    """What is of `collections`: the attributes of a named tuple."""
    found: tuple[Any, ...] = value.__reduce__()[1] if type(value).__name__ == "_tuplegetter" else (value,)
    return found


def _registered_in(cls: type) -> list[Any]:
    """The classes that were registered as subclasses of an abstract one."""
    import abc

    every = abc._get_dump(cls)[0]  # type: ignore[attr-defined]  # noqa: SLF001 - as cloudpickle
    return [found for each in every if (found := each()) is not None]


_READ: dict[type, Callable[[Any], Iterable[Any]]] = {
    tuple: _spread,
    staticmethod: lambda value: (value.__func__,),
    classmethod: lambda value: (value.__func__,),
    property: lambda value: (value.fget, value.fset, value.fdel, value.__doc__),
}
_READ_IN: dict[str, Callable[[dict[Any, Any]], Iterable[Any]]] = {
    "__annotations__": _spread_dict,
    "__dataclass_fields__": _read_fields,
}
_READ_IN_ENUMERATION: dict[str, Callable[[dict[Any, Any]], Iterable[Any]]] = {
    "_member_map_": _read_members,
    "_value2member_map_": _read_members,
}
_MADE_OF: dict[str, Callable[[Any], Iterable[Any]]] = {
    "dataclasses": _read_slots,
    "functools": _read_lazy,
    "collections": _read_getter,
    "_collections": _read_getter,
}


# --- what is in containers and objects -------------------------------------------------------------


def reader_in(kind: Any) -> Callable[[Any], list[Any]] | None:
    """What reads all that is in something of a *kind*; `None`: nobody knows what that is."""
    if kind in _READ_INSIDE or _SAYS_WHAT in vars(kind):
        return _READ_INSIDE.get(kind) or vars(kind).get(_SAYS_WHAT)
    if is_enumeration(kind):
        return _read_member
    return functools.partial(_read_object, tuple(copyreg._slotnames(kind))) if _is_plain(kind) else None  # type: ignore[attr-defined]  # noqa: SLF001 - as pickle


def _is_plain(kind: Any) -> bool:
    """Whether an object of that kind has nothing but its `__dict__` and its slots: no state in C."""
    if _asked_by(type(kind)) != _AS_TYPES:  # to ask the class for something would run the user's code
        return False
    flags = [base.__flags__ for base in kind.__mro__[:-1]]
    return all(each & MADE_BY_CODE and not each & _IMMUTABLE for each in flags) and _is_taken_apart(kind)


def _is_taken_apart(kind: Any) -> bool:
    """Whether pickle takes it from there, and asks nobody: a class can be given a way of its own at any time."""
    return (
        _reduced_by(kind) == _AS_ALL
        and kind not in copyreg.dispatch_table
        and not (hasattr(kind, "__getnewargs__") or hasattr(kind, "__getnewargs_ex__"))
    )


_IMMUTABLE = 1 << 8  # `Py_TPFLAGS_IMMUTABLETYPE`, as types that are made of C in the way of Python's have it
_asked_by: Callable[[Any], Any] = attrgetter("__getattribute__", "__hash__")
_AS_TYPES = _asked_by(type)
_reduced_by: Callable[[Any], Any] = attrgetter("__reduce_ex__", "__reduce__", "__getstate__", "__getattribute__")
_AS_ALL = _reduced_by(object)


def _read_object(slots: tuple[str, ...], thing: Any) -> list[Any]:
    values = [_is_taken_apart(type(thing)), *_spread_dict(getattr(thing, "__dict__", None))]
    return [*values, *[getattr(thing, name, ABSENT) for name in slots]] if slots else values


def _read_cached(function: Any) -> list[Any]:
    """What is of a function under `functools.lru_cache`, which has a function of its own that tells its parameters."""
    own = {name: value for name, value in vars(function).items() if name != "cache_parameters"}
    return [*_spread_dict(own), *function.cache_parameters().values()]


def _read_member(member: Any) -> list[Any]:
    """What tells one of an enumeration; its class is looked at as well, and what is in its members there."""
    return [type(member)._member_map_.get(member._name_) is member, member._name_, member._value_]


_SAYS_WHAT = "_parmap_inside"
"""The method of classes of this package that know what travels of their instances."""

_READ_INSIDE: dict[type, Callable[[Any], list[Any]]] = {
    type(functools.lru_cache(len)): _read_cached,
    list: list,
    tuple: list,
    dict: lambda value: [len(value), *value, *value.values()],
    MethodType: lambda value: [value.__func__, value.__self__],
    functools.partial: lambda value: [
        *(value.func, *_spread(value.args), *_spread_dict(value.keywords)),
        *_spread_dict(vars(value)),
    ],
}

"""The message where a function can't be pickled: which variable is why, and what to do about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from parmap._travel.code.by_value import cloud_dumps, is_by_value
from parmap._travel.code.classes import is_made_with_class
from parmap._travel.code.needs.readings import fields_of
from parmap._travel.code.needs.variables import variables_of
from parmap._travel.text import called, reason_of

_WAY_OUT = "make it in the task, or once in each worker by parmap.per_worker"
_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__")  # of an object, to say what is sent of it
_DEEP = 3
_OF_CLASS = f"{_WAY_OUT}, or move the class into a module, which workers import"


def blame(function: Any, error: BaseException) -> str:
    """Say what in *function*, or in the functions and classes that it reaches, *error* came from."""
    told = reason_of(error)
    if isinstance(error, RecursionError):
        return told
    left = deque([function])
    seen: dict[int, Any] = {}
    while left:
        thing = left.popleft()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        for what, value in _variables(thing):
            if issubclass(type(value), (FunctionType, type, MethodType, partial)):  # and no proxy of one
                left.append(value)
                continue
            try:
                cloud_dumps(value)
            except Exception as problem:  # noqa: BLE001 - the user's code
                way_out = _OF_CLASS if isinstance(thing, type) else _WAY_OUT
                return why(f"{what} of {called(thing)}", value, problem, way_out)
    return told


def why(what: str, value: Any, error: BaseException, way_out: str = "", *, fresh: bool = True) -> str:
    """Say why *what* can't be pickled; of an object of a class, which attribute it is, if they are sent as they are."""
    told = reason_of(error, way_out)
    seen: list[Any] = []
    while len(seen) < _DEEP and not isinstance(error, RecursionError):
        seen.append(value)
        for name, each in _attributes(value):
            try:
                if not any(each is known for known in seen):
                    cloud_dumps(each, fresh=fresh)
            except Exception as problem:  # noqa: BLE001 - the user's code
                what, value, told = f"the attribute {name!r} of {what}", each, reason_of(problem, way_out)
                break
        else:
            break
    return f"{what} can't be pickled: {told}"


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Those that are sent of an object as they are."""
    with suppress(Exception):  # its metaclass may be the user's
        if not any(way in vars(cls) for cls in type(value).__mro__[:-1] for way in _OWN_WAYS):
            return [*fields_of(value).items()]
    return []


def _variables(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, MethodType):
        yield "the function", thing.__func__
        yield "the object", thing.__self__
    elif isinstance(thing, partial):
        yield "the function", thing.func
        yield from ((f"argument {number}", value) for number, value in enumerate(thing.args))
        yield from ((f"argument {name!r}", value) for name, value in thing.keywords.items())
    elif not issubclass(type(thing), (FunctionType, type)):
        yield "the state", thing
    elif is_by_value(thing):
        if isinstance(thing, FunctionType):
            yield from ((f"the {kind} {name!r}", value) for kind, name, value in variables_of(thing))
        for name, value in vars(thing).items():
            if name not in {"_abc_impl", "__annotate_func__"} and not is_made_with_class(value):
                yield f"the attribute {name!r}", getattr(value, "__func__", getattr(value, "fget", value))

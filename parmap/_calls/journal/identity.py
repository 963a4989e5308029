"""What a function is to a journal: its name, the values that it is called with or captures, and its code."""

from __future__ import annotations

import functools
import sys
from operator import itemgetter
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, NamedTuple

from parmap._calls.journal.digest import code_of, digest
from parmap._travel.broadcast import Broadcast
from parmap._travel.code.by_value import variables_of
from parmap._travel.text import shorten

_MOST = 300  # characters that tell of the values


class Identity(NamedTuple):
    """What tells the results of one function from those of another."""

    name: str
    values: bytes
    code: str
    about: str
    """The values, for people."""


def identify(function: Any, *how: Any) -> Identity:
    """The identity of a function as it is now; *how*: what else makes a difference."""
    walk = _Walk()
    walk.value("", function)
    # The code of another Python can't be compared.
    code = f"{sys.version_info[0]}.{sys.version_info[1]} {digest(walk.code).hex()}"
    return Identity(walk.name, digest([*walk.values, how]), code, ", ".join(walk.about)[:_MOST])


class _Walk:
    def __init__(self) -> None:
        self.name = ""
        self.code: list[Any] = []
        self.values: list[tuple[str, Any]] = []
        self.about: list[str] = []
        self._module: str | None = None  # the one whose functions and classes are looked into
        self._seen: set[int] = set()

    def value(self, label: str, value: Any) -> None:
        """Take in what is called, or captured under a name."""
        while (inner := _inner(value)) is not None:
            value = inner
        if isinstance(value, functools.partial):
            self.value(label, value.func)
            for place, each in [*enumerate(value.args), *value.keywords.items()]:
                self.value(str(place), each)
            return
        if isinstance(value, MethodType):
            self.value(label, value.__func__)
            self.value("self", value.__self__)
            return
        if not self.name:
            self.name, self._module = _name_of(value), getattr(value, "__module__", None)
        if isinstance(value, (FunctionType, type)) and value.__module__ == self._module != "builtins":
            self._look_into(value)
        elif isinstance(value, (FunctionType, BuiltinFunctionType, type, ModuleType)):
            self.values.append((label, _name_of(value)))
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, (ModuleType, type, NoneType)):
                self.value("self", owner)  # of a method like `"".join`
        else:
            self._data(label, value)

    def _data(self, label: str, value: Any) -> None:
        if type(value).__module__ == self._module != "builtins":
            self._look_into(type(value))
        try:
            self.values.append((label, digest(value)))
        except Exception:  # noqa: BLE001 - it, or something in it, can't be pickled
            self.values.append((label, _name_of(type(value))))  # all that there is to a lock, or a connection
            if id(value) not in self._seen:
                self._seen.add(id(value))
                for name, part in _parts_of(value):
                    self.value(f"{label}.{name}", part)
        self.about.append(f"{label}={shorten(value)}")

    def _look_into(self, thing: Any) -> None:
        """Take in the code of a function, or of the methods of a class, and all that this reads."""
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type):
            for name, each in sorted(vars(thing).items(), key=itemgetter(0)):
                part = each.fget if isinstance(each, property) else getattr(each, "__func__", each)
                if isinstance(part, FunctionType) or not name.startswith("__"):
                    self.value(f"{thing.__qualname__}.{name}", part)
            return
        code: CodeType = thing.__code__
        self.code.append((thing.__qualname__, code_of(code, thing.__doc__)))
        for _, name, value in variables_of(thing):
            self.value(name, value)


def _inner(value: Any) -> Any:
    """What a decorator has wrapped, or a broadcast value."""
    if isinstance(value, Broadcast):
        return value.value
    return None if isinstance(value, type) else getattr(value, "__dict__", {}).get("__wrapped__")


def _parts_of(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [*value.items()]
    if isinstance(value, (list, tuple)):
        return [*enumerate(value)]
    slots = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ()) if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).items(), *((name, getattr(value, name)) for name in slots)]


def _name_of(thing: Any) -> str:
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing).__qualname__))
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{name}"

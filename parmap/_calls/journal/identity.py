"""What a function is to a journal: its name, the values that it is called with or captures, and its code."""

from __future__ import annotations

import functools
import sys
from operator import itemgetter
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any, NamedTuple

from parmap._calls.journal.digest import code_of, digest, name_of
from parmap._travel.broadcast import Broadcast
from parmap._travel.code.needs.variables import variables_of
from parmap._travel.failure import pass_on
from parmap._travel.text import shorten, wrapped_by

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
        wrappers = []
        while (inner := value.value if isinstance(value, Broadcast) else wrapped_by(value)) is not None:
            wrappers.append(value)
            value = inner
        self._bare(label, value)
        for each in wrappers:
            self._wrapper(each)

    def _bare(self, label: str, value: Any) -> None:
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
            self.name, self._module = name_of(value), getattr(value, "__module__", None)
        if self._is_near(value):
            self._look_into(value)
        elif isinstance(value, (FunctionType, BuiltinFunctionType, type, ModuleType)):
            self.values.append((label, name_of(value)))
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, (ModuleType, type, NoneType)):
                self.value("self", owner)  # of a method like `"".join`
        else:
            self._data(label, value)

    def _is_near(self, thing: Any) -> bool:
        """Whether it is a function or a class of the module that is looked into."""
        return isinstance(thing, (FunctionType, type)) and thing.__module__ == self._module != "builtins"

    def _wrapper(self, wrapper: Any) -> None:
        """Take in what a decorator has put around a function: its code, if the decorator is of this module."""
        if isinstance(wrapper, FunctionType):  # its `__module__` is that of what it wraps
            if wrapper.__globals__.get("__name__") == self._module:
                self._look_into(wrapper)
            registry = getattr(wrapper, "registry", None)
            for kind, each in registry.items() if isinstance(registry, MappingProxyType) else ():  # of singledispatch
                self.value(name_of(kind), each)
        elif self._is_near(type(wrapper)):
            self._look_into(type(wrapper))
            for name, each in _parts_of(wrapper):
                if not str(name).startswith("__"):  # nor its docstring
                    self.value(str(name), each)

    def _data(self, label: str, value: Any) -> None:
        met = {0: type(value)}
        try:
            self.values.append((label, digest(value, met)))
        except Exception as error:  # noqa: BLE001 - it, or something in it, can't be pickled
            pass_on(error)
            self.values.append((label, name_of(type(value))))  # all that there is to a lock, or a connection
            met = {0: type(value)}
            if id(value) not in self._seen:
                self._seen.add(id(value))
                for name, part in _parts_of(value):
                    self.value(f"{label}.{name}", part)
        for each in sorted(filter(self._is_near, met.values()), key=name_of):  # those in a set come in any order
            self._look_into(each)
        self.about.append(f"{label}={shorten(value)}")

    def _look_into(self, thing: Any) -> None:
        """Take in the code of a function, or of the methods of a class, and all that this reads."""
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type):
            for name, each in sorted(vars(thing).items(), key=itemgetter(0)):
                accessors = (each.fget, each.fset, each.fdel) if isinstance(each, property) else ()
                for part in filter(None, accessors) if accessors else (getattr(each, "__func__", each),):
                    if isinstance(part, FunctionType) or not name.startswith("__"):
                        self.value(f"{thing.__qualname__}.{name}", part)
            for kind in filter(self._is_near, (*thing.__mro__, type(thing))):
                self._look_into(kind)
            return
        code: CodeType = thing.__code__
        self.code.append((thing.__qualname__, code_of(code, thing.__doc__)))
        for _, name, value in variables_of(thing):
            self.value(name, value)


def _parts_of(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [*value.items()]
    if isinstance(value, (list, tuple)):
        return [*enumerate(value)]
    classes = [vars(kind) for kind in type(value).__mro__ if "__slots__" in vars(kind)]
    slots = [name for names in classes for name, each in names.items() if type(each) is MemberDescriptorType]
    slots = [name for name in slots if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).items(), *((name, getattr(value, name)) for name in slots)]

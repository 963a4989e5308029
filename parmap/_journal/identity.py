"""What a function is to a journal: its name, the values that it is called with or captures, and its code."""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from parmap._journal.digest import code_of, digest
from parmap._travel.broadcast import Broadcast
from parmap._travel.code.by_value import globals_of
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
    walk = _Walk(function)
    walk.value("", function)
    found = digest([*walk.values, ("how", how)])
    # The code of another Python can't be compared.
    code = f"{sys.version_info[0]}.{sys.version_info[1]} {digest(walk.code).hex()}"
    return Identity(_name_of(walk.innermost), found, code, ", ".join(walk.about)[:_MOST])


class _Walk:
    def __init__(self, function: Any) -> None:
        self.code: list[Any] = []
        self.values: list[tuple[str, Any]] = []
        self.about: list[str] = []
        self.innermost = function
        while isinstance(self.innermost, functools.partial) or hasattr(self.innermost, "__wrapped__"):
            self.innermost = getattr(self.innermost, "__wrapped__", None) or self.innermost.func
        self._module = getattr(self.innermost, "__module__", None)
        self._seen: set[int] = set()

    def value(self, label: str, value: Any) -> None:
        """Take in what is called or captured under a name."""
        while hasattr(value, "__wrapped__") and not isinstance(value, type):
            value = value.__wrapped__
        if isinstance(value, functools.partial):
            self.value(label, value.func)
            for place, each in [*enumerate(value.args), *value.keywords.items()]:
                self.value(str(place), each)
        elif isinstance(value, MethodType):
            self.value(label, value.__func__)
            self.value("self", value.__self__)
        elif isinstance(value, (FunctionType, type)) and value.__module__ == self._module:
            self._code(value)
        elif isinstance(value, (FunctionType, BuiltinFunctionType, type, ModuleType)):
            self.values.append((label, _name_of(value)))
        else:
            self._data(label, value.value if isinstance(value, Broadcast) else value)

    def _data(self, label: str, value: Any) -> None:
        try:
            self.values.append((label, digest(value)))
        except Exception:  # noqa: BLE001 - it, or something in it, can't be pickled
            self.values.append((label, _name_of(type(value))))  # all that there is to a lock, or a connection
            if id(value) not in self._seen:
                self._seen.add(id(value))
                for name, part in _parts_of(value):
                    self.value(f"{label}.{name}", part)
        self.about.append(f"{label}={shorten(value)}")

    def _code(self, thing: Any) -> None:
        """Take in a function, or the methods of a class, of the module that the journal's function is in."""
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type):
            for name, each in sorted(vars(thing).items()):
                for part in (getattr(each, "__func__", each), getattr(each, "fget", None)):
                    if isinstance(getattr(part, "__wrapped__", part), FunctionType):
                        self.value(f"{thing.__name__}.{name}", part)
            return
        code: CodeType = thing.__code__
        self.code.append((thing.__qualname__, code_of(code, thing.__doc__)))
        names = sorted(set(globals_of(code)) & thing.__globals__.keys())
        captured = {name: thing.__globals__[name] for name in names}
        for name, cell in zip(code.co_freevars, thing.__closure__ or (), strict=False):
            try:
                captured[name] = cell.cell_contents
            except ValueError:  # it is empty
                pass
        arguments = code.co_varnames[: code.co_argcount]
        given = thing.__defaults__ or ()
        captured |= dict(zip(arguments[len(arguments) - len(given) :], given, strict=True))
        captured |= thing.__kwdefaults__ or {}
        for name, value in captured.items():
            self.value(name, value)


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

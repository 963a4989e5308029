"""What is found in modules here and in workers, which import them as their files are: the same, or not.

Values are compared that say the same in any process: numbers and texts, a few of them in a list, functions and classes
by their names. What functions of the module itself change is left out: caches and counters are different by right.
"""

from __future__ import annotations

import os
import pickle
import sys
from abc import ABCMeta
from collections.abc import Collection, Iterator
from operator import itemgetter
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeGuard

from parmap._travel.code.by_name import MAIN, is_registered
from parmap._travel.code.needs.modules import is_shared
from parmap._travel.text import shorten, wrapped_by

Steps = tuple[tuple[str, bool], ...]
"""The names by which something is found in a module, each with whether it is a key."""

ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None)})
"""Types of what compares with nothing of the user's."""

MISSING = object()

_LONG = 1000  # characters
_MANY = 100  # elements


class Named:
    """A function, a class or a mock, by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def print_of(thing: Any) -> Any:
    """What of a thing is the same in any process; `MISSING` if nothing is known to be."""
    kind = type(thing)
    if kind in ATOMS:
        is_long = kind in {str, bytes} and len(thing) > _LONG
        return MISSING if is_long or thing == os.getpid() else thing
    if kind in {list, tuple, set, frozenset}:
        parts = [print_of(each) for each in thing] if len(thing) <= _MANY else []
        return kind(parts) if parts and all(type(each) in ATOMS for each in parts) else MISSING
    while (inner := wrapped_by(thing)) is not None:
        thing = inner
    # Its type is asked, as the thing may be a proxy.
    if issubclass(type(thing), type):
        return Named(".".join(home_of(thing)))
    if type(thing) is FunctionType:
        return Named(f"{thing.__module__}.{thing.__qualname__}")
    return Named("a mock") if is_mock(thing) else MISSING


def home_of(cls: type) -> tuple[str, str]:
    """The module and the name of a class, whose metaclass isn't asked."""
    return str(type.__getattribute__(cls, "__module__")), str(type.__getattribute__(cls, "__qualname__"))


def is_mock(thing: Any) -> bool:
    """Whether `unittest.mock` has made a thing."""
    return any(base.__module__ == "unittest.mock" for base in type(thing).__mro__)


def is_same(one: Any, other: Any) -> bool:
    """Whether two prints are: `1` is not `True`."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Named):
        return bool(one.name == other.name) and one.name != "a mock"
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - nan


def look_up(module: str, steps: Steps) -> Any:
    """What is found from a module on, by these steps; `MISSING` if nothing is. It asks nothing of the user's."""
    place: Any = sys.modules.get(module, MISSING)
    for name, is_key in steps:
        fields: Any = fields_of(place)
        if is_key:
            fields = place if type(place) is dict else {}
        place = fields.get(name, MISSING)
    return place


def fields_of(thing: Any) -> Any:
    """The variables of a module, a class or an object."""
    try:
        fields = vars(thing) if type(thing) in {type, ABCMeta} else object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return {}
    return fields if type(fields) in {dict, MappingProxyType} else {}


def is_set_once(module: str, steps: Steps) -> bool:
    """Whether no function of the modules that something belongs to changes it."""
    from parmap._travel.code.needs.texts import is_set_in

    owner = look_up(module, steps[:-1])
    owner = owner if issubclass(type(owner), type) else type(owner)
    homes = [sys.modules.get(home) for home in {module, home_of(owner)[0]}]
    return not any(is_set_in(each, steps[0][0], steps[-1][0]) for each in homes if is_own(each))


def forget_texts() -> None:
    """Hold no text that was looked at."""
    if texts := sys.modules.get("parmap._travel.code.needs.texts"):
        texts.forget()


def others_than(expected: bytes) -> Iterator[str]:
    """What is not so here, where modules were imported, as was *expected*: where it is, and what was."""
    for module, steps, value in sorted(pickle.loads(expected), key=itemgetter(0, 1)):
        now = look_up(module, steps)
        is_there_to_be_filled = type(now) in {list, set} and not now
        if now is MISSING or is_there_to_be_filled or is_same(print_of(now), value):
            continue
        if is_set_once(module, steps):
            path = "".join(f"[{name!r}]" if is_key else f".{name}" for name, is_key in steps)
            yield f"{module}{path}{_told(value)}"
    forget_texts()


def _told(value: Any) -> str:
    """A value, for people; no text, which may be a password."""
    if isinstance(value, Named):
        return f" ({value.name})"
    parts = [value, *value] if isinstance(value, Collection) else [value]
    return "" if any(isinstance(each, (str, bytes)) for each in parts) else f" ({shorten(value)})"


def is_own(module: Any) -> TypeGuard[ModuleType]:
    """Whether a module is one of the program's own, which workers import."""
    if not is_there(module) or module.__name__ in {*MAIN, "builtins"} or is_others(module.__name__):
        return False
    has_text = hasattr(getattr(module.__spec__, "loader", None), "get_source")
    return has_text and not is_registered(module.__name__)


def is_there(module: Any) -> TypeGuard[ModuleType]:
    """Whether a module is the one that is imported under its name: a stand-in may say anything."""
    said = vars(module) if type(module) is ModuleType else {}
    name = said.get("__name__")
    return type(name) is str and sys.modules.get(name) is module and "__spec__" in said


def is_others(name: str) -> bool:
    """Whether a module, of that name, is the standard library's, a distribution's or parmap's."""
    return name.partition(".")[0] == "parmap" or is_shared(name)

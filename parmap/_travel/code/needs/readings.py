"""What a function reads in modules that workers, which import them as their files are, will not find as it is here.

Only where there is no doubt. In a module of the program's own its text binds the name but once, to a literal or a
function, and changes it nowhere; or what it imports was replaced by a mock, or by a function of the script's.
"""

from __future__ import annotations

import sys
from abc import ABC, ABCMeta
from collections.abc import Iterable
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeGuard

from parmap._travel.code.by_name import MAIN, is_registered
from parmap._travel.code.needs.modules import is_shared
from parmap._travel.text import shorten, wrapped_by

ATOMS = (bool, int, float, complex, str, bytes, type(None))
"""What compares with nothing of the user's."""

Steps = tuple[tuple[str, bool], ...]
"""The names by which something is found in a module, each with whether it is a key."""


class Reading:
    """A variable of a module, or of a class or object in it, and what the module's text says that it is."""

    __slots__ = "_usual", "kind", "module", "spec", "steps", "value"

    def __init__(self, module: ModuleType, steps: Steps, kind: str, value: Any = None) -> None:
        self.module = module.__name__
        self.spec = module.__spec__  # another one: it was imported again
        self.steps = steps
        self.kind = kind  # see `texts.Told`; or `object`, whose text says nothing: the value is what it was at first
        self.value = value
        self._usual = 0  # the identity of an import that is what it seems to be

    @property
    def now(self) -> Any:
        """What the variable is here; `MISSING` if there is none."""
        return look_up(self.module, self.steps)

    @property
    def is_current(self) -> bool:
        """Whether it is still the module that was looked at."""
        module = sys.modules.get(self.module)
        if getattr(module, "__spec__", None) is not self.spec:
            return False
        return self.kind == "object" or len(self.steps) == 1 or _is_plain(look_up(self.module, self.steps[:1]))

    @property
    def differs(self) -> bool:
        """Whether the variable was set to something else since the module was imported, or first looked at."""
        now = self.now
        if self.kind in {"literal", "object"}:
            return now is not MISSING and not _is_as_told(now, self.value)
        if self.kind != "function":
            if id(now) == self._usual:  # most often, so this takes no time
                return False
            is_made_up = _is_made_up(now)
            self._usual = 0 if is_made_up else id(now)
            return is_made_up
        while (inner := wrapped_by(now)) is not None:
            now = inner
        return not isinstance(now, FunctionType) or now.__globals__ is not vars(sys.modules[self.module])

    @property
    def is_certain(self) -> bool:
        """Whether no line of the module changes it later."""
        if self.kind == "object":
            return is_set_once(self.module, self.steps)
        if is_shared(self.module):
            return True
        from parmap._travel.code.needs.texts import changes

        return not changes(self.module, self.spec, self.steps[-1][0], self.value)


class Expected(NamedTuple):
    """A constant in an object of a module, as it is here."""

    module: str
    steps: Steps
    value: Any


MISSING = object()


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
    """Whether no function that belongs to an object of a module changes a variable in it."""
    from parmap._travel.code.needs.texts import is_set_in

    owner = type(look_up(module, steps[:-1]))
    homes = {module, owner.__module__} - {"builtins"}
    modules = [sys.modules[home] for home in homes if is_own(sys.modules.get(home))]
    return not any(is_set_in(each, steps[0][0], steps[-1][0]) for each in modules)


def others_than(expected: Iterable[Expected]) -> dict[str, Any]:
    """What is not so here, where modules were imported, as it was *expected*: where it is, and the value expected."""
    found: dict[str, Any] = {}
    for module, steps, value in expected:
        now = look_up(module, steps)
        if now is not MISSING and not _is_as_told(now, value) and is_set_once(module, steps):
            found[path_of(module, steps)] = value
    return found


def path_of(module: str, steps: Steps) -> str:
    """Where it is, as a user would write it."""
    return module + "".join(f"[{name!r}]" if is_key else f".{name}" for name, is_key in steps)


def warning_of(name: str, others: dict[str, Any]) -> str:
    """What to tell of a function that reads *others* than its workers will find."""
    told = ", ".join(f"{path} ({shorten(value)})" for path, value in sorted(others.items()))
    way_out = "they import these modules as the files are: give it as an argument, or set it in an initializer"
    return f"{name} reads what is not the same in workers: {told}; {way_out}"


def _is_as_told(now: Any, told: Any) -> bool:
    """Whether a variable is the literal that it was bound to; new keys of a dict don't count: it may be a cache."""
    if type(now) is not type(told):
        return False
    if isinstance(told, dict):
        return all(_is_as_told(now[key], value) for key, value in told.items() if key in now)
    if isinstance(told, (list, tuple)):
        return len(now) == len(told) and all(map(_is_as_told, now, told))
    if isinstance(told, set):
        return len(now) == len(told) and all(each in now for each in told)
    return bool(now == told) or (now != now and told != told)  # noqa: PLR0124 - nan


def _is_made_up(thing: Any) -> bool:
    """Whether a thing is a mock, or a function of the script's or of a test's module, which workers don't import."""
    if isinstance(thing, FunctionType):
        home = str(thing.__module__)
        return not is_others(home) and not is_own(sys.modules.get(home))
    return any(base.__module__ == "unittest.mock" for base in type(thing).__mro__)


def is_own(module: Any) -> TypeGuard[ModuleType]:
    if not is_there(module) or module.__name__ in MAIN or is_others(module.__name__):
        return False
    has_text = hasattr(getattr(module.__spec__, "loader", None), "get_source")
    return has_text and not is_registered(module.__name__)


def is_there(module: Any) -> TypeGuard[ModuleType]:
    """Whether a module is the one that is imported under its name: a stand-in may say anything."""
    said = vars(module) if type(module) is ModuleType else {}
    name = said.get("__name__")
    return type(name) is str and sys.modules.get(name) is module and "__spec__" in said


def is_others(name: str) -> bool:
    return name.partition(".")[0] == "parmap" or is_shared(name)


def _is_plain(cls: Any) -> bool:
    """Whether a class is what its statement says, since nothing takes part in making it."""
    bases = cls.__mro__ if type(cls) in {type, ABCMeta} else (None,)
    return all(
        type(each) in {type, ABCMeta}
        and "__init_subclass__" not in vars(each)
        and each.__module__ != "builtins"
        and not is_others(each.__module__)
        for each in bases
        if each is not object and each is not ABC
    )

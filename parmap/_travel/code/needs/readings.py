"""What a function reads in modules that workers, which import them as their files are, will not find as it is here.

Only where there is no doubt. In a module of the program's own its text binds the name but once, to a literal or a
function, and changes it nowhere; or what it imports was replaced by a mock, or by a function of the script's.
"""

from __future__ import annotations

import sys
from abc import ABC, ABCMeta
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import MAIN, is_registered, name_of
from parmap._travel.code.needs.modules import MOST, inside, is_shared
from parmap._travel.code.needs.variables import captured_by, codes_in
from parmap._travel.text import wrapped_by

_FEW = 16  # modules that are looked through: some milliseconds, while workers start


class Reading:
    """A variable of a module, or of a class in it, and what the module's text says that it is."""

    __slots__ = "_usual", "kind", "module", "name", "owner", "spec", "value"

    def __init__(self, module: ModuleType, name: str, kind: str, value: Any = None, owner: str = "") -> None:
        self.module = module.__name__
        self.spec = module.__spec__  # another one: it was imported again
        self.owner = owner  # the class
        self.name = name
        self.kind = kind  # see `texts.Told`
        self.value = value
        self._usual = 0  # the identity of an import that is what it seems to be

    @property
    def path(self) -> str:
        """Where it is, as a user would write it."""
        return ".".join(filter(None, (self.module, self.owner, self.name)))

    @property
    def now(self) -> Any:
        """What the variable is here."""
        module = vars(sys.modules[self.module])
        return vars(module[self.owner]).get(self.name) if self.owner else module.get(self.name)

    @property
    def is_current(self) -> bool:
        """Whether it is still the module that was looked at."""
        module = sys.modules.get(self.module)
        if getattr(module, "__spec__", None) is not self.spec:
            return False
        return not self.owner or _is_plain(vars(module).get(self.owner))

    @property
    def differs(self) -> bool:
        """Whether the variable was set to something else since the module was imported."""
        now = self.now
        if self.kind == "literal":
            return not _is_as_told(now, self.value)
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
        if is_shared(self.module):
            return True
        from parmap._travel.code.needs.texts import changes

        return not changes(self.module, self.spec, self.name, self.value)


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
        return not _is_others(home) and not _is_own(sys.modules.get(home))
    return any(base.__module__ == "unittest.mock" for base in type(thing).__mro__)


_readings: WeakKeyDictionary[FunctionType, list[Reading]] = WeakKeyDictionary()
_texts: WeakKeyDictionary[ModuleType, tuple[Any, dict[tuple[str, str], Reading]]] = WeakKeyDictionary()  # with its spec


def set_from_outside(function: FunctionType) -> list[Reading]:
    """Variables that *function*, and what it calls, reads of modules that workers import, and that were set later.

    They are looked for once, as far as functions call each other.
    """
    known = _readings.get(function)
    if known is None or not all(each.is_current for each in known):
        known = _readings[function] = [each for each in _Search().through(function) if each.is_current]
    found = [each for each in known if each.differs]
    if found and not all(each.is_certain for each in found):
        _readings[function] = [each for each in known if each not in found or each.is_certain]
        found = [each for each in found if each in _readings[function]]
    return found


class _Search:
    """What a function can reach by its code, module by module."""

    def __init__(self) -> None:
        self._found: dict[Reading, None] = {}
        self._names: set[str] = set()
        self._classes: list[tuple[ModuleType, str]] = []
        self._looked: set[ModuleType] = set()

    def through(self, function: FunctionType) -> list[Reading]:
        """What it reads."""
        seen: set[int] = set()
        waiting: list[Any] = [function]
        while waiting and len(seen) < MOST:
            thing = waiting.pop()
            # What else hangs on a class may be a proxy: it isn't asked.
            is_code = issubclass(type(thing), (FunctionType, type))
            home = str(getattr(thing, "__module__", "")) if is_code else ""
            if id(thing) in seen or (home in sys.modules and _is_others(home)):
                continue
            seen.add(id(thing))
            module = sys.modules.get(home)
            is_there = is_code and _is_own(module) and name_of(thing) is not None  # else it travels by value
            if isinstance(thing, FunctionType):
                waiting += self._look_at(thing, [module] if is_there and module else [])
            elif isinstance(thing, type):
                if is_there and module:
                    self._classes.append((module, thing.__qualname__))
                waiting += [*thing.__bases__, *vars(thing).values()]
            else:
                waiting += inside(thing)
        for module, owner in self._classes:
            self._read(module, self._names, owner)
        return [*self._found]

    def _look_at(self, function: FunctionType, modules: list[ModuleType]) -> list[Any]:
        """Note what a function reads; what it may call."""
        names = {name for code in codes_in(function.__code__) for name in code.co_names}
        self._names |= names
        found = [*(function.__globals__.get(name) for name in names), *captured_by(function).values()]
        for each in {each for each in found if type(each) is ModuleType}:
            if _is_own(each):
                modules.append(each)
            elif _is_library(each):
                self._found |= {Reading(each, name, "theirs"): None for name in names & vars(each).keys()}
        for module in modules:
            self._read(module, names)
            found += [vars(module).get(name) for name in names]
        return [each for each in found if isinstance(each, (FunctionType, type))]

    def _read(self, module: ModuleType, names: Iterable[str], owner: str = "") -> None:
        self._looked.add(module)
        if len(self._looked) > _FEW:
            return
        known, spec = _texts.get(module), module.__spec__
        if known is None or known[0] is not spec:
            from parmap._travel.code.needs.texts import variables_of

            told = {(owner, name): Reading(module, name, *told, owner) for owner, name, told in variables_of(module)}
            known = _texts[module] = spec, told
        self._found |= {known[1][owner, name]: None for name in names if (owner, name) in known[1]}


def _is_own(module: Any) -> TypeGuard[ModuleType]:
    if not _is_there(module) or module.__name__ in MAIN or _is_others(module.__name__):
        return False
    has_text = hasattr(getattr(module.__spec__, "loader", None), "get_source")
    return has_text and not is_registered(module.__name__)


def _is_library(module: ModuleType) -> bool:
    return _is_there(module) and is_shared(module.__name__) and module.__name__.partition(".")[0] != "parmap"


def _is_there(module: Any) -> TypeGuard[ModuleType]:
    """Whether a module is the one that is imported under its name: a stand-in may say anything."""
    said = vars(module) if type(module) is ModuleType else {}
    name = said.get("__name__")
    return type(name) is str and sys.modules.get(name) is module and "__spec__" in said


def _is_others(name: str) -> bool:
    return name.partition(".")[0] == "parmap" or is_shared(name)


def _is_plain(cls: Any) -> bool:
    """Whether a class is what its statement says, since nothing takes part in making it."""
    bases = cls.__mro__ if type(cls) in {type, ABCMeta} else (None,)
    return all(
        type(each) in {type, ABCMeta}
        and "__init_subclass__" not in vars(each)
        and each.__module__ != "builtins"
        and not _is_others(each.__module__)
        for each in bases
        if each is not object and each is not ABC
    )

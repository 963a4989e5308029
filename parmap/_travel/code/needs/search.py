"""What a function reads in modules that workers, which import them as their files are, may not find as it is here.

It goes through the code of the function, and of what that calls, module by module.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import name_of
from parmap._travel.code.needs.modules import MOST, inside
from parmap._travel.code.needs.readings import (
    MISSING,
    Named,
    Steps,
    fields_of,
    forget_texts,
    home_of,
    is_mock,
    is_others,
    is_own,
    is_same,
    is_set_once,
    is_there,
    look_up,
    print_of,
)
from parmap._travel.code.needs.variables import captured_by, codes_in

_FEW = 16  # modules that are looked through: some milliseconds, while workers start
_DEPTH = 3  # names and keys, one after the other
_MANY = 100  # values
_OFTEN = 3  # times that something changes, and is compared anew: each time the function is sent again


class Reading:
    """Something that a function finds in a module."""

    __slots__ = "_is_of_library", "_path", "_usual", "changes", "module", "spec", "steps", "value"

    def __init__(self, module: ModuleType, steps: Steps, owner: Any) -> None:
        self.module = module.__name__
        self.spec = module.__spec__  # another one: it was imported again
        self.steps = steps
        self.value: Any = MISSING  # its print, if that is worth telling
        self.changes = -1  # so often
        self._usual = 0  # the identity of what was not
        self._is_of_library = is_others(self.module)
        home = home_of(owner) if issubclass(type(owner), type) else (self.module,)
        self._path = ".".join([*home, steps[-1][0]])
        self.has_changed()

    @property
    def is_current(self) -> bool:
        """Whether it is still the module that was looked at."""
        return getattr(sys.modules.get(self.module), "__spec__", None) is self.spec

    def has_changed(self) -> bool:
        """Whether it is another one than when this was asked before."""
        now = look_up(self.module, self.steps)
        if now is self.value or id(now) == self._usual:  # most often, so this takes no time
            return False
        before, self.value = self.value, print_of(now)
        if (isinstance(self.value, Named) and self.value.name == self._path) or (
            self._is_of_library and not _is_made_up(now)
        ):
            self.value = MISSING  # a function at its own place, or of a library
        self._usual = id(now) if self.value is MISSING else 0
        is_another = self.value is not before and not is_same(self.value, before)
        self.changes += is_another
        return is_another


_Known = tuple[list[Reading], bytes]
_known: WeakKeyDictionary[FunctionType, _Known] = WeakKeyDictionary()


def expected_by(function: FunctionType) -> bytes:
    """What *function*, and what it calls, reads in modules that workers import, as it is now: see `others_than`.

    They are looked for once, as far as functions call each other.
    """
    known = _known.get(function)
    if known is None or not all(each.is_current for each in known[0]):
        found = _Search().through(function)
        known = _known[function] = found, _packed(found)
    elif changed := [each for each in known[0] if each.has_changed()]:
        over = [each for each in changed if each.changes > _OFTEN or not is_set_once(each.module, each.steps)]
        forget_texts()
        found = [each for each in known[0] if each not in over]
        known = _known[function] = found, _packed(found)
    return known[1]


def _packed(readings: list[Reading]) -> bytes:
    told = [(each.module, each.steps, each.value) for each in readings if each.value is not MISSING]
    return pickle.dumps(told) if told else b""


class _Search:
    """What a function can reach by its code, module by module."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._keys: set[str] = set()
        self._codes: list[CodeType] = []
        self._places: dict[tuple[ModuleType, str], None] = {}  # what is named in modules
        self._of_libraries: dict[tuple[ModuleType, str], None] = {}

    def through(self, function: FunctionType) -> list[Reading]:
        """What it reads."""
        seen: set[int] = set()
        waiting: list[Any] = [function]
        while waiting and len(seen) < MOST:
            thing = waiting.pop()
            # What else hangs on a class may be a proxy: it isn't asked.
            is_code = issubclass(type(thing), (FunctionType, type))
            home = str(getattr(thing, "__module__", "")) if is_code else ""
            if id(thing) in seen or (home in sys.modules and is_others(home)):
                continue
            seen.add(id(thing))
            module = sys.modules.get(home)
            is_imported = is_code and is_own(module) and name_of(thing) is not None  # else it travels by value
            if issubclass(type(thing), FunctionType):
                waiting += self._look_at(thing, [module] if is_imported and module else [])
            elif is_code:
                if is_imported and module:
                    self._places[module, thing.__qualname__] = None
                waiting += [*thing.__bases__, *vars(thing).values()]
            else:
                waiting += inside(thing)
        return [*self._readings()]

    def _look_at(self, function: FunctionType, modules: list[ModuleType]) -> list[Any]:
        """Note what a function reads; what it may call."""
        codes = [*codes_in(function.__code__)]
        names = {name for code in codes for name in code.co_names if not name.startswith("__")}
        self._codes += codes
        self._names |= names
        self._keys |= {each for code in codes for each in code.co_consts if type(each) is str}
        found = [*(function.__globals__.get(name) for name in names), *captured_by(function).values()]
        for each in {each for each in found if type(each) is ModuleType}:
            if is_own(each):
                modules.append(each)
            elif is_there(each) and is_others(each.__name__) and each.__name__.partition(".")[0] != "parmap":
                self._of_libraries |= {(each, name): None for name in names & vars(each).keys()}
        for module in modules:
            there = names & vars(module).keys()
            self._places |= {(module, name): None for name in there}
            found += [vars(module)[name] for name in there]
        return [each for each in found if issubclass(type(each), (FunctionType, type))]

    def _readings(self) -> Iterator[Reading]:
        modules = [*dict.fromkeys(module for module, _ in self._places)][:_FEW]
        places = [each for each in self._places if each[0] in modules]
        found = [each for module, name in places for each in self._from(module, vars(module).get(name), name)]
        own = self._set_by_themselves({each.steps[-1][0] for each in found})
        yield from [each for each in found if each.steps[-1][0] not in own][:_MANY]
        yield from [Reading(module, ((name, False),), None) for module, name in self._of_libraries]

    def _set_by_themselves(self, names: set[str]) -> set[str]:
        """Those of the *names* that the functions set, as attributes of something."""
        from dis import get_instructions

        steps = [each for code in self._codes if names.intersection(code.co_names) for each in get_instructions(code)]
        return {each.argval for each in steps if each.opname in {"STORE_ATTR", "DELETE_ATTR"}}

    def _from(self, module: ModuleType, thing: Any, name: str) -> Iterator[Reading]:
        """What is found at a place, and on from there, by attributes and keys that the functions name."""
        waiting: list[tuple[Any, Any, Steps]] = [(module, thing, ((name, False),))]
        while waiting:
            owner, thing, steps = waiting.pop()
            if print_of(thing) is not MISSING:
                yield Reading(module, steps, owner)
            is_dict = type(thing) is dict
            fields = thing if is_dict else fields_of(thing) if _keeps_settings(thing) else {}
            if fields and len(steps) <= _DEPTH:
                names = sorted(self._keys if is_dict else self._names)
                waiting += [(thing, fields[each], (*steps, (each, is_dict))) for each in names if each in fields]


def _keeps_settings(thing: Any) -> bool:
    """Whether it is a class or an object of the program's own, or one that programs keep settings in."""
    home, name = home_of(thing if issubclass(type(thing), type) else type(thing))
    return (home, name) in {("types", "SimpleNamespace"), ("argparse", "Namespace")} or is_own(sys.modules.get(home))


def _is_made_up(thing: Any) -> bool:
    """Whether a thing is a mock, or a function of the script's or of a test's module, which workers don't import."""
    if type(thing) is FunctionType:
        home = str(thing.__module__)
        return not is_others(home) and not is_own(sys.modules.get(home))
    return is_mock(thing)

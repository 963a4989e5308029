"""What a function reads in modules that workers, which import them as their files are, will not find as it is here.

It goes through the code of the function, and of what that calls, module by module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import name_of
from parmap._travel.code.needs.modules import MOST, inside, is_shared
from parmap._travel.code.needs.readings import (
    ATOMS,
    Expected,
    Reading,
    Steps,
    fields_of,
    is_others,
    is_own,
    is_there,
    path_of,
)
from parmap._travel.code.needs.variables import captured_by, codes_in

_FEW = 16  # modules that are looked through: some milliseconds, while workers start
_DEPTH = 3  # names and keys, one after the other
_MANY = 100  # constants in objects
_LONG = 1000  # characters

_Known = tuple[list[Reading], tuple[Expected, ...]]
_known: WeakKeyDictionary[FunctionType, _Known] = WeakKeyDictionary()
_texts: WeakKeyDictionary[ModuleType, tuple[Any, dict[Steps, Reading]]] = WeakKeyDictionary()  # with its spec


def set_from_outside(function: FunctionType) -> dict[str, Any]:
    """Variables of modules that *function*, and what it calls, reads, and that were set later: where, and to what.

    They are looked for once, as far as functions call each other.
    """
    readings, expected = _what_is_known(function)
    found = [each for each in readings if each.differs]
    if found and not all(each.is_certain for each in found):
        readings = [each for each in readings if each not in found or each.is_certain]
        _known[function] = readings, expected
        found = [each for each in found if each in readings]
    return {path_of(each.module, each.steps): each.now for each in found}


def expected_by(function: FunctionType) -> tuple[Expected, ...]:
    """What it reads in such modules whose text does not tell what that is: workers can compare."""
    return _what_is_known(function)[1]


def _what_is_known(function: FunctionType) -> _Known:
    known = _known.get(function)
    if known is None or not all(each.is_current for each in known[0]):
        found = [each for each in _Search().through(function) if each.is_current]
        expected = [Expected(each.module, each.steps, each.value) for each in found if each.kind == "object"]
        known = _known[function] = found, tuple(expected)
    return known


class _Search:
    """What a function can reach by its code, module by module."""

    def __init__(self) -> None:
        self._found: dict[Reading, None] = {}
        self._names: set[str] = set()
        self._keys: set[str] = set()
        self._codes: list[CodeType] = []
        self._objects: dict[tuple[ModuleType, str], None] = {}
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
            if id(thing) in seen or (home in sys.modules and is_others(home)):
                continue
            seen.add(id(thing))
            module = sys.modules.get(home)
            is_there = is_code and is_own(module) and name_of(thing) is not None  # else it travels by value
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
        return [*self._found, *self._in_objects()]

    def _look_at(self, function: FunctionType, modules: list[ModuleType]) -> list[Any]:
        """Note what a function reads; what it may call."""
        codes = [*codes_in(function.__code__)]
        names = {name for code in codes for name in code.co_names}
        self._codes += codes
        self._names |= names
        self._keys |= {each for code in codes for each in code.co_consts if type(each) is str}
        found = [*(function.__globals__.get(name) for name in names), *captured_by(function).values()]
        for each in {each for each in found if type(each) is ModuleType}:
            if is_own(each):
                modules.append(each)
            elif _is_library(each):
                self._found |= {Reading(each, ((name, False),), "theirs"): None for name in names & vars(each).keys()}
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

            told = {steps: Reading(module, steps, *told) for steps, told in variables_of(module)}
            known = _texts[module] = spec, told
        for name in names:
            steps = ((owner, False), (name, False)) if owner else ((name, False),)
            if reading := known[1].get(steps):
                self._found[reading] = None
            if (
                not owner
                and name in vars(module)
                and not name.startswith("__")
                and (reading is None or reading.kind in {"ours", "theirs"})
            ):
                self._objects[module, name] = None

    def _in_objects(self) -> list[Reading]:
        """Constants in objects, at attributes and keys that the functions name, but for those that they set."""
        found = [
            Reading(module, steps, "object", value)
            for module, name in self._objects
            for steps, value in self._constants(vars(module).get(name), ((name, False),))
        ]
        if found:
            from dis import get_instructions

            steps = [each for code in self._codes for each in get_instructions(code)]
            own = {each.argval for each in steps if each.opname in {"STORE_ATTR", "DELETE_ATTR"}}
            found = [each for each in found if each.steps[-1][0] not in own]
        return found[:_MANY]

    def _constants(self, thing: Any, steps: Steps) -> Iterator[tuple[Steps, Any]]:
        if type(thing) in ATOMS:
            is_short = not isinstance(thing, (str, bytes)) or len(thing) < _LONG
            if is_short and thing != os.getpid():  # which is another one by right
                yield steps, thing
        elif len(steps) <= _DEPTH:
            is_dict = type(thing) is dict
            fields = thing if is_dict else fields_of(thing) if _is_ours(thing) else {}
            for name in sorted(self._keys if is_dict else self._names):
                if name in fields and not name.startswith("__"):
                    yield from self._constants(fields[name], (*steps, (name, is_dict)))


def _is_ours(thing: Any) -> bool:
    """Whether it is an object or a class of the program's own, or one that programs keep settings in."""
    cls = thing if isinstance(thing, type) else type(thing)
    named = cls.__module__, cls.__qualname__
    return named in {("types", "SimpleNamespace"), ("argparse", "Namespace")} or is_own(sys.modules.get(cls.__module__))


def _is_library(module: ModuleType) -> bool:
    return is_there(module) and is_shared(module.__name__) and module.__name__.partition(".")[0] != "parmap"

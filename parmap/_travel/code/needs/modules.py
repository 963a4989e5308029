"""Modules that a function needs: those worth importing before workers are started."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from parmap._travel.code.by_name import name_of
from parmap._travel.code.needs.variables import captured_by, codes_in
from parmap._travel.code.special.lazy import LAZY_IMPORT, annotations_of, module_of, names_in_hints
from parmap._travel.text import wrapped_by

MOST = 200
"""Functions and classes that are looked through."""

_PYTHON = os.path.dirname(os.__file__) + os.sep


def modules_needed(function: Any) -> set[str]:
    """Modules that *function* names, and that this program imports, of the standard library or of a distribution.

    Never one of the program's own, nor one that is being edited: at its level may stand a generator of random numbers,
    which all workers would share, a socket, a connection.
    """
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [function]
    while waiting and len(seen) < MOST:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if issubclass(type(thing), ModuleType):
            found.add(thing.__name__)
        elif type(thing) is LAZY_IMPORT:
            found.add(module_of(thing))
        elif issubclass(type(thing), (FunctionType, BuiltinFunctionType, type)) and name_of(thing) is not None:
            found.add(str(thing.__module__))
        elif issubclass(type(thing), FunctionType):
            waiting += _named_by(thing)
        elif issubclass(type(thing), type):
            found.add("cloudpickle")  # which unpickles it
            waiting += [*thing.__bases__, *vars(thing).values()]
        else:
            waiting += inside(thing)
    return {name for name in found if is_shared(name)}


def inside(thing: Any) -> list[Any]:
    """What is in a thing, or makes it what it is."""
    # Their types are asked, as things may be proxies.
    if issubclass(type(thing), functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if issubclass(type(thing), (MethodType, classmethod, staticmethod)):
        return [thing.__func__, type(getattr(thing, "__self__", None))]
    if (inner := wrapped_by(thing)) is not None:
        return [inner]
    return [type(thing)] if type(thing).__module__ not in {"builtins", "types"} else []


def _named_by(function: FunctionType) -> Iterator[Any]:
    # Not by what cloudpickle tells: the template waits for this, and to import that takes longer.
    names = {name for code in codes_in(function.__code__) for name in code.co_names} | {*names_in_hints(function)}
    yield from (sys.modules[name] for name in names & sys.modules.keys())  # that it imports itself, maybe
    yield from (function.__globals__[name] for name in names & function.__globals__.keys())
    yield from [each for each in annotations_of(function).values() if isinstance(each, type)]
    yield from captured_by(function).values()


def is_pure(name: str) -> bool:
    """Whether a module has no threads of its own: it is of the standard library, or cloudpickle."""
    return name == "cloudpickle" or name.partition(".")[0] in sys.stdlib_module_names


def is_shared(name: str) -> bool:
    if name == "cloudpickle":  # which this program may not have imported yet
        return True
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if name not in sys.modules:  # it is imported lazily
        from importlib.util import find_spec

        spec = find_spec(name.partition(".")[0])  # which imports nothing
    origin = getattr(spec, "origin", None)
    if name in {"builtins", "__main__"} or not isinstance(origin, str):
        return False
    is_of_python = origin in {"built-in", "frozen"} or origin.startswith(_PYTHON)
    return is_of_python or origin.startswith(_homes())


@functools.cache
def _homes() -> tuple[str, ...]:
    """The folders that distributions are installed in; one that is being edited lies elsewhere."""
    import site
    import sysconfig

    paths = sysconfig.get_paths()
    folders = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    return tuple(folder + os.sep for folder in folders)

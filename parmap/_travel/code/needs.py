"""What a function needs besides its arguments, as far as its code tells: globals, captured variables, and modules."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from parmap._travel.code.by_name import name_of
from parmap._travel.code.late import LAZY_IMPORT, annotations_of, module_of, names_in_hints
from parmap._travel.text import wrapped_by

_MOST = 200  # functions and classes that are looked through
_PYTHON = os.path.dirname(os.__file__) + os.sep


def globals_of(code: CodeType) -> tuple[str, ...]:
    """The globals that a code, and the code in it, names, in queries too: behind an @ (pandas), as tables (DuckDB)."""
    found = _globals.get(code)  # functions that are made again and again, as lambdas in a loop, share theirs
    if found is None:
        found = _globals[code] = _find_globals(code)
    return found


_globals: WeakKeyDictionary[CodeType, tuple[str, ...]] = WeakKeyDictionary()


def _find_globals(code: CodeType) -> tuple[str, ...]:
    from cloudpickle import cloudpickle

    texts = "\n".join([text for part in codes_in(code) for text in _texts_in(part)])
    named = re.findall(r"@(\w+)", texts)
    if re.search(r"(?i)\bselect\b", texts):
        named += re.findall(r"(?i)\b(?:from|join)\s+(\w+)", texts)
    return tuple(dict.fromkeys([*cloudpickle._extract_code_globals(code), *named]))  # noqa: SLF001 - what it sends


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code, and the code in it."""
    yield code
    for each in code.co_consts:
        if type(each) is CodeType:
            yield from codes_in(each)


def _texts_in(code: CodeType) -> Iterator[str]:
    """The strings of a code, without its docstring, whose words mean nothing."""
    is_told = code.co_flags & 0x4000000 if sys.version_info >= (3, 14) else not code.co_name.startswith("<")
    yield from [each for each in code.co_consts[bool(is_told) :] if type(each) is str]


def variables_of(function: FunctionType) -> Iterator[tuple[str, str, Any]]:
    """What a function by value reads besides its arguments: of which kind it is, its name and its value."""
    code = function.__code__
    for name in sorted(globals_of(code)):
        if name in function.__globals__:
            yield "global", name, function.__globals__[name]
    for name, value in captured_by(function).items():
        yield "captured variable", name, value
    given = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    for name, value in [*zip(names, given, strict=True), *(function.__kwdefaults__ or {}).items()]:
        yield "default of", name, value


def captured_by(function: FunctionType) -> dict[str, Any]:
    """The variables that a function captures, but for those that are not set yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return {name: cell.cell_contents for name, cell in cells if cell != EMPTY}


EMPTY = CellType()


# --- modules, to be imported before workers start --------------------------------------------------


def modules_needed(function: Any) -> set[str]:
    """Modules that *function* names, and that this program imports, of the standard library or of a distribution.

    Never one of the program's own, nor one that is being edited: at its level may stand a generator of random numbers,
    which all workers would share, a socket, a connection.
    """
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [function]
    while waiting and len(seen) < _MOST:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, ModuleType):
            found.add(thing.__name__)
        elif type(thing) is LAZY_IMPORT:
            found.add(module_of(thing))
        elif isinstance(thing, (FunctionType, BuiltinFunctionType, type)) and name_of(thing) is not None:
            found.add(str(thing.__module__))
        elif isinstance(thing, FunctionType):
            waiting += _named_by(thing)
        elif isinstance(thing, type):
            found.add("cloudpickle")  # which unpickles it
            waiting += [*thing.__bases__, *vars(thing).values()]
        else:
            waiting += _inside(thing)
    return {name for name in found if _is_shared(name)}


def _inside(thing: Any) -> list[Any]:
    """What is in a thing, or makes it what it is."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, (MethodType, classmethod, staticmethod)):
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


def _is_shared(name: str) -> bool:
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

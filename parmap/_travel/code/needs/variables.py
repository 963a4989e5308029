"""What a function by value reads besides its arguments, as far as its code tells: globals and captured variables."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary


def globals_of(code: CodeType) -> tuple[str, ...]:
    """The globals that a code, and the code in it, names, in queries too: behind an @ (pandas), as tables (DuckDB)."""
    found = _globals.get(code)  # functions that are made again and again, as lambdas in a loop, share theirs
    if found is None:
        found = _globals[code] = _find_globals(code)
    return found


_globals: WeakKeyDictionary[CodeType, tuple[str, ...]] = WeakKeyDictionary()


def _find_globals(code: CodeType) -> tuple[str, ...]:
    from cloudpickle import cloudpickle

    named = named_in_texts(code)
    return tuple(dict.fromkeys([*cloudpickle._extract_code_globals(code), *named]))  # noqa: SLF001 - what it sends


def named_in_texts(code: CodeType) -> list[str]:
    """What a code, and the code in it, names in queries."""
    texts = "\n".join([text for part in codes_in(code) for text in _texts_in(part)])
    named = re.findall(r"@(\w+)", texts)
    if re.search(r"(?i)\bselect\b", texts):
        named += re.findall(r"(?i)\b(?:from|join)\s+(\w+)", texts)
    return named


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
    for name in sorted(globals_of(function.__code__)):
        if name in function.__globals__:
            yield "global", name, function.__globals__[name]
    for name, value in captured_by(function).items():
        yield "captured variable", name, value
    for name, value in defaults_of(function).items():
        yield "default of", name, value


def captured_by(function: FunctionType) -> dict[str, Any]:
    """The variables that a function captures, but for those that are not set yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return {name: cell.cell_contents for name, cell in cells if cell != EMPTY}


def defaults_of(function: FunctionType) -> dict[str, Any]:
    """The parameters of a function that have a default, with it."""
    code, given = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    return {**dict(zip(names, given, strict=True)), **(function.__kwdefaults__ or {})}


EMPTY = CellType()

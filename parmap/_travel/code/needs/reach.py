"""Which functions may run when one does: those that it names, and those that others call by a name in its code.

It is told by names, as no type is known: too many are better than one too few.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from parmap._travel.code.needs.copies import TooMuchError, is_all_own
from parmap._travel.code.needs.readings import ATOMS, fields_of, home_of, is_others, is_own
from parmap._travel.code.needs.variables import captured_by, codes_in
from parmap._travel.text import wrapped_by

_MOST = 5000  # things that are looked at
FUNCTIONS = 500  # that are read
_MANY = 200  # elements of a container
_CONTAINERS = {list, tuple, set, frozenset, dict}
_ALWAYS = "()"  # the name of what Python or a library calls
_BEGINS = {"__init__", "__new__", "__post_init__", "__enter__"}


def names_in(codes: Iterable[CodeType]) -> set[str]:
    """The names in code: of globals, attributes, methods, keywords."""
    found = set[str]()
    for code in codes:
        keywords = [each for each in code.co_consts if type(each) is tuple]
        found.update(
            code.co_names, code.co_freevars, *([name for name in each if type(name) is str] for each in keywords)
        )
    return found


def may_run(function: FunctionType, owner: Any) -> set[FunctionType]:
    """The function, and those that it may call.

    Raises:
        TooMuchError: there are too many to tell.
    """
    near = _near(function, owner)
    found, names, codes = {function}, {_ALWAYS}, [*codes_in(function.__code__)]
    while codes:
        names |= names_in(codes)
        more = {each for each, labels in near.items() if each not in found and labels & names}
        codes = [code for each in more for code in codes_in(each.__code__)]
        found |= more
        if len(found) > FUNCTIONS:
            raise TooMuchError
    return found


def function_in(thing: Any) -> FunctionType | None:
    """The function that a thing is, or wraps."""
    if type(thing) is property:
        thing = thing.fget
    while (inner := wrapped_by(thing)) is not None:
        thing = inner
    return thing if type(thing) is FunctionType else None


def _near(function: FunctionType, owner: Any) -> dict[FunctionType, set[str]]:
    """Functions around one, each with the names that it may be called by."""
    found: dict[FunctionType, set[str]] = {}
    seen = set[int]()
    kept = []  # so that no other has its id
    waiting: list[tuple[Any, frozenset[str]]] = [(function, frozenset()), (owner, frozenset())]
    waiting += [(value, frozenset({name})) for name, value in [*function.__globals__.items()]]
    while waiting:
        thing, labels = waiting.pop()
        kind = type(thing)
        if kind is FunctionType and thing in found:
            found[thing] |= labels
        if kind in ATOMS or id(thing) in seen or (kind is FunctionType and is_others(str(thing.__module__))):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if len(seen) > _MOST:
            raise TooMuchError
        if kind is FunctionType:
            labels |= {thing.__name__}
            found[thing] = {*labels}
        waiting += _parts(thing, labels)
    return found


def _parts(thing: Any, labels: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """What functions may be in, and the names that those are called by; libraries are passed by."""
    kind = type(thing)
    parts: Iterable[Any] = ()
    named: dict[str, Any] = {}
    if kind is FunctionType:
        names = names_in(codes_in(thing.__code__)) & thing.__globals__.keys()
        named = {**thing.__dict__, **captured_by(thing), **{name: thing.__globals__[name] for name in names}}
        parts = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    elif issubclass(kind, type):
        if (home := home_of(thing)[0]) != "builtins" and not is_others(home):
            yield from _methods(thing, labels)
            parts = thing.__bases__
    elif kind is ModuleType:
        named = vars(thing) if is_own(thing) else named
    elif kind in _CONTAINERS:
        parts = islice(thing.values() if kind is dict else thing, _MANY)
    elif _is_looked_into(kind):
        named, parts = fields_of(thing), [each for each in gc.get_referents(thing) if each is not kind]
        yield kind, frozenset()
    yield from [(value, labels) for value in parts]
    # Last, as it is looked at first: by its name.
    yield from [(value, labels | {name}) for name, value in named.items()]


def _methods(cls: type, labels: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """What is in a class: some of that is called by Python, or by the library that has to do with it."""
    is_hook = not is_all_own(cls)
    for name, value in [*vars(cls).items()]:
        if name in _BEGINS:
            yield value, labels | {name}
        else:
            yield value, frozenset({name, _ALWAYS} if is_hook or name.startswith("__") else {name})


def _is_looked_into(kind: type) -> bool:
    """Whether what is in a thing may be the program's: it wraps functions, or is of a class of its own."""
    home = home_of(kind)[0]
    is_wrapper = home in {"functools", "parmap"} or home.startswith("parmap.")
    return (
        is_wrapper
        or kind in {MethodType, classmethod, staticmethod, property, partial, CellType}
        or not is_others(home)
    )

"""What a function does with its copies of what it captures, though it makes sense with the program's own only.

It fills a list that it never reads; it draws from a generator, of which each copy gives the same numbers; it takes a
lock, of which each process has another. The door is `warn_of_slips`.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import repeat
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from parmap._travel.code.needs.modules import MOST, inside
from parmap._travel.code.needs.readings import fields_of, home_of, is_others
from parmap._travel.code.needs.variables import captured_by, codes_in, defaults_of
from parmap._travel.text import called, innermost

if TYPE_CHECKING:
    from parmap._travel.code.needs.uses import Use

_FILLED = {list, dict, set, bytearray, deque, defaultdict, Counter, OrderedDict}
_ARRAYS = {("numpy", "ndarray"), ("pandas", "DataFrame"), ("pandas", "Series")}
_DRAWN = {
    *[("random", "Random"), ("itertools", "count"), ("itertools", "cycle")],
    *[("numpy", "Generator"), ("numpy", "RandomState"), ("numpy", "BitGenerator")],
}
_SEEDS = {"seed", "setstate", "set_state", "state", "jumped", "advance"}  # who calls these knows of copies
_LOCKS = {
    *[("_thread", "lock"), ("_thread", "RLock"), ("threading", "Condition"), ("threading", "Semaphore")],
    *[("asyncio", "Lock"), ("asyncio", "Condition"), ("asyncio", "Semaphore")],
}
_CODE = (FunctionType, ModuleType, type)

_WAYS_OUT = {
    "changes": "each worker has a copy of its own, and the program's stays as it is: return what you want to have",
    "draws from": "each worker has a copy, which gives the same as the others: make it in the task, and use seed=",
    "takes": "each worker has another, which keeps out nobody elsewhere: use a lock of a multiprocessing.Manager()",
}


class _Slip(NamedTuple):
    """What is done with what, and where."""

    verb: str
    what: str
    filename: str
    line: int


class _Code(NamedTuple):
    """What is known of the code of a function."""

    slips: list[_Slip]  # whatever it is called with
    start: _Slip  # where it begins
    parameters: tuple[str, ...]  # that items are for
    changes: dict[str, _Slip]  # those it does nothing with but to change them


_known: WeakKeyDictionary[CodeType, _Code] = WeakKeyDictionary()


def warn_of_slips(function: Any, iterables: Iterable[Any] = ()) -> None:
    """Warn of what *function* does with copies, as Python's filters say; its code is read once.

    Args:
        function: what tasks call.
        iterables: the inputs of a batch: they may give the same generator to all items, or what a task changes.

    Raises:
        RuntimeWarning: the filters make it an error.
    """
    inner = innermost(function)
    owner = inner.__self__ if issubclass(type(inner), MethodType) else None
    plain = inner if owner is None else inner.__func__
    if type(plain) is not FunctionType:
        return
    code = _known.get(plain.__code__)
    if code is None:
        code = _known[plain.__code__] = _Reader(plain, owner).read()
    slips = [*code.slips, *_slips_with_items(function, code, [*iterables])]
    if slips:
        import warnings

        shown = plain.__globals__.setdefault("__warningregistry__", {})  # where Python notes what it has shown
        for verb, what, filename, line in slips:
            text = f"{called(plain)} {verb} {what}, of which {_WAYS_OUT[verb]}"
            warnings.warn_explicit(text, RuntimeWarning, filename, line, str(plain.__module__), shown)


def _slips_with_items(function: Any, code: _Code, inputs: list[Any]) -> Iterator[_Slip]:
    """What is wrong with what the items of a batch are, and with what is bound."""
    args, keywords = (function.args, function.keywords) if isinstance(function, partial) else ((), {})
    given = [*args, *keywords.values(), *(each for items in inputs for each in _same_for_all(items))]
    if any(map(is_drawn, given)):
        yield code.start._replace(verb="draws from", what="the generator that is given to all items")
    for name, items in zip(code.parameters[len(args) :], inputs, strict=False):
        if name in code.changes and type(items) in {list, tuple} and items and _is_changed(items[0]):
            yield code.changes[name]


def kinds_of(value: Any) -> set[tuple[str, str]]:
    """The classes that a value is of: library and name."""
    return {*map(_kind, type(value).__mro__)}


def _kind(cls: type) -> tuple[str, str]:
    module, name = home_of(cls)
    return module.partition(".")[0], name


def is_drawn(value: Any) -> bool:
    """Whether each copy of a value gives the same, one after the other: a generator of random numbers, a counter."""
    if issubclass(type(value), (BuiltinFunctionType, MethodType)):
        value = value.__self__
    kinds = kinds_of(value)
    if not kinds & _DRAWN or ("random", "SystemRandom") in kinds:
        return False
    # Those that `random` and numpy keep themselves: workers have others.
    kept = (
        getattr(sys.modules.get("random"), "_inst", None),
        getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None),
    )
    return not any(value is each for each in kept)


def _same_for_all(iterable: Any) -> list[Any]:
    """What is each of its items, if that is known without asking it for any."""
    if type(iterable) is repeat:
        return [*iterable.__reduce__()[1][:1]]
    is_one = type(iterable) in {list, tuple} and len(iterable) > 1 and iterable[0] is iterable[1]
    return [iterable[0]] if is_one else []


def _is_filled(value: Any) -> bool:
    """Whether a value is changed by being filled, and shared with nobody."""
    kind = type(value)
    if _kind(kind) not in _ARRAYS:  # a `memmap` isn't
        return kind in _FILLED
    while kind.__name__ == "ndarray" and type(value) is kind and value.base is not None:
        value = value.base
    return type(value) is kind  # else it may lie in shared memory


def _is_changed(value: Any) -> bool:
    """Whether an item is changed by what is done to it: a container, an array, an object of the program's own."""
    home = home_of(type(value))[0]
    return _is_filled(value) or not (home == "builtins" or is_others(home))


def _functions_in(things: Iterable[Any]) -> Iterator[FunctionType]:
    """Functions that may be called by these, by code of the program's own."""
    waiting, seen = [*things], set[int]()
    while waiting and len(seen) < MOST:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        kind = type(thing)
        if kind is FunctionType:
            yield thing
        if not issubclass(kind, type):
            waiting += [thing.fget, thing.fset] if kind is property else inside(thing)
        elif not is_others(home := home_of(thing)[0]) and home != "builtins":
            waiting += [*thing.__bases__, *vars(thing).values()]


class _Reader:
    """Reads the code of a function, and of what that calls and has the same globals, for how it uses names."""

    def __init__(self, function: FunctionType, owner: Any) -> None:
        self._function = function
        self._owner = owner
        self._captured = captured_by(function)
        self._fields = {} if owner is None else fields_of(owner)
        self._is_owner_known = True  # in all code that may use it
        self._uses: dict[str, list[Use]] = {}
        self._read: set[FunctionType] = set()
        self._names: set[str] = set()  # of globals, attributes and methods

    def read(self) -> _Code:
        """What should be warned of."""
        from parmap._travel.code.needs.uses import line_of_change  # it imports `dis`

        code = self._function.__code__
        start = _Slip("", "", code.co_filename, code.co_firstlineno)
        parameters = code.co_varnames[self._owner is not None : code.co_argcount]
        if is_others(str(self._function.__module__)):
            return _Code([], start, parameters, {})
        lines = {name: line_of_change(code, name) for name in parameters}
        changes = {name: start._replace(verb="changes", what=name, line=line) for name, line in lines.items() if line}
        return _Code([*self._slips(start)], start, parameters, changes)

    def _slips(self, start: _Slip) -> Iterator[_Slip]:
        self._follow(self._function, is_method=self._owner is not None)
        running = self._running()
        self._names = {name for code in running for name in code.co_names}
        for name, value in defaults_of(self._function).items():
            if is_drawn(value) and not self._names & _SEEDS:
                yield start._replace(verb="draws from", what=name)
        fields = {f"self.{name}": value for name, value in self._fields.items()}
        values = {**self._function.__globals__, **self._captured, **fields}
        for name in [name for name in self._uses if name in values]:
            where = next((use for use in self._uses[name] if use.code in running), None)
            if where is not None:
                place = where.code.co_filename, where.line
                yield from [_Slip(verb, what, *place) for verb, what in self._slips_with(name, values[name])]

    def _follow(self, function: FunctionType, *, is_method: bool) -> None:
        """Read a function, and what it may call, if it has the same globals."""
        from parmap._travel.code.needs.uses import uses_of  # it imports `dis`

        is_own = function.__globals__ is self._function.__globals__
        self._is_owner_known &= is_own or not is_method
        if not is_own or function in self._read or len(self._read) == MOST:
            return
        self._read.add(function)
        codes = [*codes_in(function.__code__)]
        me = function.__code__.co_varnames[0] if is_method and function.__code__.co_varnames else None
        uses = [use for code in codes for use in uses_of(code, self._captured, me)]
        for use in uses:
            self._uses.setdefault(use.name, []).append(use)
        self._is_owner_known &= all(use.name != "self" for use in uses)
        for each in _functions_in(value for use in uses for value in self._of_owner(use.name)):
            self._follow(each, is_method=True)
        near = [
            *(function.__globals__.get(use.name) for use in uses),
            *captured_by(function).values(),
            *inside(function),
        ]
        for each in _functions_in(near):
            self._follow(each, is_method=False)

    def _of_owner(self, name: str) -> Iterator[Any]:
        """What a class says that an attribute of its object is."""
        if name.startswith("self."):
            for kind in type(self._owner).__mro__:
                yield vars(kind).get(name[5:])

    def _running(self) -> set[CodeType]:
        """The code that is run, most likely: a class that is named has methods that nobody calls here."""
        found = set[CodeType]()
        waiting = [self._function]
        while waiting:
            found |= {code for each in waiting for code in codes_in(each.__code__)}
            names = {name for code in found for name in code.co_names}
            waiting = [each for each in self._read if each.__name__ in names and each.__code__ not in found]
        return found

    def _slips_with(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        """What goes wrong with one thing, by how it is used."""
        hows = {use.how for use in self._uses[name]}
        if kinds_of(value) & _LOCKS:
            if "takes" in hows and not (name.startswith("self.") or self._guards(name)):
                yield "takes", name
        elif hows == {"sets"} or (hows == {"fills"} and _is_filled(value)):
            if self._is_owner_known or not name.startswith("self."):
                yield "changes", name
        elif not self._names & _SEEDS:
            is_own = not issubclass(type(value), _CODE) and not is_others(home_of(type(value))[0])
            fields = {
                f"{name}.{each}": field for each, field in fields_of(value).items() if is_own and each in self._names
            }
            yield from [("draws from", each) for each, it in [(name, value), *fields.items()] if is_drawn(it)]

    def _guards(self, lock: str) -> bool:
        """Whether code that takes a lock changes a variable, a cache say: it is for the threads of its process."""
        codes = {use.code for use in self._uses[lock]}
        return any(use.code in codes and use.how in {"fills", "sets"} for uses in self._uses.values() for use in uses)

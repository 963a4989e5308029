"""What a function does with its copies of what it captures, though it makes sense with the program's own only.

It fills a list that it never reads; it draws from a generator, of which each copy gives the same numbers; it takes a
lock, of which each process has another. The door is `warn_of_slips`.

A warning that is wrong is worse than none: where something out of sight may read what is changed, nothing is said.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import repeat
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from parmap._travel.code.needs.copies import (
    TooMuchError,
    is_all_own,
    is_argument_changed,
    is_changed,
    is_counter,
    is_drawn,
    is_held_once,
    is_lock,
    is_plain_object,
)
from parmap._travel.code.needs.readings import MISSING, fields_of, home_of, is_others
from parmap._travel.code.needs.variables import EMPTY, captured_by, codes_in, defaults_of, named_in_texts
from parmap._travel.failure import pass_on
from parmap._travel.text import called, innermost

if TYPE_CHECKING:
    from parmap._travel.code.needs.uses import Change, Use

_LONGEST = 100_000  # bytes of code: they take a fifth of a second, once
_OFTEN = 5  # times that code is read in which something was found: each takes some milliseconds
_CODE = (FunctionType, ModuleType, type)

# Whoever names these knows of copies, orders what is in this process only, or has threads or tasks there.
_STATES = {
    *("random_state", "setstate", "set_state", "state", "jumped", "advance", "spawn", "getpid", "current_process"),
    *("Random", "SystemRandom", "default_rng", "Generator", "RandomState", "SeedSequence"),
}
_ORDERS = {
    *("heappush", "heapq", "heappushpop", "heapreplace", "PriorityQueue", "put", "insort", "uuid4", "gethostname"),
    *("TemporaryDirectory", "mkdtemp"),
}
_WORDS = ("thread", "pool", "executor")
_TASKS = {"gather", "create_task", "ensure_future", "TaskGroup", "as_completed", "start", "start_soon", "Parallel"}

_WAYS_OUT = {
    "changes": "each worker has a copy of its own, and the program's stays as it is: return what you want to have",
    "draws from": "each worker has a copy, which gives the same as the others: make it in the task, and use seed=",
    "takes": "each worker has another, which keeps out nobody elsewhere: use a lock of multiprocessing",
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
    changes: dict[str, list[Change]]  # of those that it does nothing with but to change them
    times: int = 1  # that it was read


_known: WeakKeyDictionary[CodeType, _Code] = WeakKeyDictionary()


def warn_of_slips(function: Any, iterables: Iterable[Any] = (), *, star: bool = False) -> None:
    """Warn of what *function* does with copies, as Python's filters say; its code is read once, if all is well.

    Args:
        function: what tasks call.
        iterables: the inputs of a batch: they may give the same generator to all items, or what a task changes.
        star: the only input has the arguments of each item.

    Raises:
        RuntimeWarning: the filters make it an error.
    """
    try:
        slips = _slips_of(function, [*iterables], star=star)
    except Exception as error:  # noqa: BLE001 - whatever code and items are: a call goes on, with nothing said
        pass_on(error)  # but for what a signal handler raises
        return
    if slips:
        import warnings

        plain = _plain(function)
        shown = dict.setdefault(plain.__globals__, "__warningregistry__", {})  # where Python notes what it has shown
        for verb, what, filename, line in slips:
            text = f"{called(plain)} {verb} {what}, of which {_WAYS_OUT[verb]}"
            warnings.warn_explicit(text, RuntimeWarning, filename, line, str(plain.__module__), shown)


def _slips_of(function: Any, inputs: list[Any], *, star: bool) -> list[_Slip]:
    plain, inner = _plain(function), innermost(function)
    owner = None if inner is plain else inner.__self__
    if type(plain) is not FunctionType:
        return []
    homes = plain.__module__, dict.get(plain.__globals__, "__name__")  # a library's decorator sets the first one
    if any(is_others(str(home)) for home in homes):
        return []
    code = _known.get(plain.__code__)
    if code is None:
        code = _known[plain.__code__] = _read(plain, owner)
    elif code.slips and code.times < _OFTEN:  # which another owner, or other variables, don't have
        code = _known[plain.__code__] = _read(plain, owner)._replace(times=code.times + 1)
    return [*code.slips, *_slips_with_items(function, code, _columns_of(inputs[0]) if star else inputs)]


def _plain(function: Any) -> Any:
    """The function under partials and methods."""
    inner = innermost(function)
    return inner.__func__ if issubclass(type(inner), MethodType) else inner


def _columns_of(items: Any) -> list[Any]:
    """The first, second and last of what is given for each parameter."""
    some = [items[0], items[min(1, len(items) - 1)], items[-1]] if type(items) in {list, tuple} and items else []
    return [*zip(*some, strict=False)] if all(type(each) in {list, tuple} for each in some) else []


def _slips_with_items(function: Any, code: _Code, inputs: list[Any]) -> Iterator[_Slip]:
    """What is wrong with what the items of a batch are, and with what is bound."""
    args, keywords = (function.args, function.keywords) if isinstance(function, partial) else ((), {})
    given = [*args, *keywords.values(), *(each for items in inputs for each in _same_for_all(items))]
    is_given = any(is_drawn(each) and not is_counter(each) for each in given)
    if is_given and not _Reader(_plain(function), None).is_seeded():
        yield code.start._replace(verb="draws from", what="the generator that is given to all items")
    bound = [(name, [value]) for name, value in [*zip(code.parameters, args, strict=False), *keywords.items()]]
    for name, items in [*bound, *zip(code.parameters[len(args) :], inputs, strict=False)]:
        changes = code.changes.get(name) or []
        some = changes and (items if type(items) in {list, tuple} else _same_for_all(items))
        if some and all(is_argument_changed(some[0], change) for change in changes):
            yield code.start._replace(verb="changes", what=name, line=changes[0].line)


def _same_for_all(iterable: Any) -> list[Any]:
    """What is each of its items, if that is known without asking it for any."""
    if type(iterable) is repeat:
        return gc.get_referents(iterable)[-1:]  # behind its type, maybe
    is_list = type(iterable) in {list, tuple} and len(iterable) > 1
    return [iterable[0]] if is_list and iterable[0] is iterable[1] is iterable[-1] else []


def _read(function: FunctionType, owner: Any) -> _Code:
    """What should be warned of."""
    from parmap._travel.code.needs.uses import changes_in  # it imports `dis`

    code = function.__code__
    start = _Slip("", "", code.co_filename, code.co_firstlineno)
    parameters = code.co_varnames[owner is not None : code.co_argcount]
    try:
        slips = [*_Reader(function, owner).slips(start)]
        return _Code(slips, start, parameters, changes_in(code, parameters))
    except TooMuchError:
        return _Code([], start, parameters, {})


class _Reader:
    """Reads the code of a function, and what that may call, for how it uses names."""

    def __init__(self, function: FunctionType, owner: Any) -> None:
        self._function = function
        self._owner = owner
        self._kinds = () if owner is None else (owner if issubclass(type(owner), type) else type(owner)).__mro__
        self._cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        self._uses: dict[str, list[tuple[Use, CodeType]]] = {}
        self._stored = set[str]()
        self._attributes = set[str]()  # that are read, of whatever
        self._size = 0  # of the code that was read
        self._certain = self._follow()

    def _widen(self) -> None:
        """Gather the uses in what may run besides: it takes longer, and is for those who found something."""
        from parmap._travel.code.needs.reach import may_run, names_in
        from parmap._travel.code.needs.uses import LOOKS_ROUND

        running = may_run(self._function, self._owner)
        for each in running - self._certain:
            self._gather(each)
        codes = [code for each in {*running, *self._certain} for code in codes_in(each.__code__)]
        self._names = names_in(codes)
        self._texts = {name for code in codes for name in named_in_texts(code)}
        self._looks_round = bool(self._names & LOOKS_ROUND) or "()" in self._uses  # it calls what it is given
        words = {*self._names, *(name for code in codes for name in code.co_varnames)}
        self._is_seeded = bool(self._names & _STATES) or any("seed" in word.lower() for word in words)

    def is_seeded(self) -> bool:
        """Whether generators have states of their own, of which the code knows."""
        self._widen()
        return self._is_seeded

    def _follow(self) -> set[FunctionType]:
        """Gather the uses in the function, and in those of the same globals that it calls, most likely, by name."""
        from parmap._travel.code.needs.reach import FUNCTIONS, function_in

        found, waiting = set[FunctionType](), [self._function]
        while waiting and len(found) < FUNCTIONS:
            each = waiting.pop()
            if each in found or each.__globals__ is not self._function.__globals__:
                continue
            found.add(each)
            for name, cell in zip(each.__code__.co_freevars, each.__closure__ or (), strict=False):
                self._cells.setdefault(name, cell)
            near = [*captured_by(each).values()]
            for name in self._gather(each):
                of_owner = [vars(kind).get(name[5:]) for kind in self._kinds if name.startswith("self.")]
                near += [dict.get(each.__globals__, name), *of_owner]
            waiting += [inner for inner in map(function_in, near) if inner is not None]
        return found

    def _gather(self, function: FunctionType) -> set[str]:
        """The uses of what is the program's copy, in one of the functions; the names of what it uses."""
        from parmap._travel.code.needs.uses import CHANGES, uses_of

        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        captured = {name for name, cell in cells.items() if self._cells.get(name) is cell}
        me = function.__code__.co_varnames[0] if self._is_method(function) else None
        names = set[str]()
        for code in codes_in(function.__code__):
            self._size += len(code.co_code)
            if self._size > _LONGEST:
                raise TooMuchError
            mine = me if code is function.__code__ or me in code.co_freevars else None
            for use in uses_of(code, captured, mine):
                names.add(use.name)
                is_here = function.__globals__ is self._function.__globals__ or use.name in captured
                if function.__name__ == "__init__" and use.how in {*CHANGES, "stores"}:
                    continue
                owner, dot, attribute = use.name.partition(".")
                if use.how == "stores":
                    self._stored.add(use.name)
                elif is_here or owner == "self":
                    self._uses.setdefault(use.name, []).append((use, code))
                if dot and use.how not in CHANGES:
                    self._attributes.add(attribute)
        return names

    def _is_method(self, function: FunctionType) -> bool:
        """Whether a function is one of the owner, and calls it by its first parameter."""
        if not function.__code__.co_argcount:
            return False
        static = {each.__func__ for kind in self._kinds for each in vars(kind).values() if type(each) is staticmethod}
        name = function.__name__
        is_of_class = any(f"{kind.__qualname__}.{name}" == function.__qualname__ for kind in self._kinds)
        return is_of_class and function not in static

    def slips(self, start: _Slip) -> Iterator[_Slip]:
        """What is done with copies, whatever the function is called with."""
        defaults = {name: value for name, value in defaults_of(self._function).items() if is_drawn(value)}
        names = [name for name in self._uses if self._may_slip(name)]
        if defaults or names:
            self._widen()
        for name in filter(lambda name: self._is_drawn_from(defaults[name]), defaults):
            yield start._replace(verb="draws from", what=name)
        certain = {code for each in self._certain for code in codes_in(each.__code__)}
        for name in names:
            use, code = next(place for place in self._uses[name] if place[1] in certain)
            yield from [_Slip(verb, what, code.co_filename, use.line) for verb, what in self._slips_with(name)]

    def _may_slip(self, name: str) -> bool:
        """Whether the way in which something is used, or what it is, is worth a closer look."""
        from parmap._travel.code.needs.uses import CHANGES

        value = self._look(name)
        is_used = any(use.how in CHANGES or use.how == "takes" for use, _ in self._uses[name])
        return value is not MISSING and (is_used or any(map(is_drawn, [value, *self._fields(value).values()])))

    def _fields(self, value: Any) -> dict[str, Any]:
        """The attributes of an object of the program's own."""
        is_own = not issubclass(type(value), _CODE) and not is_others(home_of(type(value))[0])
        return dict(fields_of(value)) if is_own else {}

    def _look(self, name: str) -> Any:
        """What a variable is now."""
        owner, dot, attribute = name.partition(".")
        if dot:
            return fields_of(self._owner if owner == "self" else self._look(owner)).get(attribute, MISSING)
        cell = self._cells.get(name)
        if cell is None:
            return dict.get(self._function.__globals__, name, MISSING)
        return MISSING if cell == EMPTY else cell.cell_contents

    def _slips_with(self, name: str) -> Iterator[tuple[str, str]]:
        """What goes wrong with one thing, by how it is used."""
        from parmap._travel.code.needs.uses import CHANGES

        hows = {use.how for use, _ in self._uses[name]}
        is_alone = hows == {"sets"} or is_held_once(partial(self._look, name))
        value = self._look(name)
        owner, dot, _ = name.partition(".")
        if hows <= CHANGES and not is_lock(value):
            if is_alone and not self._is_seen(name, hows) and is_changed(value, hows):
                yield "changes", name
        elif not dot and is_lock(value):
            if "takes" in hows and not self._has_threads():
                yield "takes", name
        elif not hows & CHANGES and (not dot or owner == "self"):
            fields = self._fields(value).items()
            named = [(f"{name}.{each}", field) for each, field in fields if each in self._names - self._stored]
            yield from [("draws from", each) for each, it in [(name, value), *named] if self._is_drawn_from(it)]

    def _is_seen(self, name: str, hows: set[str]) -> bool:
        """Whether what is not understood may read a variable."""
        owner, dot, attribute = name.partition(".")
        if not dot:
            return self._looks_round or name in self._texts or name in self._attributes  # of its module
        thing = self._owner if owner == "self" else self._look(owner)
        is_used = any(use.how != "asks" for use, _ in self._uses.get(owner, ()))
        is_set_up = owner != "self" and "sets" in hows  # which has a reason, maybe
        is_plain = is_all_own(thing) if type(thing) is type else is_plain_object(thing)
        return self._looks_round or attribute in self._attributes or is_used or is_set_up or not is_plain

    def _is_drawn_from(self, value: Any) -> bool:
        return not self._is_seeded and is_drawn(value) and not (is_counter(value) and self._names & _ORDERS)

    def _has_threads(self) -> bool:
        """Whether a lock is for the threads of its process: there are some, or there is something that they share."""
        is_named = self._names & _TASKS or any(word in name.lower() for name in self._names for word in _WORDS)
        values = [self._function.__globals__.get(name) for name in self._names]
        has_cache = any(type(value).__name__ == "_lru_cache_wrapper" for value in values)
        return bool(is_named or has_cache or self._stored)

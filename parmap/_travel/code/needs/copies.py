"""What a value is to a task that has a copy of it: something that is changed in vain, drawn from, or taken."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from itertools import islice
from types import BuiltinFunctionType, MemberDescriptorType, MethodType
from typing import TYPE_CHECKING, Any

from parmap._travel.code.needs.readings import ATOMS, fields_of, home_of, is_others

if TYPE_CHECKING:
    from parmap._travel.code.needs.uses import Change

_FILLED = {list, dict, set, bytearray, deque, defaultdict, Counter, OrderedDict}
_ARRAYS = {("numpy", "ndarray"), ("pandas", "DataFrame"), ("pandas", "Series")}
_SIGNALS = {("threading", "Event"), ("_queue", "SimpleQueue")} | {
    ("queue", kind) for kind in ("Queue", "LifoQueue", "PriorityQueue")
}
_DRAWN = {
    *[("random", "Random"), ("itertools", "count")],
    *[("numpy", "Generator"), ("numpy", "RandomState"), ("numpy", "BitGenerator")],
}
_LOCKS = {
    *[("_thread", "lock"), ("_thread", "RLock"), ("threading", "Condition"), ("threading", "Semaphore")],
    *[("asyncio", "Lock"), ("asyncio", "Condition"), ("asyncio", "Semaphore")],
}
_BASES = {("builtins", "object"), ("abc", "ABC"), ("typing", "Generic"), ("typing", "Protocol")}
_MANY = 100  # elements that are looked at
_DEPTH = 3

_holder: list[list[int]] = [[]]
_ONCE = sys.getrefcount(_holder.__getitem__(0))


class TooMuchError(Exception):
    """There is more to look at than is worth it."""


def is_held_once(look: Callable[[], Any]) -> bool:
    """Whether the variable that *look* gives is the only one for what it is, and there is no other view of that."""
    value = look()
    base = getattr(value, "base", None) if _kind(type(value)) == ("numpy", "ndarray") else None
    is_base_free = base is None or sys.getrefcount(base) <= _ONCE + 1  # `base` is a variable, too
    is_atom = type(value) in ATOMS
    del value
    return is_base_free and (is_atom or sys.getrefcount(look()) <= _ONCE)


def is_all_own(cls: type) -> bool:
    """Whether no library has to do with the objects of a class."""
    homes = map(home_of, cls.__mro__)
    return all((home, name) in _BASES or not (home == "builtins" or is_others(home)) for home, name in homes)


def is_plain_object(value: Any) -> bool:
    """Whether attributes of a value are kept in it, and nobody is told."""
    kind = type(value)
    return not any("__setattr__" in vars(cls) for cls in kind.__mro__[:-1]) and is_all_own(kind)


def is_filled(value: Any, *, inside: bool = False) -> bool:
    """Whether a value is changed by being filled, and shared with nobody; nor is what is in it, if that is filled."""
    kind = type(value)
    if (home := _kind(kind)) not in _ARRAYS:  # a `memmap` isn't
        return (kind in _FILLED and (not inside or _is_private(value, _DEPTH))) or (home in _SIGNALS and not inside)
    while kind.__name__ == "ndarray" and type(value) is kind and value.base is not None:
        value = value.base
    return type(value) is kind  # else it may lie in shared memory


def _is_private(value: Any, depth: int) -> bool:
    """Whether nothing in a value is shared with other processes, or has a name of its own."""
    if type(value) not in {*_FILLED, tuple, frozenset}:
        return type(value) in ATOMS or (type(value) not in _FILLED and is_filled(value))
    parts = islice(value.values() if issubclass(type(value), dict) else value, _MANY)
    return depth > 0 and all(
        (type(each) in _SHARED or _count(each) <= _WITHIN) and _is_private(each, depth - 1) for each in parts
    )


def _count(value: Any) -> int:
    return sys.getrefcount(value)


_nested: list[list[int]] = [[]]
_WITHIN = max(_count(each) for each in islice(_nested, 1))  # times that what is held only there is counted there
_SHARED = {*ATOMS, tuple, frozenset}  # those that code itself may hold


def is_changed(value: Any, hows: set[str]) -> bool:
    """Whether a value is lost where it is changed in these ways: a copy is, and one that nobody shares."""
    if "sums" in hows and type(value) in ATOMS:
        return hows <= {"sums", "sets"}
    if hows == {"sets"}:
        return True
    is_new = "sets" in hows and "sums" not in hows  # so what is filled is another one, maybe
    return not is_new and is_filled(value, inside="fills inside" in hows)


def is_argument_changed(value: Any, change: Change) -> bool:
    """Whether a change of an argument is lost."""
    if not change.attribute:
        return is_changed(value, {change.how})
    known = [vars(cls)[change.attribute] for cls in type(value).__mro__ if change.attribute in vars(cls)]
    field: Any = known[0] if known else None
    is_slot = type(field) is MemberDescriptorType
    is_kept = is_slot or not hasattr(type(field), "__set__")
    field = field.__get__(value) if is_slot else fields_of(value).get(change.attribute, field)
    return is_plain_object(value) and is_kept and is_changed(field, {change.how})


def is_lock(value: Any) -> bool:
    """Whether a value keeps out others of its process."""
    return bool(_kinds_of(value) & _LOCKS)


def is_drawn(value: Any) -> bool:
    """Whether each copy of a value gives the same, one after the other: a generator of random numbers, a counter."""
    if issubclass(type(value), (BuiltinFunctionType, MethodType)):
        value = value.__self__
    kinds = _kinds_of(value)
    if not kinds & _DRAWN or _kind(type(value))[0] not in {"random", "itertools", "numpy"}:  # others may know of copies
        return False
    # Those that `random` and numpy keep themselves: workers have others.
    kept = (
        getattr(sys.modules.get("random"), "_inst", None),
        getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None),
    )
    return ("random", "SystemRandom") not in kinds and not any(value is each for each in kept)


def is_counter(value: Any) -> bool:
    """Whether a value draws what is a number only: it may tell apart what is in one process."""
    return _kind(type(value)) == ("itertools", "count")


def _kinds_of(value: Any) -> set[tuple[str, str]]:
    """The classes that a value is of: library and name."""
    return {*map(_kind, type(value).__mro__)}


def _kind(cls: type) -> tuple[str, str]:
    module, name = home_of(cls)
    return module.partition(".")[0], name

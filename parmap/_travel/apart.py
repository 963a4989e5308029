"""Items that are apart: none shares with another what can be changed, and no code of the user's packs or unpacks them.

They are pickled as one, in half the time: nobody can tell whether they travelled one by one.
"""

from __future__ import annotations

import copyreg
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple

from parmap._travel.failure import pass_on
from parmap._travel.flat import ATOMS, FEW, are_atoms, are_repeated, is_constant_kind
from parmap._travel.stream import OUT_OF_BAND

_FEW_INSIDE = 8  # containers and what is in them, in an item, on average: to look at more takes longer than it saves
_OWN_WAYS = ("__getattr__", "__getnewargs_ex__", "__del__")
_USUAL_WAYS = ("__reduce_ex__", "__reduce__", "__getattribute__")
_MAKERS = ("dataclasses", "attr._make")  # of methods that move attributes, and do nothing else
_dict_of = attrgetter("__dict__")


def are_apart(items: list[Any]) -> bool:
    """Whether none of *items* shares with another what can be changed, and no code of the user's packs or unpacks them.

    What they hold is looked at in columns, by loops that run in C.
    """
    columns = [(items, False)]  # each with whether what is in it may belong to several items
    left = _FEW_INSIDE * len(items)
    seen: set[int] = set()
    shared: dict[int, Any] = {}
    count = 0
    while columns:
        column, is_shared = columns.pop()
        kinds = set(map(type, column))
        for kind in kinds - ATOMS:
            parts = _parts_of(kind)
            if parts is None or (is_shared and not parts.frozen):
                return False
            those = column if len(kinds) == 1 else [each for each in column if type(each) is kind]
            if not parts.frozen:
                seen.update(map(id, those))
                count += len(those)
                left -= len(those)
                if len(seen) < count or left < 0:
                    return False
            elif is_shared or are_repeated(those):  # looked at once, however long they are
                once = dict(zip(map(id, those), those, strict=True))
                those = [once[each] for each in once.keys() - shared.keys()]
                shared |= once
                columns += [(list(part), True) for part in parts.of(those)]
                continue
            for part in parts.of(those):
                columns.append((list(part) if parts.named else list(islice(part, left + 1)), False))
                left -= 0 if parts.named else len(columns[-1][0])
                if left < 0:
                    return False
    return True


def as_it_is(item: Any, known: dict[int, tuple[Any, _Parts | None]], *, copies: bool = True) -> Any:
    """What stands for *item*, whatever becomes of it: itself, or a copy; `None`: what can is not seen at a glance.

    *known*: what was found of classes; it remembers those for which it can't be told. *copies*: whether one will do.
    """
    kind = type(item)
    found = known.get(id(kind))
    parts = _look_up(kind, known) if found is None else found[1]
    if parts is None or (parts.named and found is None):  # it is pickled: its class is sent as it is now
        return None
    made, values = item, None
    if parts.frozen:
        values = list(chain.from_iterable(parts.of([item])))
    elif copies and parts.copy is not None:
        made, values = parts.copy(item)
    if values is not None and len(values) <= FEW and (are_atoms(values) or _are_frozen([*values], known)):
        return made
    known[id(kind)] = kind, None
    return None


def _are_frozen(values: list[Any], known: dict[int, tuple[Any, _Parts | None]]) -> bool:
    """Whether it is seen at a glance that nothing in *values* can be changed."""
    for value in values:  # to which is added what each holds
        parts = _look_up(type(value), known)
        if parts is None or not parts.frozen or len(values) > _FEW_INSIDE:
            return False
        for part in parts.of([value]):
            values += part
    return True


def _look_up(kind: Any, known: dict[int, tuple[Any, _Parts | None]]) -> _Parts | None:
    if id(kind) not in known:
        known[id(kind)] = kind, _known_parts_of(kind)
    return known[id(kind)][1]


def _known_parts_of(kind: Any) -> _Parts | None:
    try:
        return _NOTHING if kind in ATOMS else _parts_of(kind)
    except Exception as error:  # noqa: BLE001 - its metaclass rules
        pass_on(error)
        return None


class _Parts(NamedTuple):
    """How the columns of what objects hold are found."""

    of: Callable[[list[Any]], Sequence[Iterable[Any]]]
    frozen: bool = False
    """Whether nobody can tell that two share one."""
    named: bool = False
    """Whether they are attributes, whose names are written once for all: that pays for the look at them."""
    copy: Callable[[Any], tuple[Any, list[Any]]] | None = None
    """What makes another one that holds the same, and says what."""


def _column(get: Callable[[Any], Any]) -> Callable[[list[Any]], Sequence[Iterable[Any]]]:
    return lambda those: (map(get, those),)


def _of_rows(those: list[Any]) -> Sequence[Iterable[Any]]:
    return (chain.from_iterable(those),)


def _of_dicts(those: list[Any]) -> Sequence[Iterable[Any]]:
    if not ATOMS.issuperset(map(type, chain.from_iterable(those))):  # rare enough
        return _UNKNOWN
    return (chain.from_iterable(map(dict.values, those)),)


def _of_tuples(those: list[Any]) -> Sequence[Iterable[Any]]:
    return (chain.from_iterable(map(tuple.__iter__, those)),)


def _copy_list(those: list[Any]) -> tuple[Any, list[Any]]:
    made: list[Any] = those[:]
    return made, made


def _copy_dict(those: dict[Any, Any]) -> tuple[Any, list[Any]]:
    made = those.copy()
    return made, [*made, *made.values()]


_UNKNOWN = ((len,),)  # a column that nobody knows: a builtin may be the method of what can be changed
_NOTHING = _Parts(lambda _: (), frozen=True)
_PARTS = {
    list: _Parts(_of_rows, copy=_copy_list),
    set: _Parts(_of_rows),
    tuple: _Parts(_of_rows, frozen=True),
    frozenset: _Parts(_of_rows, frozen=True),
    dict: _Parts(_of_dicts, copy=_copy_dict),
}


def _parts_of(kind: Any) -> _Parts | None:
    """`None`: nobody knows what is in it, or its pickling is its own."""
    if kind in _PARTS:
        return _PARTS[kind]
    if is_constant_kind(kind):
        return _Parts(_column(attrgetter("tzinfo")), frozen=True) if hasattr(kind, "tzinfo") else _NOTHING
    if _is_proxy(kind):
        return _NOTHING
    if kind in copyreg.dispatch_table:
        return None
    if kind.__module__ == "numpy":
        return _parts_of_numpy(kind)
    return _parts_of_class(kind)


def _is_proxy(kind: Any) -> bool:
    """Whether objects of a class stand for what a manager has: each that is unpickled calls it."""
    managers = sys.modules.get(kind.__module__) if kind.__module__ == "multiprocessing.managers" else None
    return managers is not None and issubclass(kind, managers.BaseProxy)


def _parts_of_numpy(kind: Any) -> _Parts | None:
    numpy = sys.modules["numpy"]
    if kind is numpy.ndarray:
        return _Parts(_small_arrays)
    return _NOTHING if issubclass(kind, (numpy.number, numpy.bool_)) else None


def _small_arrays(arrays: list[Any]) -> Sequence[Iterable[Any]]:
    """Nothing, unless some are large, hold objects, or have fields, whose names can be changed."""
    kinds = set(map(attrgetter("dtype.kind", "dtype.names"), arrays))
    is_plain = all(kind in "biufcmMSU" and names is None for kind, names in kinds)
    return () if is_plain and max(map(attrgetter("nbytes"), arrays)) < OUT_OF_BAND else _UNKNOWN


def _parts_of_class(kind: Any) -> _Parts | None:
    if issubclass(kind, type):  # of a class, its name travels
        return _NOTHING
    if type(kind) is getattr(sys.modules.get("enum"), "EnumType", None):
        is_usual = kind.__reduce_ex__ is sys.modules["enum"].Enum.__reduce_ex__
        return _Parts(_column(attrgetter("_value_")), frozen=True) if is_usual else None
    base = tuple if kind.__bases__ == (tuple,) else object
    if not (type(kind) is type or type(kind) is ABCMeta) or not _is_usual(kind, base):
        return None
    if base is tuple:
        is_named = kind.__new__.__module__ == f"namedtuple_{kind.__name__}"
        return _Parts(_of_tuples, frozen=True) if is_named else None
    names = copyreg._slotnames(kind)  # type: ignore[attr-defined]  # noqa: SLF001 - as pickle
    slots = [attrgetter(name) for name in names]
    return _Parts(
        lambda those: [
            *(map(get, those) for get in slots),
            *(_of_dicts(list(map(_dict_of, those))) if kind.__dictoffset__ else ()),
        ],
        named=True,
        # Where nothing but their identity tells objects apart, `item_of` gives the very one that failed.
        copy=partial(_copy, kind, names) if any("__eq__" in vars(each) for each in kind.__mro__[:-1]) else None,
    )


def _copy(kind: type, slots: list[str], thing: Any) -> tuple[Any, list[Any]]:
    """A copy past a `__setattr__` of the user's, and what it holds."""
    made: Any = object.__new__(kind)
    values: list[Any] = []
    for name in slots:
        values.append(getattr(thing, name))
        object.__setattr__(made, name, values[-1])
    if kind.__dictoffset__:
        state = dict.copy(thing.__dict__)
        object.__setattr__(made, "__dict__", state)
        values += state
        values += state.values()
    return made, values


def _is_usual(kind: Any, base: type) -> bool:
    """Whether objects of a class, which inherits from *base*, are pickled as their attributes, and by nobody else."""
    if any(hasattr(kind, name) for name in _OWN_WAYS):
        return False
    if any(getattr(kind, name) is not getattr(base, name) for name in _USUAL_WAYS):
        return False
    moves = [getattr(kind, name, None) for name in ("__getstate__", "__setstate__")]
    if moves != [object.__getstate__, None]:
        return all(map(_is_made, moves)) and kind.__new__ is object.__new__
    if base is tuple:
        return True
    return (
        kind.__new__ is object.__new__
        and not hasattr(kind, "__getnewargs__")
        and (kind.__setattr__ is object.__setattr__ or not copyreg._slotnames(kind))  # type: ignore[attr-defined]  # noqa: SLF001
    )


def _is_made(function: Any) -> bool:
    """Whether a method was made by who makes classes for users."""
    names = getattr(function, "__globals__", None)
    return names is not None and any(names is vars(sys.modules[name]) for name in _MAKERS if name in sys.modules)

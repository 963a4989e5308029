"""The walk through all that functions and classes reach, of which a mark is made."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import EllipsisType, FunctionType, NoneType
from typing import Any, Union
from weakref import ref

from parmap._travel.code.by_name import names_stranger
from parmap._travel.code.by_value import MADE_BY_CODE, is_by_value
from parmap._travel.code.classes import tracker_of
from parmap._travel.code.marks.frozen import ATOMS, FROZEN, are_frozen, goes_by_name, is_constant, size_of
from parmap._travel.code.marks.kept import (
    AGAIN,
    MANY,
    REST,
    Kept,
    Nest,
    Numbers,
    Table,
    pattern_of,
)
from parmap._travel.code.marks.mark import DIGESTED, Look, Mark, Packer, Round
from parmap._travel.code.marks.parts import ABSENT, reader_in, reader_of
from parmap._travel.code.special.remade import fresh_ones, remake, remake_fresh, says_how
from parmap._travel.code.special.shared import view_reduced
from parmap._travel.failure import pass_on
from parmap._travel.text import is_enumeration

_HELD = 64 << 20  # bytes that a mark holds of the user's data, at most
_LONG = 64 * 1024  # bytes, or characters, from which on a string is not held
_NESTS, _FEW = 128, 32  # containers and objects that are looked into, and things in one: of more, pickle is faster
_SIZED = frozenset({list, tuple, dict})
_OF_TYPES = ("types", "typing")  # where what stands in annotations is made
_HINTS = frozenset({EllipsisType, NoneType, type(Union)})

Large = list[tuple[Any, Table]]
"""Containers that travel by themselves, each with what it holds."""


def mark(roots: Sequence[Any], known: Callable[[type, int], Iterable[Table]]) -> tuple[Mark, Large]:
    """The mark of some objects, and the large containers among what they reach.

    *known*: tables of that type and length that were marked before; one that is the same is used again.
    """
    walk = _Walk(known)
    try:
        walk.through(roots)
        made = Mark(walk.steps, list(map(ref, walk.things)), pattern_of(walk.boxes), walk.nbytes)
        made.classes = frozenset(map(tracker_of, walk.classes))
        return made, walk.large
    finally:
        walk.packer = None  # which refers to the walk: what it has seen shall not wait for the garbage collector


def apart_of(large: Large) -> dict[int, int]:
    """The numbers of the large containers, by their identities."""
    return {id(value): number for number, (value, _) in enumerate(large)}


class _Walk:
    def __init__(self, known: Callable[[type, int], Iterable[Table]]) -> None:
        self.steps: list[Look | Round] = []
        self._queue: deque[Any] = deque()
        self._rest: list[Any] = []
        self.boxes: list[Any] = []
        self.large: Large = []
        self.things: list[Any] = []  # functions and classes, by their place
        self.classes: list[type] = []  # those by value
        self.nbytes = 0
        self._places: dict[int, int] = {}
        self._boxed: set[int] = set()  # identities of boxes
        self._nests = 0
        self._alive: list[Any] = []  # as long as their identities are used
        self._known = known
        self.packer: Packer | None = None

    def through(self, roots: Sequence[Any]) -> None:
        """Look at everything."""
        if all(issubclass(type(root), (FunctionType, type)) for root in roots):  # whoever asks knows them by identity
            for root in roots:
                self._place(root)
        else:
            self._look(None, list, roots)
        while self._queue or self._rest:
            while self._queue:
                thing = self._queue.popleft()
                self._look(thing, reader_of(thing), thing)
            if self._rest:
                self._pack()

    def _look(self, thing: Any, read: Callable[[Any], list[Any]], source: Any) -> None:
        values = read(source)
        kept = Kept([self._keep(value) for value in values], values)
        self.steps.append(Look(None if thing is None else ref(thing), read, kept))

    def _pack(self) -> None:
        packed = self._pack_plainly() if self.packer is None else None
        if packed is None and self._queue:
            return  # once that was looked at, pickle can name it
        is_plain = packed is not None
        if packed is None:
            self.packer = self.packer or Packer(self.boxes, self._place)
            packed = self.packer.pack(self._rest)
        self._alive.append(self._rest)
        self._rest = []
        self.nbytes += min(len(packed[0]), DIGESTED)
        self.steps.append(Round(*packed, is_plain=is_plain))

    def _pack_plainly(self) -> tuple[bytes, list[memoryview]] | None:
        """What is left to be pickled, if pickle can do it, and this is the end: all in it that goes by value is known.

        What was not known is in the queue then.
        """
        try:
            packer = Packer([*self.boxes, *self.things])
            packed = packer.pack(self._rest)
            met = packer.met()
            for each in met:
                # A module that was made here is nobody's main one, but nobody else has it.
                if issubclass(type(each), (FunctionType, type)) and id(each) not in self._places and is_by_value(each):
                    self._place(each)
            kinds = {id(type(each)): type(each) for each in met}.values()
            is_plain = not names_stranger(packed[0]) and not any(map(_says_where, kinds))
        except Exception as error:  # noqa: BLE001 - whatever cloudpickle can do better
            pass_on(error)
            return None
        return packed if is_plain and not self._queue else None

    def _place(self, thing: Any) -> int:
        """The place of a function or class; one by value is looked at, too."""
        key = id(thing)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.things)
            self.things.append(thing)
            if is_by_value(thing):
                self._queue.append(thing)
                if isinstance(thing, type) and remake(thing) is None:
                    self.classes.append(thing)
        return place

    def _keep(self, value: Any) -> Any:
        kind = type(value)
        if value is ABSENT or self._may_hold(value, kind) or is_constant(value, kind):
            return value
        if kind is FunctionType or issubclass(kind, type):
            self._place(value)
            return value if kind is type and not value.__flags__ & MADE_BY_CODE else ref(value)
        if goes_by_name(value, kind) or kind in fresh_ones() or (kind.__weakrefoffset__ and self._knows(value)):
            return ref(value)
        if self.packer is not None:  # it may be in what was pickled already, and that must be seen
            return self._leave(value)
        if id(value) in self._boxed:
            self.boxes.append(value)
            return AGAIN
        return self._inside(value, kind) or self._leave(value)

    def _inside(self, value: Any, kind: type) -> Table | Numbers | Nest | None:
        """What is kept of a container or an object; `None` if it has to be pickled."""
        if kind is list or kind is dict or kind is set:
            table = self._table(value, kind)
            if table is not None:
                self._box(value)
                self.nbytes += table.nbytes
                if table.is_large:
                    self.large.append((value, table))
                return table
        elif kind is getattr(sys.modules.get("numpy"), "ndarray", None):
            if value.dtype.isbuiltin != 1 or value.dtype.hasobject or value.nbytes > DIGESTED or view_reduced(value):
                return None
            self._box(value)
            self.nbytes += value.nbytes
            return Numbers(value)
        read = reader_in(kind) if self._nests < _NESTS and remake_fresh(value) is None else None
        if read is None or (kind in _SIZED and len(value) > _FEW):
            return None
        values = read(value)
        if len(values) > 2 * _FEW:
            return None
        self._nests += 1
        self._box(value)
        self._place(kind)
        return Nest(ref(kind), read, Kept([self._keep(each) for each in values], values))

    def _box(self, value: Any) -> None:
        self.boxes.append(value)
        self._boxed.add(id(value))

    def _knows(self, hint: Any) -> bool:
        """Whether a type, such as `list[int] | None`, can't change, but for the classes in it, which are looked at."""
        kind = type(hint)
        if issubclass(kind, type):
            self._place(hint)
            return True
        if kind in _HINTS or kind in ATOMS:
            return True
        is_plain = kind.__module__ in _OF_TYPES and not hasattr(hint, "__metadata__")  # as `Annotated` has
        args = getattr(hint, "__args__", None) if is_plain else None
        return type(args) is tuple and self._knows(hint.__origin__) and all(map(self._knows, args))

    def _may_hold(self, value: Any, kind: type) -> bool:
        if kind in ATOMS:
            return (kind is not str and kind is not bytes) or len(value) <= _LONG
        if kind not in FROZEN or not are_frozen((value,)):
            return kind.__module__ == "_contextvars"  # a variable is the same as long as it is there
        size = size_of((value,))
        if size > _LONG:
            return False
        self.nbytes += size
        return True

    def _table(self, value: Any, kind: type) -> Table | None:
        if len(value) >= MANY:
            for each in self._known(kind, len(value)):
                if each.holds(value):
                    return each
        return _table_of(value, kind, _HELD - self.nbytes)

    def _leave(self, value: Any) -> Any:
        self._rest.append(value)
        self._place(type(value))  # before it is met in the middle of pickling: then its tables would have to be pickled
        return REST


def _says_where(kind: Any) -> bool:
    """Whether pickle may tell of an instance where it stands, as in its class, and not what is in it."""
    return says_how(kind) and not is_enumeration(kind) and is_by_value(kind)  # of an enumeration, the class tells that


def _table_of(value: Any, kind: type, room: int) -> Table | None:
    """What a container holds; `None` if that is not atoms alone, or too much."""
    try:
        value = value.copy()  # in one step: another thread may change it between the keys and the values
        keys = tuple(value)
        values = tuple(value.values()) if kind is dict else None
        every = keys if values is None else keys + values
        if not are_frozen(every):
            return None
    except (TypeError, RuntimeError):  # a class without a hash; changed just now
        return None
    size = size_of(every)
    return Table(kind, keys, values, size) if size <= room else None

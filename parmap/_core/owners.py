"""What is known of functions, each for as long as it lives. Nobody's function, object or class is held here."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from types import MethodType
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import KeyedRef

from parmap._travel.failure import pass_on

T = TypeVar("T")

_MOST = 1024  # entries: more belong to functions that nobody calls any more


class Owners(Generic[T]):
    """A table by identity: two objects that are equal are two.

    A bound method is a new object each time it is asked for: it is known by its object and its function. What can't be
    held weakly is not remembered. All that is done to the dict is one step, so that any thread, and whoever collects
    garbage, may do it at any time; if two meet, one of them forgets what it could have kept.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, _Entry[T]] = {}
        # Filled by C alone: of a Ctrl-C that came in a callback of ours, nobody would hear.
        self._gone: deque[KeyedRef[Any, Any]] = deque()

    def find(self, function: Any, more: Hashable) -> T | None:
        """What was kept for *function* and *more*."""
        owner, part = (function.__self__, function.__func__) if type(function) is MethodType else (function, None)
        entry = self._entries.get((id(owner), id(part), more))
        if entry is None or entry.owner() is not owner or (part is not None and entry.part() is not part):
            return None
        return entry.value

    def keep(self, function: Any, more: Hashable, value: T) -> None:
        """Remember *value* until the function is gone; it must not refer to it."""
        owner, part = (function.__self__, function.__func__) if type(function) is MethodType else (function, None)
        key = (id(owner), id(part), more)
        self.purge()
        gone = self._gone.append
        try:
            entry = _Entry(KeyedRef(owner, gone, key), KeyedRef(owner if part is None else part, gone, key), value)
        except TypeError as error:
            pass_on(error)
            return
        self._entries.pop(key, None)  # so that it stands last
        self._entries[key] = entry
        while len(self._entries) > _MOST:
            self.drop_oldest()

    def purge(self) -> None:
        """Drop what was kept for functions that are gone."""
        while self._gone:
            try:
                gone = self._gone.popleft()
            except IndexError as error:  # another thread does it, too
                pass_on(error)
                return
            entry = self._entries.get(gone.key)
            if entry is not None and (gone is entry.owner or gone is entry.part):
                self._entries.pop(gone.key, None)

    def drop_oldest(self) -> None:
        """Forget what was kept first."""
        try:
            self._entries.pop(next(iter(self._entries)), None)
        except (StopIteration, RuntimeError) as error:  # there is none; another thread changes it just now
            pass_on(error)

    def values(self) -> Iterator[T]:
        """All that is kept, the oldest first."""
        return (entry.value for entry in list(self._entries.values()))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class _Entry(NamedTuple, Generic[T]):
    owner: KeyedRef[Any, Any]
    part: KeyedRef[Any, Any]
    value: T

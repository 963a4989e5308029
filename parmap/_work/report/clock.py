"""The clock of one chunk, in the worker that runs it. A chunk that no report wants has none.

It costs little for each chunk, and less than half a microsecond for each item: the run loop notes on its status page
when items begin, and all that is done here is to read along, and to time the unpacking.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from heapq import nlargest
from math import log2
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._travel.pack import EACH, Pack
from parmap._work.outcome import Loading, Outcome

if TYPE_CHECKING:
    from parmap._work.run import Page, Work

FINE = 8
"""Buckets of an octave: the times of a bucket differ by 9 %."""

SLOWEST = 10
"""Items, the slowest, that are told one by one."""

_QUICK = 20_000  # nanoseconds


class Times(NamedTuple):
    """What became of the time of a chunk, in nanoseconds; plain numbers, that any pickle takes."""

    begin: int
    """When loading what it needs began, by the clock that a machine's processes share; 0: it ran elsewhere."""
    spent: tuple[int, int, int, int]
    """On importing, unpacking, running, packing."""
    sending: int
    """What it took to send the results of the chunk before, which could not tell it itself."""
    spread: dict[int, int]
    """How many items took how long: by `bucket`."""
    slowest: list[tuple[int, int, int]]
    """Nanoseconds, offset and number of the items that took longest: several, where they ran as one."""

    def joined(self, other: Times) -> Times:
        """Those of both, where they are parts of one chunk."""
        importing, unpacking, running, packing = map(add, self.spent, other.spent)
        spread = {place: self.spread.get(place, 0) + other.spread.get(place, 0) for place in self.spread | other.spread}
        slowest = nlargest(SLOWEST, [*self.slowest, *other.slowest])
        spent = importing, unpacking, running, packing
        return Times(self.begin, spent, self.sending + other.sending, spread, slowest)


def bucket(nanoseconds: float) -> int:
    """Where a time is counted."""
    return int(FINE * log2(nanoseconds)) if nanoseconds > 1 else 0


class Clock:
    """Started when a worker takes a chunk up."""

    def __init__(self, importing: int = 0, sending: int = 0) -> None:
        """*importing*, *sending*: nanoseconds, before this, that loading the function and sending results took."""
        self.told = time.monotonic_ns()
        self._begin = self.told - importing
        self._importing = importing - Loading.nanoseconds
        self._sending = sending
        self._before = 0  # what unpacking took before the run
        self.unpacking = 0  # and within it
        self._marks: list[tuple[int, int]] = []

    def page(self, page: Page) -> Page:
        """The status page for the run: as *page*, and read along."""
        return _Marked(page, self._marks)

    def items(self, pack: Pack) -> Pack:
        """The items for the run, whose unpacking is timed."""
        if pack.kind == EACH:
            return _Timed.of(pack, self)
        begin = time.monotonic_ns()
        pack.whole()
        self._before = time.monotonic_ns() - begin
        return pack

    def times(self, outcome: Outcome, *, shared: bool = True, packs: bool = True) -> Times:
        """What became of the time until now; *shared*: whether who is told has the same clock."""
        self.told = time.monotonic_ns()
        running = max(0, outcome.nanoseconds - self.unpacking)
        importing, unpacking = self._importing + Loading.nanoseconds, self._before + self.unpacking
        packing = max(0, self.told - self._begin - importing - unpacking - running) if packs else 0
        spent = importing, unpacking, running, packing
        return Times(self._begin if shared else 0, spent, self._sending, *self._spread(outcome, running))

    def _spread(self, outcome: Outcome, running: int) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
        rows = [(running, 0, outcome.done)] if outcome.done else []
        marks = self._marks
        if running > len(marks) * _QUICK > 0:  # else it is worth no more than their mean
            ends = [*marks[1:], (outcome.done, marks[0][1] + outcome.nanoseconds)]
            pairs = zip(marks, ends, strict=True)
            rows = [(end - begin, first, last - first) for (first, begin), (last, end) in pairs if last > first]
        spread: dict[int, int] = {}
        for took, _, count in rows:
            place = bucket(took / count)
            spread[place] = spread.get(place, 0) + count
        return spread, nlargest(SLOWEST, rows)


class _Marked:
    """A status page that keeps what is written on it: the first item, and when it began."""

    page: Any
    mark: Any
    note: Any
    limit: Any
    work: Work | None

    def __init__(self, page: Page, marks: list[tuple[int, int]]) -> None:
        self.__dict__.update(page=page, mark=marks.append, note=page.enter, limit=page.limit)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.page, name, value)

    def enter(self, number: int, index: int, length: int, now: int, /) -> None:
        self.mark((index, now))
        self.note(number, index, length, now)


class _Timed(Pack):
    """Items each with a stream of its own, whose unpacking is timed."""

    _clock: Clock
    _items: Iterator[Any]

    @classmethod
    def of(cls, pack: Pack, clock: Clock) -> _Timed:
        made = cls.__new__(cls)
        made.__dict__.update(vars(pack), _clock=clock)
        return made

    def __iter__(self) -> _Timed:
        self._items = super().__iter__()
        return self

    def __next__(self) -> Any:
        begin = time.monotonic_ns() - Loading.nanoseconds
        try:
            return next(self._items)
        finally:
            self._clock.unpacking += time.monotonic_ns() - Loading.nanoseconds - begin

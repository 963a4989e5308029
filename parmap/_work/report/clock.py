"""The clock of one chunk, in the worker that runs it. A chunk that no report wants has none.

It costs little for each chunk, and next to nothing for each item: the run loop notes on its status page when items
begin, and all that is done here is to read along. Of items that are short to unpack only some are timed.
"""

from __future__ import annotations

import time
from heapq import nlargest
from itertools import chain, islice
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._travel.pack import EACH, Pack
from parmap._work.outcome import Loading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parmap._work.outcome import Outcome
    from parmap._work.run import Page, Work

FINE = 8
"""Buckets of an octave: the times of a bucket differ by 9 %."""

SLOWEST = 10
"""Items, the slowest, that are told one by one."""

_SKIPPED = 15  # items that are unpacked between two that are timed, as long as that is quick
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
        self.sampled = self.samples = 0  # and, of some items, within it
        self._marks: list[tuple[int, int]] = []

    def page(self, page: Page) -> Page:
        """The status page for the run: as *page*, and read along."""
        return _Marked(page, self._marks)

    def items(self, pack: Pack) -> Pack:
        """The items for the run, whose unpacking is timed."""
        if pack.kind == EACH:
            return _Sampled.of(pack, self)
        begin = time.monotonic_ns()
        pack.whole()
        self._before = time.monotonic_ns() - begin
        return pack

    def times(self, outcome: Outcome, *, shared: bool = True, packs: bool = True) -> Times:
        """What became of the time until now; *shared*: whether who is told has the same clock."""
        self.told = time.monotonic_ns()
        within = self.sampled * outcome.done // self.samples if self.samples else 0
        running = max(0, outcome.nanoseconds - within)
        importing, unpacking = self._importing + Loading.nanoseconds, self._before + within
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


class _Sampled(Pack):
    """Items each with a stream of its own, of which some are timed while they are unpacked."""

    _clock: Clock

    @classmethod
    def of(cls, pack: Pack, clock: Clock) -> _Sampled:
        made = cls(pack.kind, pack.count, pack.stream, pack.sizes, pack.buffers, pack.owned, pack.words, pack.bare)
        made._reader = pack._reader  # noqa: SLF001 - of the same kind
        made._clock = clock
        return made

    def __iter__(self) -> Iterator[Any]:
        # An error of an item ends the inner iterator of that item, and nothing else.
        return chain.from_iterable(self._pieces(super().__iter__()))

    def _pieces(self, items: Iterator[Any]) -> Iterator[Iterator[Any]]:
        for _ in range(self.count):
            before = self._clock.sampled
            yield self._timed(items)
            if self._clock.sampled - before < _QUICK:
                yield islice(items, _SKIPPED)

    def _timed(self, items: Iterator[Any]) -> Iterator[Any]:
        begin = time.monotonic_ns() - Loading.nanoseconds
        try:
            item = next(items)
        finally:
            self._clock.sampled += time.monotonic_ns() - Loading.nanoseconds - begin
            self._clock.samples += 1
        yield item

"""What a report knows: sums, counts by size, the slowest items, and bars of a timeline. It stays small.

What is told comes from any thread, signal handlers included: it is left in a queue by one operation of C, and taken up
when there is some of it, or when somebody reads. Of a function are kept about 400 counts of times at most, as many of
sizes, and ten items; of all workers `MOST` bars: when there are more, those that are near each other are joined.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from heapq import nlargest
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from parmap._work.report.clock import FINE, SLOWEST, Times, bucket

if TYPE_CHECKING:
    from parmap._work.report.watch import Passage

PARTS = ("starting", "importing", "unpacking", "running", "packing", "waiting")
"""What the time of a worker is spent on."""

LOST = ("deaths", "timeouts", "stopped")
"""How a chunk ends that does not come back; it is *stopped* if nobody wants it any more."""

MOST = 8000
"""Bars of the timeline."""

_MANY = 256  # facts that are taken up together
_SPANS = 1000  # stretches of time that are told apart
_GRAIN = 100_000  # nanoseconds: bars that are nearer than this are joined when there are too many
_ABOUT = 4  # by which part of its time a chunk may seem to have begun too early: news of the one before came late


class Bar:
    """One chunk on the timeline, or several that were near each other."""

    def __init__(self, name: str, begin: int, end: int, sums: Counter[str], first: int | None = None) -> None:
        self.name = name
        self.begin = begin
        self.end = end
        self.sums = sums  # items, chunks, and by `LOST`; and nanoseconds, by `PARTS`
        self.first = first

    def join(self, later: Bar) -> None:
        """Be both."""
        self.name = later.name or self.name
        self.end = max(self.end, later.end)
        self.sums.update(later.sums)


class Function:
    """What is known of a function."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: Counter[str] = Counter()  # as of a bar; and errors, retries, nbytes, result_nbytes
        self.spread: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()
        self.slowest: list[tuple[int, int, int, str]] = []  # nanoseconds, first, how many, worker
        self.spans = Spans()

    def took(self, share: float) -> float:
        """How long that share of the items took, at most."""
        alone = self.slowest and self.slowest[0][2] == 1
        return self.slowest[0][0] if share == 1 and alone else quantile(self.spread, share)


class Worker:
    """What is known of the workers that sat in one place, one after the other."""

    def __init__(self, name: str, since: int, spans: Spans) -> None:
        self.name = name
        self.since = since
        self.spans = spans  # when their pool had something to do
        self.before = 0  # and for how long those of other pools that sat here
        self.sums: Counter[str] = Counter()
        self.bars: list[Bar] = []
        self.tail = 0  # what sending the last results took, at most: they can't tell themselves

    def sit(self, spans: Spans, since: int) -> None:
        """From now on it is one whose pool has these."""
        if spans is not self.spans:
            self.before += self.spans.total(self.since)
            self.spans, self.since = spans, since

    def spent(self) -> Counter[str]:
        """Nanoseconds, by `PARTS`; it waited when its pool had something to do and it did nothing."""
        spent = Counter({part: self.sums[part] for part in PARTS})
        spent["packing"] += self.tail
        spent["waiting"] = max(0, self.before + self.spans.total(self.since) - spent.total())
        return spent


class Spans:
    """When there was something to do: stretches of time, in order."""

    def __init__(self) -> None:
        self._all: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        """One more, that ends last."""
        spans = self._all
        while spans and begin <= spans[-1][1]:
            first, last = spans.pop()
            begin, end = min(begin, first), max(end, last)
        spans.append((begin, end))
        if len(spans) > _SPANS:  # the oldest become one, as long as both
            (first, last), (begin, end) = spans[:2]
            spans[:2] = [(begin - (last - first), end)]

    def total(self, since: int = 0) -> int:
        """Nanoseconds, after *since*."""
        return sum(end - max(begin, since) for begin, end in self._all if end > since)


class Gathered:
    """What one report knows."""

    def __init__(self) -> None:
        self.began = time.time()
        self.zero = time.monotonic_ns()
        self.functions: dict[str, Function] = {}
        self.workers: dict[tuple[str, int], Worker] = {}
        self.spans = Spans()
        self._pools: WeakValueDictionary[int, Spans] = WeakValueDictionary()
        self.handing = 0  # what packing and sending took in the program
        self._bars = self._grain = 0
        self._told: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()

    def tell(self, what: str, *facts: Any) -> None:
        """Hear something, from any thread."""
        self._told.append((what, *facts))
        if len(self._told) > _MANY and not self._lock.locked():  # else by this thread, maybe, under a signal handler
            with self._lock:
                self._take_up()

    @contextmanager
    def held(self) -> Generator[Gathered, None, None]:
        """What is known now; it does not change meanwhile."""
        with self._lock:
            self._take_up()
            yield self

    def _take_up(self) -> None:
        while self._told:
            what, *facts = self._told.popleft()
            getattr(self, "_" + what)(*facts)

    def _worker(self, pool: int, kind: str, seat: int, since: int) -> Worker:
        spans = self._pools.get(pool) or self._pools.setdefault(pool, Spans())
        worker = self.workers.get((kind, seat))
        if worker is None:
            number = 1 + sum(other == kind for other, _ in self.workers)
            worker = self.workers[kind, seat] = Worker(f"{kind} {number}", since, spans)
        worker.sit(spans, since)
        return worker

    def _function(self, name: str) -> Function:
        return self.functions.get(name) or self.functions.setdefault(name, Function(name))

    def _started(self, pool: int, kind: str, seat: int, since: int, end: int) -> None:
        since = max(since, self.zero)
        worker = self._worker(pool, kind, seat, since)
        sums = Counter(starting=end - since)
        worker.sums.update(sums)
        self._draw(worker, Bar("", since, end, sums))

    def _failed(self, name: str, errors: int, retries: int) -> None:
        # One that will be tried again is counted as an item then.
        self._function(name).sums.update(items=errors, errors=errors, retries=retries)

    def _passage(self, passage: Passage) -> None:
        times = passage.take()
        seat = passage.seat if times is None or times.begin else self._seat(passage, sum(times.spent))
        worker = self._worker(passage.pool, passage.kind, seat, passage.sent)
        function = self._function(passage.name)
        self.handing += passage.handing
        for spans in (self.spans, worker.spans, function.spans):
            spans.add(passage.begun, passage.end)
        if passage.done:
            function.sizes[bucket(passage.done)] += 1
        sums = Counter(items=passage.done - passage.failures, chunks=1)
        if times is not None:
            sums.update(dict(zip(PARTS[1:], times.spent, strict=False)))
            begin = times.begin or passage.end - sum(times.spent)
            end = begin + sum(times.spent)
            self._time(worker, function, passage, times)
        else:  # if it was lost, what it did nobody knows; it ran, since what its worker did before
            begin = max(passage.sent, worker.bars[-1].end if worker.bars else 0)
            end = max(begin, passage.end)
            sums.update({passage.lost: 1, "running": end - begin} if passage.lost else {})
        worker.sums.update(sums)
        function.sums.update(sums, nbytes=passage.nbytes, result_nbytes=passage.result_nbytes)
        self._draw(worker, Bar(passage.name, begin, end, sums, passage.first))

    def _seat(self, passage: Passage, took: int) -> int:
        """Where a chunk ran that a cluster had: one has some more than it can run, and does not say who ran which."""
        ends = {
            seat: each.bars[-1].end for (kind, seat), each in self.workers.items() if kind == passage.kind and each.bars
        }
        begin = max(passage.sent, passage.end - took) + took // _ABOUT
        return max((seat for seat, end in ends.items() if end <= begin), key=ends.__getitem__, default=len(ends))

    def _time(self, worker: Worker, function: Function, passage: Passage, times: Times) -> None:
        told = times.begin + sum(times.spent)
        worker.tail = max(0, passage.end - told) if times.begin and passage.result_nbytes else 0
        for each in (worker, function):  # of the chunk before, but most likely of the same function
            each.sums["packing"] += times.sending
        function.spread.update(times.spread)
        start = -1 if passage.first is None else passage.first
        for took, offset, number in times.slowest:
            first = start if start < 0 else start + offset
            function.slowest.append((took, first, number, worker.name))
        function.slowest = nlargest(SLOWEST, function.slowest)

    def _draw(self, worker: Worker, bar: Bar) -> None:
        self._bars += self._append(worker.bars, bar)
        while self._bars > max(MOST, 2 * len(self.workers)):  # coarser each time
            self._grain = max(_GRAIN, 2 * self._grain)
            for each in self.workers.values():
                bars, each.bars = each.bars, []
                self._bars -= len(bars) - sum(self._append(each.bars, one) for one in bars)

    def _append(self, bars: list[Bar], bar: Bar) -> bool:
        """Add a bar, or join it to the last; whether there is one more."""
        is_near = bool(bars) and bar.end - bars[-1].begin < self._grain
        if is_near:
            bars[-1].join(bar)
        else:
            bars.append(bar)
        return not is_near


def quantile(spread: Counter[int], share: float) -> float:
    """The middle of the bucket below which that share of what was counted lies."""
    left = share * spread.total()
    for place, number in sorted(spread.items()):
        left -= number
        if left <= 0:
            return float(2 ** ((place + 0.5) / FINE)) if place else 1.0
    return 0.0

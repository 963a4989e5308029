"""What calls, backends and workers tell the reports that are open: who watches a job, and each of its chunks.

A job is watched by the reports that were open when it began, to its end. What is told are plain numbers and names: no
item, no function and no future is held by a report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

from parmap._work.report.clock import Times, bucket

if TYPE_CHECKING:
    from parmap._core.job import Chunk
    from parmap._core.states import Slot
    from parmap._results.futures import Future
    from parmap._work.report.gather import Gathered
    from parmap.backends._base import Backend, Report


_QUICK = 300_000  # nanoseconds: single tasks that take less are told with others
_TOGETHER = 5_000_000  # nanoseconds in which they are


class Open:
    """Which reports are open."""

    reports: tuple[Gathered, ...] = ()
    token: object = None
    """Another one after each change."""
    at_exit: tuple[Callable[[], object], ...] = ()
    """Called when all work has ended."""
    _opened: ClassVar[list[Gathered]] = []  # once for each time
    _lock = RLock()

    @classmethod
    def add(cls, report: Gathered) -> None:
        """It is open, once more."""
        with cls._lock:
            cls._opened.append(report)
            cls._change()

    @classmethod
    def remove(cls, report: Gathered) -> None:
        """It is not, unless it is so elsewhere, too."""
        with cls._lock:
            if report in cls._opened:  # else it was opened by the process that this one was forked from
                cls._opened.remove(report)
                cls._change()

    @classmethod
    def _change(cls) -> None:
        cls.reports, cls.token = tuple(dict.fromkeys(cls._opened)), object()

    @classmethod
    def forget(cls) -> None:
        """In a process made by `os.fork()`: they are the parent's."""
        cls._lock = RLock()  # the old one may be locked for ever
        cls._opened.clear()
        cls._change()
        cls.at_exit = ()


class Watch:
    """Of one job, or of a task that its caller sends."""

    def __init__(self, name: str, backend: Backend, reports: tuple[Gathered, ...] = ()) -> None:
        """What is called *name* will run on *backend*; *reports*: those that hear of it, if not all that are open."""
        self.name: str = name
        self.pool: int = _pool(backend)
        self.kind: str = _kind(backend)
        self.begun: int = time.monotonic_ns()
        self.reports: tuple[Gathered, ...] = reports or Open.reports

    def leave(self, chunk: Chunk, slot: Slot) -> Passage:
        """A chunk leaves for its worker."""
        return Passage(self, slot, chunk.job.sink.index(chunk, 0))

    def failed(self, errors: int, retries: int) -> None:
        """Items failed for good, or will be tried again."""
        for each in self.reports:
            each.tell("failed", self.name, errors, retries)


class Passage:
    """One chunk on its way, and what is told of it when it has come back. Times are nanoseconds."""

    def __init__(self, watch: Watch, slot: Slot, first: int | None) -> None:
        self.name: str = watch.name
        self.pool: int = watch.pool
        self.kind: str = watch.kind
        self.begun: int = watch.begun
        self.reports: tuple[Gathered, ...] = watch.reports
        self.seat: int = get_ident() if self.kind == "serial" else _seat(slot)  # there, each call has its own engine
        self.first = first  # the number of its first item, if they have numbers
        self.sent: int = time.monotonic_ns()
        self.handing: int = 0
        self.nbytes: int = 0
        self.done: int = 0
        self.failures: int = 0
        self.result_nbytes: int = 0
        self.times: Times | None = None
        self.took = -1  # where these are single tasks: how long they ran
        self.is_taken: bool = False

    def take(self) -> Times | None:
        """A report takes it up; from now on it is as it is."""
        self.is_taken = True
        if self.took >= 0 and not self.lost:
            row = self.took, 0, self.done
            return Times(self.sent, (0, 0, self.took, 0), 0, {bucket(self.took / self.done): self.done}, [row])
        return self.times

    def gone(self, nbytes: int) -> None:
        """It was packed and sent."""
        self.handing = time.monotonic_ns() - self.sent
        self.nbytes = nbytes

    def part(self, done: int, failures: int, nbytes: int, times: Times | None) -> None:
        """A part of it came back."""
        if times is not None:
            self.times = times if self.times is None else self.times.joined(times)
        self.done += done
        self.failures += failures
        self.result_nbytes += nbytes

    def back(self, report: Report, most: int) -> None:
        """It came back; only its first *most* items have their outcome here."""
        size = getattr(report.results, "nbytes", 0)
        failures = sum(offset < most for offset in report.failures)
        self.arrive(report.times, done=min(report.done, most), failures=failures, nbytes=size)

    def arrive(self, times: Times | None, *, done: int = 0, failures: int = 0, nbytes: int = 0, lost: str = "") -> None:
        """*done* of its items have ended, *failures* of them not well. Or it was *lost*: see `LOST`."""
        self.part(done, failures, nbytes, times)
        self.lost: str = lost
        self.end: int = time.monotonic_ns()
        reports, self.reports = self.reports, ()  # no cycle
        for each in reports:
            each.tell("passage", self)


class Singles:
    """The tasks that callers send to one worker: told one by one or, where they are quick, with those just before."""

    def __init__(self) -> None:
        self._last: Passage | None = None
        self._token: object = None

    def add(self, future: Future[Any], place: Hashable, begin: int, took: int, *, failed: bool, lost: str = "") -> None:
        """One that began at *begin* has come back from the worker at *place*, or was *lost* with it."""
        reports, sent = future.__dict__.pop("measured", ((), 0))  # once, whoever comes first
        last = self._last
        if not reports:
            return
        if (
            took < _QUICK
            and last is not None
            and begin < last.sent + _TOGETHER
            and not (last.is_taken or failed or lost)
            and last.name == future.lane.name
            and self._token is Open.token
            and reports is Open.reports
        ):
            last.done += 1
            last.took += took
            last.handing += 2 * (begin - sent)
            return
        engine = future.lane.engine
        slot = engine.ledger.scheduler.slots.get(place)
        if slot is None:  # its worker has been buried
            return
        watch = Watch(future.lane.name, engine.backend, reports)
        last = Passage(watch, slot, None)
        last.begun, last.sent, last.took = sent, begin, took
        last.handing = 2 * (begin - sent)  # there, and back: when its result was wanted is the program's business
        last.arrive(None, done=not lost, failures=failed and not lost, lost=lost)
        self._last, self._token = last, Open.token
        if failed:
            watch.failed(1, 0)


def started(backend: Backend, slot: Slot, since: int) -> None:
    """A worker has started, which began at *since*."""
    for each in Open.reports:
        each.tell("started", _pool(backend), _kind(backend), _seat(slot), since, time.monotonic_ns())


def _pool(backend: Backend) -> int:
    """The same for whatever shares workers: for a thread, where it does the work itself."""
    return hash(backend.options.pool_key) if backend.threaded else get_ident()


def _kind(backend: Backend) -> str:
    name: Any = backend.options.backend
    return {"processes": "process", "threads": "thread"}.get(name, name) if type(name) is str else type(name).__name__


# The places of workers: one that comes for another sits where that sat.
_seats: dict[int, ref[Slot]] = {}


def _seat(slot: Slot) -> int:
    if slot.seat is None:
        # No lock: in a signal handler it would be waited for in vain. At worst two workers are shown in one place.
        taken = {place for place, other in list(_seats.items()) if other() is not None}
        slot.seat = min({*range(len(taken) + 1)} - taken)
        _seats[slot.seat] = ref(slot)
    return slot.seat

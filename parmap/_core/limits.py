"""Limits on a whole job, whose time may be over, and on a whole worker, which may have grown too large."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from parmap._core.job import Job, too_late
from parmap._core.ledger import MERCY, Ledger
from parmap._travel.failure import Failure

if TYPE_CHECKING:
    from parmap.backends._base import Backend, Report


class LimitedLedger(Ledger):
    """A ledger that ends whole jobs in time, and replaces workers that have grown."""

    def __init__(self, backend: Backend, now: float) -> None:
        super().__init__(backend, now)
        self._most_memory = backend.options.max_memory_per_child
        self._lends = self._lends and self._most_memory is None  # what callers give a worker is not weighed

    def report(self, report: Report, now: float) -> None:
        """A chunk came back; its worker gets no more if it takes too much memory."""
        chunk = None if self._most_memory is None else self._chunks.get(report.number)
        super().report(report, now)
        slot = chunk and self.scheduler.slots.get(chunk.slot)
        if chunk and slot and self._backend.memory(chunk.slot) > (self._most_memory or 0):
            slot.budget = 0
            if self.scheduler.is_spent(chunk.slot):
                self._retire(chunk.slot)

    # A job that ends too late: what of it has no outcome has one at once, and what runs is stopped.

    def limit(self, job: Job, seconds: float, now: float) -> None:
        """Give a job so many seconds."""
        job.end = end = now + seconds

        def ring(late: Job, now: float, *, again: bool = False) -> None:
            if late.closed:  # what was left to run is stopped
                self.stop_soon(list(late.flight), now)
            elif late.flight and now > end + MERCY and self._backend.threaded and not again:
                # This program stood still: first it hears what has ended meanwhile.
                self._at(now + MERCY, ref(late), partial(ring, again=True))
            else:
                self._expire(late, seconds, now)

        self._at(end, ref(job), ring)  # it may have ended long before

    def _expire(self, job: Job, seconds: float, now: float) -> None:
        if job.fail_fast:
            self.cancel(job, now, Failure(too_late("all of it", seconds)))
            return
        job.late = partial(too_late, "the item", seconds)
        running = list(job.flight)
        for chunk in running:
            offset, length, _ = self._backend.position(chunk) or (0, 0, 0.0)
            begun = offset + length if offset >= 0 else len(chunk.items)  # below 0, it is sending what it has done
            for first, end in chunk.left(0, len(chunk.items)):
                job.fail_late(chunk.start + first, chunk.items[first:end], begun - first)
            chunk.items = chunk.items[:0]  # as if all were taken back: what it reports is no news
            job.flight.discard(chunk)
        self._fail_waiting(job)
        self.stop_soon(running, now)

    def cancel_waiting(self, job: Job, now: float) -> None:
        """Cancel what of a job no worker has begun: each item by itself, or the job, if one that fails ends it."""
        if job.fail_fast or job.open_end:
            self.cancel(job, now, Failure(CancelledError(), own=True), kill=False)
            return
        job.late = lambda _: CancelledError()
        self.stop_soon(list(job.flight), now, kill=False)
        self._fail_waiting(job)

    def _fail_waiting(self, job: Job) -> None:
        for start, items in self.scheduler.delayed.take_all(job):
            job.fail_late(start, items)
        for piece in job.pending:
            job.fail_late(piece.start, piece.items)
        job.pending.clear()
        job.waiting = 0
        self.scheduler.add(job)  # which looks whether it has ended

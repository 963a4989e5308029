"""`deadline`: what of a batch has no outcome when its time is over has one at once, and what runs of it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from parmap._core.job import too_late
from parmap._core.ledger import Ledger
from parmap._travel.failure import Failure

if TYPE_CHECKING:
    from parmap._core.job import Job


class TimedLedger(Ledger):
    """A ledger that ends whole jobs in time."""

    def limit(self, job: Job, seconds: float, now: float) -> None:
        """Give a job so many seconds."""
        known = ref(job)  # it may have ended long before

        def ring(now: float) -> None:
            late = known()
            if late is not None and not late.closed:
                self._expire(late, seconds, now)

        self._at(now + seconds, ring)

    def _expire(self, job: Job, seconds: float, now: float) -> None:
        if job.fail_fast:
            self.cancel(job, now, Failure(too_late("all of it", seconds)))
            return
        job.late = seconds
        running = list(job.flight)
        for chunk in running:
            place = self._backend.position(chunk)
            job.fail_late(chunk.start, chunk.items, seconds, place[0] + place[1] if place else 0)
            chunk.items, chunk.stop = chunk.items[:0], 0  # as if all were taken back: what it reports is no news
            job.flight.discard(chunk)
        for start, items in self.scheduler.take_delayed(job):
            job.fail_late(start, items, seconds)
        for piece in job.pending:
            job.fail_late(piece.start, piece.items, seconds)
        job.pending.clear()
        job.waiting = 0
        self.scheduler.add(job)  # which looks whether it has ended
        self.stop_soon(running, now)

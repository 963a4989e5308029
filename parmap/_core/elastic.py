"""Workers that somebody else keeps alive, as on a cluster: how many there may be now, and what is lost with a node."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from parmap._core.job import Job, Share, Sink
from parmap._core.limits import LimitedLedger
from parmap._core.schedule import SUSPECT
from parmap._core.states import State

if TYPE_CHECKING:
    from parmap._core.pace import Cost
    from parmap.backends._base import Lost, Part


class ElasticLedger(LimitedLedger):
    """A ledger whose workers come and go."""

    def employ(self, count: int, cost: Cost | None = None) -> None:
        """Have at most *count* workers from now on: those that are too many go, if they have nothing to do just now."""
        scheduler = self.scheduler
        scheduler.workers, scheduler.cost = count, cost or scheduler.cost
        if len(scheduler.slots) > count:
            for name in [*scheduler.vacancies.idle][: len(scheduler.slots) - count]:
                self._retire(name)

    def drop_all(self, error: BaseException, now: float) -> None:
        """Fail all that waits and runs with *error*, and end workers that start: nobody waits for their initializer."""
        self.end_all(error, now)
        for name, slot in self.scheduler.slots.items():
            if slot.rest is State.STARTING:
                self._backend.stop(name)

    def lost(self, lost: Lost, now: float) -> None:
        """A chunk is lost, not its worker."""
        chunk = self._chunks.get(lost.number)
        if chunk is None:
            return
        if not len(chunk.items):  # nobody wants them any more
            self.scheduler.put_back(chunk)
        else:
            position = (0, min(lost.length, len(chunk.items))) if lost.length else None
            if lost.given_up:
                chunk.strikes = max(chunk.strikes, SUSPECT - 1)
            self.stop_soon(self.scheduler.died(chunk, position, lost.explain(chunk, 0), now), now)
        del self._chunks[chunk.number]

    def part(self, part: Part, now: float) -> None:
        """Some items of a chunk have ended, or were given back. What is told twice counts once."""
        chunk = self._chunks.get(part.number)
        if chunk is None or chunk.job.closed:
            return
        times = part.times
        for first, end in chunk.left(part.start, min(part.start + part.length, len(chunk.items))):
            if not part.has_run:
                chunk.put_back(first, end)
                chunk.gone = (*chunk.gone, (first, end))
                self.scheduler.add(chunk.job)
                continue
            before = first - part.start
            results = Share(part.results, range(before, part.length)) if before and part.results else part.results
            failures = {at - before: each for at, each in part.failures.items() if 0 <= at - before < end - first}
            seconds = part.seconds * (end - first) / part.length
            if chunk.passage is not None:
                chunk.passage.part(end - first, len(failures), getattr(results, "nbytes", 0), times)
                times = None
            chunk.gone = (*chunk.gone, (first, end))
            ended = chunk.part(first, end)
            self.stop_soon(self.scheduler.finished(ended, end - first, results, failures, seconds, now), now)

    def sink_of(self, number: int) -> Sink | None:
        """Where the outcomes of a chunk in flight go."""
        chunk = self._chunks.get(number)
        return None if chunk is None else chunk.job.sink

    def give_back(self, job: Job, now: float) -> list[tuple[int, int]]:
        """Have done with the items of *job* that no worker has: the first of each run of them, and how many it has.

        Those that wait behind a slow one are taken from its worker, for the next time.
        """
        longest = 2 * self.scheduler.cost.aim
        for chunk in list(job.flight):
            if len(chunk.items) > 1 and not (chunk.recalled or chunk.doomed) and now > chunk.sent + longest:
                self._rescue(chunk, now)
        kept = [piece for piece in job.pending if piece.careful or piece.strikes]  # somebody has to find the culprit
        given = [(piece.start, len(piece)) for piece in job.pending if piece not in kept and len(piece)]
        job.pending = deque(kept)
        job.waiting -= sum(count for _, count in given)
        if given:
            self.scheduler.add(job)  # which looks whether it has ended
        return given

"""What changes from outside, where somebody else keeps the workers alive: how many there may be, and what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parmap._core.limits import LimitedLedger
from parmap._core.states import FREE

if TYPE_CHECKING:
    from parmap._core.job import Job, Sink
    from parmap._core.pace import Cost
    from parmap.backends.base import Lost


class ElasticLedger(LimitedLedger):
    """A ledger whose workers come and go."""

    def employ(self, count: int, cost: Cost | None = None) -> None:
        """Have at most *count* workers from now on: those that are too many go when they have nothing to do."""
        scheduler = self.scheduler
        scheduler.workers, scheduler.cost = count, cost or scheduler.cost
        if len(scheduler.slots) > count:
            idle = [name for name, slot in scheduler.slots.items() if slot.state in FREE]
            for name in idle[: len(scheduler.slots) - count]:
                scheduler.remove_slot(name)
                self._backend.retire(name)

    def lost(self, lost: Lost, now: float) -> None:
        """A chunk is lost, not its worker."""
        chunk = self._chunks.pop(lost.number, None)
        if chunk is not None and len(chunk.items):
            position = (0, min(lost.length, len(chunk.items))) if lost.length else None
            self.stop_soon(self.scheduler.died(chunk, position, lost.explain(chunk, 0), now), now)

    def sink_of(self, number: int) -> Sink | None:
        """Where the outcomes of a chunk in flight go."""
        chunk = self._chunks.get(number)
        return None if chunk is None else chunk.job.sink

    def give_back(self, job: Job) -> None:
        """End *job* before the items that no worker has, unless something before them is to be run again."""
        if job.pending and job.waiting == job.read - job.pending[0].start:
            job.pending.clear()
            job.waiting = 0
            self.scheduler.add(job)  # which looks whether it has ended

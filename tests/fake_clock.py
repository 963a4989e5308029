"""A scheduler driven by hand: to look at its times without waiting for them."""

from __future__ import annotations

from typing import Any

from fake_backend import COST, Recorder

from parmap._core.job import Job
from parmap._core.schedule import Scheduler
from parmap._travel.failure import Failure


class Clock:
    """One item that fails again and again, on one worker."""

    def __init__(self, **options: Any) -> None:
        """Start a job with these *options*."""
        self.now = 1000.0
        self._scheduler = Scheduler(1, COST)
        self._scheduler.add_slot("worker")
        job = Job(None, Recorder(), **options)
        job.extend([0])
        self._scheduler.add(job)

    def delay_after_failure(self) -> float:
        """Let the item fail; returns after how many seconds the scheduler wants to try again."""
        chunk = self._scheduler.next(self.now)
        assert chunk is not None
        self._scheduler.finished(chunk, 1, None, {0: Failure(OSError(), retry=True)}, 0.001, self.now)
        when = self._scheduler.next_time()
        assert when is not None
        assert self._scheduler.next((self.now + when) / 2) is None
        delay, self.now = when - self.now, when
        return delay
